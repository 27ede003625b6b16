"""Many runs: those in the store are found again, the others trained, side by side where that is faster."""

from __future__ import annotations

import fcntl
import json
import re
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, CancelledError, Executor, Future, wait
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from sparsebert.data.tasks import get_task
from sparsebert.data.tasks.prepared import PreparedTask
from sparsebert.data.tokenizing import tokenizer_hash
from sparsebert.degrees import attach_degrees
from sparsebert.errors import InputError
from sparsebert.machine import device_name, resolve_precision
from sparsebert.models.encoders import fitting_length, load_classifier, load_tokenizer
from sparsebert.models.sparsified import sparsify
from sparsebert.paths import write_whole
from sparsebert.patterns.plans import parse_plan
from sparsebert.sweeps.estimates import Estimates, Forecast, in_words
from sparsebert.sweeps.executors import (
    ClusterGone,
    DaskExecutor,
    InlineExecutor,
    ProcessesExecutor,
    default_workers,
    open_executor,
)
from sparsebert.training.finetuning import finetune, input_hash, processes
from sparsebert.training.runs import RunConfig, RunRecord, RunStore
from sparsebert.training.saving import check_free

__all__ = [
    "Forecast",
    "Sweep",
    "check_runs",
    "default_workers",
    "describe",
    "find_or_train",
    "forecast",
    "run_all",
    "sweep",
]

_LOOK_AGAIN = 5.0  # seconds after which a cluster may have grown


def find_or_train(
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
    store.check_writable()
    if save_to:
        check_free(save_to, config)
    together, scratch = processes(), store.scratch(config, data_hash)
    # Processes that make one run share its checkpoints; of others each takes its own.
    own = nullcontext(scratch) if together.num_processes > 1 else _checkpoints(scratch)
    with own as folder:
        record = finetune(config, data_dir, folder, progress_seconds=progress_seconds, save_to=save_to)
        if together.is_main_process:
            store.add(record)
            if together.num_processes > 1:
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
    hashes = {config: input_hash(config, data_dir) for config in configs}
    records = {config: record for config in hashes if (record := store.find(config, hashes[config]))}
    missing = {config: hashes[config] for config in hashes if config not in records}
    if missing:
        store.check_writable()
    if records:
        _say(f"  {len(records)} of {len(hashes)} runs found in {store.folder.name}/")
    workers = min(workers or default_workers(), len(missing))
    started = time.perf_counter()
    with open_executor("processes", workers) if workers > 1 else open_executor() as executor:
        for done, (config, future) in enumerate(_outcomes(missing, store, data_dir, executor), 1):
            records[config] = future.result()
            left = (time.perf_counter() - started) / done * (len(missing) - done)
            _say(f"  [{done}/{len(missing)}] {describe(records[config])} ({left:.0f} s left)")
    return [records[config] for config in configs]


@dataclass
class Sweep:
    """What became of the runs of a grid."""

    found: list[RunConfig] = field(default_factory=list)
    trained: list[RunConfig] = field(default_factory=list)
    failed: dict[RunConfig, str] = field(default_factory=dict)
    left: list[RunConfig] = field(default_factory=list)
    cut_off: bool = False  # the cluster was gone before the runs that are left

    def as_dict(self) -> dict[str, Any]:
        """Names of the runs, and the reasons of those that failed."""
        names = {kind: [c.name for c in getattr(self, kind)] for kind in ("found", "trained", "left")}
        return names | {"failed": {config.name: reason for config, reason in self.failed.items()}}

    def __str__(self) -> str:
        counts = {kind: len(getattr(self, kind)) for kind in ("found", "trained", "failed", "left")}
        lines = [
            f"{sum(counts.values())} runs: "
            + ", ".join(f"{number} {kind}" for kind, number in counts.items())
        ]
        lines += [f"failed: {_asked(config)} ({config.name}): {why}" for config, why in self.failed.items()]
        if self.cut_off:
            lines.append("the cluster no longer answers; the same command goes on with those left")
        elif self.left:
            lines.append("the time was not enough for those left; the same command goes on with them")
        return "\n".join(lines)


def sweep(
    configs: Sequence[RunConfig],
    store: RunStore | None = None,
    data_dir: str | Path | None = None,
    executor: Executor | None = None,
    budget: float | None = None,
) -> Sweep:
    """Train the runs that the store lacks, with a line of progress and the time left on stderr for each.

    All runs are checked before the first one starts (`check_runs`). A run that fails does not stop the rest:
    its reason is kept in `failed/<name>.json` beside the records until it succeeds. With a `budget` in
    seconds no run is started that is expected to end after it; those that were started end. If the cluster
    is gone, what is not recorded is left. A record is written here, not by the worker that trained it, so a
    worker needs no folder in common with this process.
    """
    store, executor = store or RunStore(), executor or InlineExecutor()
    started = time.monotonic()
    hashes = check_runs(configs, data_dir)
    result = Sweep()
    for config, data_hash in hashes.items():
        (result.found if store.find(config, data_hash) else result.left).append(config)
    if result.left:
        store.check_writable()
    estimates = _estimates(store, executor, data_dir)
    count = len(result.left)
    if result.found:
        _say(f"  {len(result.found)} of {len(hashes)} runs found in {store.folder.name}/")

    def in_time(config: RunConfig, running: int) -> bool:
        if budget is None:
            return True
        turns = 1 + running // executor.workers  # it waits for those that are running
        return time.monotonic() - started + turns * (estimates.seconds(config) or 0) < budget

    missing = {config: hashes[config] for config in result.left}
    try:
        for config, future in _outcomes(missing, store, data_dir, executor, in_time):
            result.left.remove(config)
            place = f"  [{count - len(result.left)}/{count}]"
            if error := future.exception():
                result.failed[config] = _keep_failure(store, config, error)
                _say(f"{place} {_asked(config)} failed: {result.failed[config]}")
                continue
            record = future.result()
            result.trained.append(config)
            estimates.add(record)
            left = in_words(estimates.total(result.left, executor.workers))
            _say(f"{place} {describe(record)} ({left} left)")
    except ClusterGone:
        result.cut_off = True
    return result


def forecast(
    configs: Sequence[RunConfig],
    store: RunStore | None = None,
    data_dir: str | Path | None = None,
    executor: Executor | None = None,
) -> Forecast:
    """Check the runs as `sweep` does, and say what it would train and how long that takes."""
    store, executor = store or RunStore(), executor or InlineExecutor()
    hashes = check_runs(configs, data_dir)
    estimates = _estimates(store, executor, data_dir)
    missing = [config for config in hashes if not store.find(config, hashes[config])]
    records = [record for config in missing for record in estimates.comparable(config)]
    return Forecast(
        configs=list(hashes),
        seconds={config: estimates.seconds(config) for config in missing},
        total=estimates.total(missing, executor.workers),
        workers=executor.workers,
        devices=sorted({record.device for record in records}),
    )


def _estimates(store: RunStore, executor: Executor, data_dir: str | Path | None) -> Estimates:
    """Estimates from the store's records; on a cluster, whose devices are not known, from all of them."""
    device = None if isinstance(executor, DaskExecutor) else device_name()
    if isinstance(executor, ProcessesExecutor):
        device = re.sub(r"\d+ threads", f"{executor.threads} threads", device)
    return Estimates(store, device, data_dir)


def check_runs(configs: Sequence[RunConfig], data_dir: str | Path | None = None) -> dict[RunConfig, str]:
    """The hash of what each run reads. Nothing is trained.

    Raises `InputError`, with the run that it is about, for a task, an encoder or a file that does not exist,
    a plan that does not fit the encoder or the degrees, and a precision that this device lacks.
    """
    model = cache(lambda encoder: load_classifier(encoder, ["any"]))
    tokenizer = cache(lambda encoder: tokenizer_hash(load_tokenizer(encoder)))

    @cache
    def check(encoder: str, plan: str, degrees: object, precision: str, kernel: str) -> None:
        resolve_precision(precision)
        parsed = parse_plan(plan)
        learner = attach_degrees(model(encoder), parsed, degrees)
        sparsify(model(encoder), parsed, learner, kernel).undo()

    hashes = {}
    for config in configs:
        try:
            hashes[config] = input_hash(config, data_dir)
            task = get_task(config.task, data_dir)
            if isinstance(task, PreparedTask):
                parsed = "word_ids" in parse_plan(config.plan).needs
                length = fitting_length(config.max_length, task.max_length, model(config.encoder))
                task.check(config.train_size, config.eval_size, parsed, length, tokenizer(config.encoder))
            check(config.encoder, config.plan, config.degrees, config.precision, config.kernel)
        except InputError as error:
            raise InputError(f"run '{_asked(config)}': {error}") from None
    return hashes


def describe(record: RunRecord) -> str:
    """One line for a person: what ran and what came out."""
    metric, value = next(iter(record.metrics.items()))
    return f"{_asked(record.config)}: {metric} {value:.3f}, density {record.density:.3f}"


def _asked(config: RunConfig) -> str:
    how = config.degrees
    learned = f" by {how.method} per {how.sharing}, {how.harden}" if how else ""
    kernel = "" if config.kernel == "auto" else f" by kernel {config.kernel}"
    return f"{config.task} · {config.plan}{learned}{kernel} · seed {config.seed}"


def _outcomes(
    hashes: dict[RunConfig, str],
    store: RunStore,
    data_dir: str | Path | None,
    executor: Executor,
    in_time: Callable[[RunConfig, int], bool] = lambda config, running: True,
) -> Iterator[tuple[RunConfig, Future]]:
    """Each run with the future of its `RunRecord`, which is in the store by then, as they are finished.

    A run that another process works on is left to it, and looked for again later.
    """
    progress = 15 if isinstance(executor, InlineExecutor) else 0
    waiting, running = dict(hashes), {}
    while True:
        elsewhere = False
        for config in list(waiting):
            if len(running) >= executor.room:
                break
            if not in_time(config, len(running)):
                continue
            scratch = store.scratch(config, waiting[config]).absolute()
            if record := store.find(config, waiting[config]):  # another sweep was faster
                del waiting[config]
                yield config, _done(record)
            elif _in_use(scratch):
                elsewhere = True
            else:
                call = (config.model_dump_json(), data_dir, scratch, waiting.pop(config), progress)
                running[executor.submit(train, *call)] = config
        if not running and not elsewhere:
            return
        if not running:
            time.sleep(_LOOK_AGAIN)
        for future in wait(running, _LOOK_AGAIN, FIRST_COMPLETED).done:
            config = running.pop(future)
            if not future.cancelled() and isinstance(future.exception(), RunInUse):
                waiting[config] = hashes[config]
            else:
                yield config, _stored(future, store)


def _stored(future: Future, store: RunStore) -> Future:
    """A future of the record whose JSON a worker sent.

    Raises `ClusterGone` for a run that nobody works on any more, and `InputError` if the record can't be
    written, with the place where it was put instead.
    """
    try:
        record = RunRecord.model_validate_json(future.result())
    except CancelledError:
        raise ClusterGone from None
    except Exception as error:
        failed: Future = Future()
        failed.set_exception(error)
        return failed
    try:
        store.add(record)
    except OSError as error:
        spare = RunStore(tempfile.mkdtemp(prefix="sparsebert-runs-")).add(record)
        raise InputError(
            f"the record of a finished run can't be written to '{store.folder}' ({error.strerror}); it is in "
            f"'{spare}': copy it there when that is mended, and the same command goes on"
        ) from None
    return _done(record)


def _done(record: RunRecord) -> Future:
    future: Future = Future()
    future.set_result(record)
    return future


def train(
    config: str, data_dir: str | Path | None, scratch: Path, data_hash: str, progress_seconds: float
) -> str:
    """Train one run of a sweep, wherever this is called: JSON of the config in, JSON of the record out.

    Checkpoints are kept in `scratch`, or in a temporary folder where it can't be written. Raises `RunInUse`
    if another process works on the run, and `InputError` if the data found here is not that of `data_hash`.
    """
    config = RunConfig.model_validate_json(config)
    if input_hash(config, data_dir) != data_hash:
        raise InputError("the worker has other data than the process that asked for this run")
    with _checkpoints(scratch, alone=True) as folder:
        return finetune(config, data_dir, folder, progress_seconds=progress_seconds).model_dump_json()


class RunInUse(RuntimeError):
    """Another process works on this run."""


def _in_use(scratch: Path) -> bool:
    """Whether a process holds the checkpoints of a run."""
    try:
        with open(scratch / "lock", "r+") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # nobody has begun with it, or it can't be told here
        return False
    return False


@contextmanager
def _checkpoints(folder: Path, alone: bool = False) -> Iterator[Path]:
    """The folder of a run's checkpoints, for one process at a time; removed when the run is finished.

    Where it can't be had it is a temporary folder, or else, with `alone`, `RunInUse` if a process holds it.
    """
    with ExitStack() as stack:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock = stack.enter_context(open(folder / "lock", "w"))
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if alone and isinstance(error, BlockingIOError):
                raise RunInUse from None
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        yield folder
        shutil.rmtree(folder, ignore_errors=True)


def _keep_failure(store: RunStore, config: RunConfig, error: BaseException) -> str:
    """Write down why a run failed; returns the reason in one line."""
    text = str(error).strip()
    reason = text if isinstance(error, InputError) else f"{type(error).__name__}: {text}"
    path = store.failure(config.name)
    entry = {
        "name": config.name,
        "config": config.model_dump(),
        "reason": reason,
        "traceback": "".join(traceback.format_exception(error)),
        "failed": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    with suppress(OSError):  # the reason is told in any case
        write_whole(path, json.dumps(entry, indent=1) + "\n")
    return reason.splitlines()[0]


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
