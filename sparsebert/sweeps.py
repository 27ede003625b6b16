"""Many runs: those in the store are found again, the others trained, side by side where that is faster."""

from __future__ import annotations

import os
import shutil
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context, parent_process
from pathlib import Path

import torch

from sparsebert.finetune import finetune, input_hash
from sparsebert.runs import RunConfig, RunRecord, RunStore


def run(
    config: RunConfig,
    store: RunStore | None = None,
    data_dir: str | Path | None = None,
    progress_seconds: float = 15,
    save_to: Path | None = None,
) -> tuple[RunRecord, bool]:
    """The record of a config, found in the store or trained now, and whether it was found.

    With `save_to` it is trained in any case, and the model is saved there.
    """
    store = store or RunStore()
    data_hash = input_hash(config, data_dir)
    record = store.find(config, data_hash)
    if record and not save_to:
        return record, True
    scratch = store.scratch(config, data_hash)
    record = finetune(config, data_dir, scratch, progress_seconds=progress_seconds, save_to=save_to)
    store.add(record)
    shutil.rmtree(scratch, ignore_errors=True)
    return record, False


def run_all(
    configs: Sequence[RunConfig],
    store: RunStore | None = None,
    data_dir: str | Path | None = None,
    workers: int | None = None,
) -> list[RunRecord]:
    """The records of all configs, in their order, with a line of progress on stderr for each run.

    `workers` processes share the processor's cores (default: `default_workers()`). Each run is recorded
    when it is finished, so that an interrupted call continues where it stopped. The first run that fails
    stops the call.
    """
    store = store or RunStore()
    records: dict[RunConfig, RunRecord] = {}
    for config in configs:
        if record := store.find(config, input_hash(config, data_dir)):
            records[config] = record
    missing = list(dict.fromkeys(config for config in configs if config not in records))
    if records:
        _say(f"  {len(records)} of {len(set(configs))} runs found in {store.folder.name}/")
    started = time.perf_counter()
    for done, (config, record) in enumerate(
        _trained(missing, store, data_dir, workers or default_workers()), 1
    ):
        records[config] = record
        left = (time.perf_counter() - started) / done * (len(missing) - done)
        _say(f"  [{done}/{len(missing)}] {describe(record)} ({left:.0f} s left)")
    return [records[config] for config in configs]


def default_workers() -> int:
    """One process for a GPU; on a processor up to four, since small models use several cores badly."""
    return 1 if torch.cuda.is_available() else min(4, os.cpu_count() or 1)


def describe(record: RunRecord) -> str:
    """One line for a person: what ran and what came out."""
    config = record.config
    metric, value = next(iter(record.metrics.items()))
    how = config.degrees
    learned = f" by {how.method} per {how.sharing}, {how.harden}" if how else ""
    asked = f"{config.task} · {config.plan}{learned} · seed {config.seed}"
    return f"{asked}: {metric} {value:.3f}, density {record.density:.3f}"


def _trained(
    configs: list[RunConfig], store: RunStore, data_dir: str | Path | None, workers: int
) -> Iterator[tuple[RunConfig, RunRecord]]:
    """Each config with its record, in the order in which runs finish."""
    workers = min(workers, len(configs))
    if workers <= 1:
        yield from ((config, run(config, store, data_dir)[0]) for config in configs)
        return
    threads = max(1, (os.cpu_count() or 1) // workers)
    # Processes are spawned, not forked: torch's threads do not survive a fork.
    pool = ProcessPoolExecutor(workers, get_context("spawn"), _start_worker, (threads,))
    try:
        running = {pool.submit(run, config, store, data_dir, 0): config for config in configs}
        for future in as_completed(running):
            yield running[future], future.result()[0]
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _start_worker(threads: int) -> None:
    torch.set_num_threads(threads)
    threading.Thread(target=_leave_with_parent, daemon=True).start()


def _leave_with_parent() -> None:
    """End this worker when the process that started it is gone, however that one ended."""
    parent_process().join()
    os._exit(1)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
