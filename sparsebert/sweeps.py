"""Many runs, one after the other: those that the store has are found again, the others trained and recorded."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from sparsebert.finetune import finetune
from sparsebert.runs import RunConfig, RunRecord, RunStore
from sparsebert.tasks import get_task


def run(
    config: RunConfig, store: RunStore | None = None, data_dir: str | Path | None = None
) -> tuple[RunRecord, bool]:
    """The record of a config, found in the store or trained now, and whether it was found."""
    store = store or RunStore()
    if record := store.find(config, get_task(config.task, data_dir).data_hash):
        return record, True
    record = finetune(config, data_dir, scratch=store.scratch(config))
    store.add(record)
    shutil.rmtree(store.scratch(config), ignore_errors=True)
    return record, False


def run_all(
    configs: Sequence[RunConfig], store: RunStore | None = None, data_dir: str | Path | None = None
) -> list[RunRecord]:
    """The records of all configs, in their order, with a line of progress on stderr for each run."""
    store = store or RunStore()
    records, trained, spent = [], 0, 0.0
    for done, config in enumerate(configs, 1):
        started = time.perf_counter()
        record, found = run(config, store, data_dir)
        records.append(record)
        if not found:
            trained, spent = trained + 1, spent + time.perf_counter() - started
        left = f", at most {spent / trained * (len(configs) - done):.0f} s left" if trained and done < len(configs) else ""
        how = "found" if found else f"{time.perf_counter() - started:.1f} s"
        print(f"  [{done}/{len(configs)}] {describe(record)} ({how}{left})", file=sys.stderr, flush=True)
    return records


def describe(record: RunRecord) -> str:
    """One line for a person: what ran and what came out."""
    config = record.config
    metric, value = next(iter(record.metrics.items()))
    return f"{config.task} · {config.plan} · seed {config.seed}: {metric} {value:.3f}, density {record.density:.3f}"
