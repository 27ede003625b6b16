"""From a request to an `Advice`: look at the data, search, promise, measure what is saved."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from sparsebert.advise import savings
from sparsebert.advise.asking import DENSE, Candidate, Log, Request
from sparsebert.advise.halving import PART, judged, record_of
from sparsebert.advise.looking import Finding, check, look
from sparsebert.advise.losses import gain
from sparsebert.advise.promising import LEAST_SEEDS, Promise, in_order
from sparsebert.advise.searching import MODELS, Runner, Search, trainer
from sparsebert.data.tasks import get_task
from sparsebert.errors import InputError
from sparsebert.paths import Folders, check_writable
from sparsebert.reading import path_of
from sparsebert.study.intervals import LEVEL, Mean
from sparsebert.training.runs import RunConfig, RunRecord, RunStore

Measure = Callable[..., pd.DataFrame]


@dataclass(frozen=True)
class Advice:
    """All that a report says, from the log of a search and the records of its runs (`Advice.of`).

    `gained` is what dense attention has beyond an answer that is always the same, in points. `curve` has a
    row per plan and rung: `lost` in points with `low` and `high` (90 %), `density`, `rung`, `seeds`, `rows`
    (of training). `promises` stand in the order of their tests, `recommended` is the run to use (None if
    nothing was trained), and `why` says how sure that is. `savings` is empty if nothing was measured.
    """

    request: Request
    findings: list[Finding]
    baseline: RunRecord | None
    gained: Mean | None
    curve: pd.DataFrame
    promises: list[Promise]
    recommended: RunConfig | None
    why: str
    savings: pd.DataFrame
    spent: float

    @classmethod
    def of(cls, log: Log, records: Iterable[RunRecord]) -> Advice:
        """The advice that a search ends in; nothing is trained or measured.

        Raises `InputError` if the record of one of its runs is missing.
        """
        named = {record.name: record for record in records}
        if missing := set(log.runs) - named.keys():
            raise InputError(f"the record of run {min(missing)} is missing, so this search can't be shown")
        named = {name: named[name] for name in log.runs}
        baseline = record_of(log, named, log.rung("baseline"), DENSE)
        plans = {str(candidate): own for candidate, own in _final(log, named).items()}
        dense = plans.pop(str(DENSE), [])
        promises = in_order(dense, plans, log.request.max_loss) if dense else []
        held = [promise for promise in promises if promise.held]
        chosen = plans[held[-1].plan][0] if held else baseline
        return cls(
            request=log.request,
            findings=log.findings,
            baseline=baseline,
            gained=baseline and gain(baseline, PART),
            curve=_curve(log, named, promises),
            promises=promises,
            recommended=chosen and chosen.config,
            why=_why(log, promises),
            savings=pd.DataFrame(log.savings or []),
            spent=log.spent,
        )

    @property
    def model(self) -> str | None:
        """Where the recommended model lies in the folder of the search."""
        return self.recommended and f"{MODELS}/{self.recommended.name}"

    def lines(self, folder: str | Path) -> str:
        """Three lines of code that put the model, from the search in `folder`, into a pipeline; or none."""
        if self.model is None:
            return ""
        path = Path(folder, self.model)
        metric = next(iter(self.baseline.metrics))
        task, options = self.baseline.predictions[PART].in_pipeline(metric)
        called = ", ".join(
            filter(None, [f'"{task}"', f'load("{path}").model', f'tokenizer="{path}"', options])
        )
        return (
            f"from sparsebert import load\nfrom transformers import pipeline\nclassify = pipeline({called})"
        )


def advise(
    request: Request,
    folder: str | Path,
    store: RunStore | None = None,
    folders: Folders | None = None,
    run: Runner | None = None,
    measure: Measure = savings.measure,
    clock: Callable[[], float] = time.monotonic,
) -> Advice:
    """Search within the request's budget, or go on with the search whose log is in `folder`.

    The log and the recommended model are kept in `folder`, the records in the store. Raises `InputError` for
    data with a finding that stops, and for a folder with the search of another request.
    """
    started, folder = clock(), path_of(folder)
    check_writable(folder, f"the folder '{folder}'", "one")
    task = get_task(request.task, folders)
    if "test" not in task.sizes:
        task = task.confirmed
        request = request.model_copy(update={"task": task.name})
    log = Log.opened(folder, request, task.data_hash, task.sizes["train"])
    log.findings = log.findings or look(task, request.encoder, request.max_length, request.max_loss)
    check(log.findings)
    search = Search(log, folder, task.paired, run or trainer(store, folders), clock, started, folders)
    search.make()
    advice = Advice.of(log, search.records.values())
    if advice.recommended:
        search.keep(advice.recommended)
    if log.savings is None and (record := _to_measure(advice, log, search.records)):
        plan = savings.measurable(record, folder)
        found = measure(plan, request.encoder, request.lengths, lambda: search.left(reserve=0))
        log.savings = found.assign(plan=plan).to_dict("records")
        search.write()
    return Advice.of(log, search.records.values())


def _to_measure(advice: Advice, log: Log, records: Mapping[str, RunRecord]) -> RunRecord | None:
    """The recommended run, or else that of the finalist which was tested first, if there is one."""
    sparse = [own[0] for candidate, own in _final(log, records).items() if candidate != DENSE and own]
    return next((record for record in sparse if record.config == advice.recommended), *sparse[:1] or [None])


def _final(log: Log, records: Mapping[str, RunRecord]) -> dict[Candidate, list[RunRecord]]:
    """The runs of dense attention and of the finalists, in the order of their tests."""
    rung = log.rung("final")
    found = {}
    for candidate in rung.candidates if rung else ():
        names = [log.config(candidate, seed, rung).name for seed in rung.seeds]
        found[candidate] = [records[name] for name in names if name in records]
    return found


def _curve(log: Log, records: Mapping[str, RunRecord], promises: list[Promise]) -> pd.DataFrame:
    """What each plan loses in each rung: on the choosing rows, and in the final on the confirmation rows."""
    rows = []
    for rung in log.rungs:
        means = {promise.plan: promise.loss for promise in promises} if rung.name == "final" else {}
        if rung.name in ("first", "second"):
            means = {str(one.candidate): one.loss for one in judged(log, records, rung)}
        for candidate in rung.candidates:
            record = record_of(log, records, rung, candidate)
            if record and (lost := means.get(str(candidate))):
                named = rung.name, str(candidate), record.density
                rows.append((*named, lost.value, *lost.interval(LEVEL), len(rung.seeds), record.train_rows))
    return pd.DataFrame(rows, columns=["rung", "plan", "density", "lost", "low", "high", "seeds", "rows"])


def _why(log: Log, promises: list[Promise]) -> str:
    """What is promised, or why nothing is."""
    if log.ended:
        return f"{log.ended[0].upper()}{log.ended[1:]}."
    rung = log.rung("final")
    trained = (
        f" Models were trained on {rung.rows:,} of {log.train_rows:,} rows." if rung and rung.rows else ""
    )
    if held := [promise for promise in promises if promise.held]:
        best = held[-1]
        return (
            f"{best.plan} loses {best.loss.value:.1f} points on average, and at most {best.bound:.1f} with "
            f"95 % confidence, over {best.seeds} seeds and {best.rows:,} rows that chose nothing.{trained}"
        )
    if not promises or math.isnan(promises[0].bound):
        return f"No time was left for {LEAST_SEEDS} seeds of a sparse plan; give a longer budget."
    return f"No sparse plan can be promised. {promises[0].needed(log.request.max_loss)}{trained}"
