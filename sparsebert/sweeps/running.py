"""Many runs: those in the store are found again, the others trained, side by side where that is faster."""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, CancelledError, Executor, Future, wait
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache, partial
from math import inf
from pathlib import Path
from typing import Any

from sparsebert.data.tasks import get_task
from sparsebert.data.tasks.prepared import PreparedTask
from sparsebert.data.tokenizing import tokenizer_hash
from sparsebert.errors import InputError, about, first_line, say
from sparsebert.machine import resolve_precision
from sparsebert.models.encoders import load_classifier, load_tokenizer
from sparsebert.models.sparsified import sparsify
from sparsebert.paths import Folders, InUse, fresh_runs, write_whole
from sparsebert.patterns.plans import Plan
from sparsebert.reductions import attach_reduction
from sparsebert.registry import external_components, load_components
from sparsebert.study.results import counted, recorded
from sparsebert.sweeps import unfinished
from sparsebert.sweeps.estimates import Estimates, Forecast, in_words
from sparsebert.sweeps.executors import ClusterGone, InlineExecutor, default_workers, open_executor
from sparsebert.training.finetuning import finetune, processes
from sparsebert.training.resolved import Run, attach_learner
from sparsebert.training.runs import RunConfig, RunRecord, RunStore
from sparsebert.training.saving import check_free

_ATTACHED = ("encoder", "plan", "precision", "kernel", "layers", "reduce", "degrees")  # what computes
_LOOK_AGAIN = 5.0  # seconds after which a cluster may have grown, or another process may be done


def find_or_train(
    config: RunConfig,
    store: RunStore | None = None,
    folders: Folders | None = None,
    save_to: Path | None = None,
) -> tuple[RunRecord, bool]:
    """The record of a config, found in the store or trained now, and whether it was found.

    With `save_to` it is trained in any case, and the model is saved there. A run that another process works
    on is waited for.
    """
    store, run = store or RunStore(), Run.of(config, folders)
    record = store.find(config, run.data_hash)
    if record and not save_to:
        return record, True
    store.check_writable()
    if save_to:
        check_free(save_to, config)
    scratch = store.scratch(config, run.data_hash).absolute()
    how = {"save_to": save_to, "recorded": partial(unfinished.keep, store=store, scratch=scratch)}
    if processes().num_processes > 1:  # which share the run and its checkpoints
        return finetune(run, scratch, **how), False
    with unfinished.claim(scratch, wait=True):
        if not save_to and (record := _find(run, store)):
            return record, True
        with unfinished.checkpoints(scratch) as folder:
            return finetune(run, folder, **how), False


def run_all(
    configs: Sequence[RunConfig],
    store: RunStore | None = None,
    folders: Folders | None = None,
    workers: int | None = None,
) -> list[RunRecord]:
    """The records of all configs, in their order, with a line of progress on stderr for each run.

    A run is found in the store, or else among those that are recorded with the book (but not where
    SPARSEBERT_FRESH is set), if it was made from the same data. Before anything is trained a line says how
    many are recorded, how many will train, and for about how long.

    `workers` processes share the processor's cores (default: `default_workers()`). Each run is recorded
    when it is finished, so that an interrupted call continues where it stopped. The first run that fails
    stops the call. Raises `InputError` as `check_runs` does, before anything is trained.
    Chapter 02 explains it.
    """
    store = store or RunStore()
    runs = _resolved(configs, folders)
    records = _on_record(runs, store)
    missing = _check([run for run in runs if run.config not in records])
    workers = min(workers or default_workers(), len(missing))
    with open_executor("processes", workers) if workers > 1 else open_executor() as executor:
        for run, outcome, _ in _told(len(runs), missing, store, folders, executor, inf):
            if isinstance(outcome, Exception):
                raise outcome
            records[run.config] = outcome
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
        parts = ", ".join(f"{number} {kind}" for kind, number in counts.items())
        lines = [f"{sum(counts.values())} runs: {parts}"]
        lines += [f"failed: {_asked(config)} ({config.name}): {why}" for config, why in self.failed.items()]
        if self.cut_off:
            lines.append("the cluster no longer answers; the same command goes on with those left")
        elif self.left:
            lines.append("the time was not enough for those left; the same command goes on with them")
        return "\n".join(lines)


def sweep(
    configs: Sequence[RunConfig],
    store: RunStore | None = None,
    folders: Folders | None = None,
    executor: Executor | None = None,
    budget: float | None = None,
) -> Sweep:
    """Train the runs that are not on record, with a line of progress and the time left on stderr for each.

    All runs are checked before the first one starts (`check_runs`). A run that fails does not stop the rest:
    its reason is kept in `failed/<name>.json` beside the records until it succeeds. With a `budget` in
    seconds no run is started that is expected to end after it; those that were started end. If the cluster
    is gone, what is not recorded is left. A record is written here, not by the worker that trained it, so a
    worker needs no folder in common with this process. What another process trains meanwhile counts as found.
    """
    store, executor = store or RunStore(), executor or InlineExecutor()
    until = inf if budget is None else time.monotonic() + budget
    runs = check_runs(configs, folders)
    there = _on_record(runs, store)
    missing = [run for run in runs if run.config not in there]
    result = Sweep(list(there), left=[run.config for run in missing])
    try:
        for run, outcome, found in _told(len(runs), missing, store, folders, executor, until):
            result.left.remove(run.config)
            if isinstance(outcome, Exception):
                result.failed[run.config] = _keep_failure(store, run.config, outcome)
            else:
                (result.found if found else result.trained).append(run.config)
    except ClusterGone:
        result.cut_off = True
    return result


def forecast(
    configs: Sequence[RunConfig],
    store: RunStore | None = None,
    folders: Folders | None = None,
    executor: Executor | None = None,
) -> Forecast:
    """Check the runs as `sweep` does, and say what it would train and how long that takes."""
    store, executor = store or RunStore(), executor or InlineExecutor()
    runs = check_runs(configs, folders)
    there = _on_record(runs, store)
    missing = [run.config for run in runs if run.config not in there]
    estimates = _estimates(missing, store, executor, folders)
    records = [record for config in missing for record in estimates.comparable(config)]
    return Forecast(
        configs=[run.config for run in runs],
        seconds={config: estimates.seconds(config) for config in missing},
        total=estimates.total(missing, executor.workers),
        workers=executor.workers,
        devices=sorted({record.device for record in records}),
    )


def _on_record(runs: Iterable[Run], store: RunStore) -> dict[RunConfig, RunRecord]:
    """Records of those runs in the store or, unless they are to be made anew, with the book."""
    book = {} if fresh_runs() else {(record.name, record.data_hash): record for record in recorded()}
    found = {}
    for run in runs:
        config, data_hash = run.config, run.data_hash
        if record := store.find(config, data_hash):
            found[config] = record
        elif record := book.get((config.name, data_hash)):
            found[config] = record.labelled(config)
    return found


def _told(
    count: int, missing: list[Run], store: RunStore, folders: Folders | None, executor: Executor, until: float
) -> Iterator[tuple[Run, RunRecord | Exception, bool]]:
    """The outcomes of the runs that the store lacks of `count`; stderr tells how far they are.

    No run is started that is expected to end after the time `until`.
    """
    left = [run.config for run in missing]
    if missing:
        store.check_writable()
    estimates = _estimates(left, store, executor, folders)
    seconds = estimates.total(left, executor.workers)
    about = "which no record tells the time of" if seconds is None else f"about {in_words(seconds)}"
    to_train = f"{len(missing)} to train, {about}" if missing else "none to train"
    say(f"  {counted(count)}: {count - len(missing)} recorded, {to_train}")

    def in_time(run: Run, running: int) -> bool:
        turns = 1 + running // executor.workers  # it waits for those that are running
        return time.monotonic() + turns * (estimates.seconds(run.config) or 0) < until

    for run, outcome, found in _outcomes(missing, store, executor, in_time):
        left.remove(run.config)
        if isinstance(outcome, Exception):
            said = f"{_asked(run.config)} failed: {first_line(outcome)}"
        else:
            estimates.add(outcome)
            time_left = in_words(estimates.total(left, executor.workers))
            said = f"{describe(outcome)} ({'found, ' if found else ''}{time_left} left)"
        say(f"  [{len(missing) - len(left)}/{len(missing)}] {said}")
        yield run, outcome, found


def _estimates(
    missing: list[RunConfig], store: RunStore, executor: Executor, folders: Folders | None
) -> Estimates:
    """Estimates from the store's records, or if nothing of this kind was made here, from those with the book.

    On a cluster, whose devices are not known, they are made from records of all devices.
    """
    own = Estimates(store, executor.device, folders)
    return own if own.total(missing) is not None else Estimates(recorded(), None, folders)


def check_runs(configs: Sequence[RunConfig], folders: Folders | None = None) -> list[Run]:
    """The runs of these configs, each once. Nothing is trained.

    Raises `InputError`, with the run that it is about, for a task, an encoder or a file that does not exist,
    a plan that does not fit the encoder or the degrees, and a precision that this device lacks.
    """
    return _check(_resolved(configs, folders))


def _resolved(configs: Sequence[RunConfig], folders: Folders | None) -> list[Run]:
    folders = folders or Folders.named()
    task = cache(lambda name: get_task(name, folders))  # once for all of its runs
    runs = []
    for config in dict.fromkeys(configs):
        with about(f"run '{_asked(config)}'"):
            runs.append(Run.of(config, folders, task(config.task)))
    return runs


def _check(runs: list[Run]) -> list[Run]:
    model = cache(lambda encoder, layers=None: load_classifier(encoder, ["any"], layers=layers))
    tokenizer = cache(lambda encoder: tokenizer_hash(load_tokenizer(encoder)))
    no_matter = {name: its.default for name, its in RunConfig.model_fields.items() if name not in _ATTACHED}

    @cache
    def check(plan: Plan, config: RunConfig) -> None:
        resolve_precision(config.precision)
        fresh = model(config.encoder, config.layers)
        reduction = attach_reduction(fresh, config.reduce) if config.reduce else None
        learner = attach_learner(fresh, plan, config, tokens=1)  # for no text
        sparsify(fresh, plan, learner, config.kernel, reduction).undo()

    for run in runs:
        config = run.config
        with about(f"run '{_asked(config)}'"):
            if isinstance(run.task, PreparedTask):
                length = run.length(model(config.encoder, config.layers))
                run.task.check(run.needs(length, tokenizer(config.encoder)))
            check(run.plan, config.model_copy(update=no_matter))
    return runs


def describe(record: RunRecord) -> str:
    """One line for a person: what ran and what came out."""
    score = f"{record.metric} {record.metrics[record.metric]:.3f}"
    return f"{_asked(record.config)}: {score}, density {record.density:.3f}"


def _asked(config: RunConfig) -> str:
    how, layers = config.degrees, f" of {config.layers} layers" if config.layers else ""
    learned = f" by {how.method} per {how.sharing}, {how.harden}" if how else ""
    kernel = "" if config.kernel == "auto" else f" by kernel {config.kernel}"
    reduced = f" · {config.reduce}" if config.reduce else ""
    return f"{config.task} · {config.plan}{layers}{learned}{kernel}{reduced} · seed {config.seed}"


def _outcomes(
    runs: Iterable[Run],
    store: RunStore,
    executor: Executor,
    in_time: Callable[[Run, int], bool],
) -> Iterator[tuple[Run, RunRecord | Exception, bool]]:
    """Each run as it is finished: with its record, now in the store, or why it failed; and if it was found.

    A run is claimed before the store is looked at. One that another process claims is left to that one, and
    looked for again later. Raises `ClusterGone` for a run that nobody works on any more, and `InputError` as
    `unfinished.keep` does.
    """
    waiting, later = list(runs), dict[Run, float]()
    running: dict[Future, tuple[Run, ExitStack]] = {}
    with ExitStack() as all_claims:
        while True:
            elsewhere = False
            for run in list(waiting):
                if len(running) >= executor.capacity:
                    break
                if not in_time(run, len(running)):
                    continue
                if later.get(run, 0.0) > time.monotonic():
                    elsewhere = True
                    continue
                claim = ExitStack()
                try:
                    claim.enter_context(unfinished.claim(_scratch(run, store)))
                except InUse:
                    elsewhere = True
                    continue
                all_claims.enter_context(claim)
                waiting.remove(run)
                if record := _find(run, store):
                    claim.close()
                    yield run, record, True
                else:
                    running[_submit(run, store, executor)] = run, claim
            if not running and not elsewhere:
                return
            if not running:
                time.sleep(_LOOK_AGAIN)
            for future in wait(running, _LOOK_AGAIN, FIRST_COMPLETED).done:
                run, claim = running.pop(future)
                with claim:
                    try:
                        record = RunRecord.model_validate_json(future.result())
                    except CancelledError:
                        raise ClusterGone from None
                    except InUse:
                        waiting.append(run)
                        later[run] = time.monotonic() + _LOOK_AGAIN
                        continue
                    except Exception as error:
                        outcome: RunRecord | Exception = error
                    else:
                        outcome = unfinished.keep(record, store, _scratch(run, store))
                yield run, outcome, False


def _scratch(run: Run, store: RunStore) -> Path:
    return store.scratch(run.config, run.data_hash).absolute()


def _find(run: Run, store: RunStore) -> RunRecord | None:
    """The record of a run that is claimed: in the store, or else left by a worker whose client was gone."""
    if record := store.find(run.config, run.data_hash):
        return record
    scratch = _scratch(run, store)
    left = unfinished.left(scratch, run.config.name, run.data_hash)
    return left and unfinished.keep(left, store, scratch)


def _submit(run: Run, store: RunStore, executor: Executor) -> Future:
    inline = isinstance(executor, InlineExecutor)
    how = {"progress_seconds": 15} if inline else {"components": external_components()}
    config, scratch = run.config.model_dump_json(), _scratch(run, store)
    return executor.submit(train, config, run.folders, scratch, run.data_hash, **how)


def train(
    config: str,
    folders: Folders,
    scratch: Path,
    data_hash: str,
    progress_seconds: float = 0,
    components: Sequence[tuple[str | bytes, str]] = (),
) -> str:
    """Train one run of a sweep, wherever this is called: JSON of the config in, JSON of the record out.

    Checkpoints are kept in `scratch`, or in a temporary folder where it can't be written. When the run is
    finished its record takes their place there, for the case that nobody is left to take it. `components` are
    those that were registered outside of the package. Raises `InUse` if another process works on the run,
    and `InputError` if the data found here is not that of `data_hash`.
    """
    load_components(list(components))
    run = Run.of(RunConfig.model_validate_json(config), folders)
    if run.data_hash != data_hash:
        raise InputError("the worker has other data than the process that asked for this run")
    with unfinished.checkpoints(scratch, alone=True) as folder:
        record = finetune(run, folder, progress_seconds=progress_seconds)
        unfinished.leave(record, folder)
    return record.model_dump_json()


def _keep_failure(store: RunStore, config: RunConfig, error: BaseException) -> str:
    """Write down why a run failed; returns the reason in one line."""
    text = str(error).strip()
    reason = text if isinstance(error, InputError) else f"{type(error).__name__}: {text}"
    entry = {
        "name": config.name,
        "config": config.model_dump(),
        "reason": reason,
        "traceback": "".join(traceback.format_exception(error)),
        "failed": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    with suppress(OSError):  # the reason is told in any case
        write_whole(store.failure(config.name), json.dumps(entry, indent=1) + "\n")
    return reason.splitlines()[0]
