"""From a request to an `Advice`: look at the data, search, promise, measure what is saved."""

from __future__ import annotations

import hashlib
import math
import shlex
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from sparsebert.advise import savings
from sparsebert.advise.data_findings import check, look
from sparsebert.advise.halving import PART, judged, record_of
from sparsebert.advise.promising import LEAST_SEEDS, Promise, in_order, recommended
from sparsebert.advise.search_log import DENSE, Candidate, Log, Request
from sparsebert.advise.searching import MODELS, Runner, Search, too_short, trainer
from sparsebert.data.tasks import get_task
from sparsebert.data.tasks.task import CONFIRM
from sparsebert.errors import InputError, say
from sparsebert.paths import Folders, check_writable, fresh_runs, project_root, runs_dir
from sparsebert.reading import path_of, read_model
from sparsebert.study.captions import code, listed, rounded
from sparsebert.study.intervals import LEVEL, Mean
from sparsebert.study.losses import gain
from sparsebert.study.results import recorded, results_dir
from sparsebert.sweeps.estimates import in_words
from sparsebert.training.runs import RunConfig, RunRecord, RunStore

ALL_ROWS = "on_all_rows"  # folder of a model in that of a search
SEARCHES = "searches"  # with the runs, and in book/results/ those that the book shows

Measure = Callable[..., pd.DataFrame]

_TRIED = {"first": "tried with", "second": "tried again with", "final": "confirmed with"}


@dataclass(frozen=True)
class Advice:
    """All that a report says, from the log of a search and the records of its runs (`Advice.of`).

    `records` are its runs, and `final` those of the last rung by plan, `dense` among them. `gained` is what
    dense attention has beyond an answer that is always the same, in points. `curve` has a row per plan and
    rung: `lost` in points with `low` and `high` (90 %), `density`, `rung`, `seeds`, `rows` (of training).
    `promises` stand in the order of their tests, and `why` says what is sure. `savings` is empty if nothing
    was measured. Chapter 09 shows all that.
    """

    log: Log
    records: list[RunRecord]
    final: dict[str, list[RunRecord]]
    baseline: RunRecord | None
    gained: Mean | None
    curve: pd.DataFrame
    promises: list[Promise]
    why: str
    savings: pd.DataFrame

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
        final = {str(candidate): own for candidate, own in _final(log, named).items()}
        plans = {plan: own for plan, own in final.items() if plan != str(DENSE)}
        dense = final.get(str(DENSE))
        promises = in_order(dense, plans, log.request.max_loss) if dense else []
        return cls(
            log=log,
            records=list(named.values()),
            final=final,
            baseline=baseline,
            gained=baseline and gain(baseline, PART),
            curve=_curve(log, named, promises),
            promises=promises,
            why=_why(log, promises) + _went_on(log, promises),
            savings=pd.DataFrame(log.savings or []).fillna(math.nan).infer_objects(),  # null in the log
        )

    @property
    def held(self) -> Promise | None:
        """The promise of the recommended plan, if it is a sparse one."""
        return recommended(self.promises)

    @property
    def recommended(self) -> RunConfig | None:
        """The run to use; None if nothing was trained. It is dense where the plan saves nothing."""
        pays = self.held and (self.savings.empty or self.savings["saves"].any())
        run = self.final[self.held.plan][0] if pays else self.baseline
        return run and run.config

    @property
    def answer(self) -> str:
        """What to do, in Markdown, in a sentence or two."""
        if (promise := self.held) is None:
            return f"Stay with dense attention. {self.why}" if len(self.curve) else self.why
        density = self.curve.loc[self.curve["plan"] == promise.plan, "density"].iloc[-1]
        plan = f"{code(promise.plan)}, which keeps {density:.0%} of the connections"
        if self.savings.empty:
            return f"Use {plan}. {self.why}"
        saves = self.savings.groupby("length")["saves"].any()
        saved, unsaved = (listed([f"{n:,}" for n in saves.index[saves == yes]]) for yes in (True, False))
        if not saved:
            return f"Stay with dense attention: at {unsaved} tokens nothing is saved by {plan}. {self.why}"
        nothing = f"At {unsaved} tokens nothing is saved, so stay with dense attention there. "
        told = f"{nothing if unsaved else ''}At {saved} tokens use {plan}. {self.why}"
        if saves.index[saves].max() <= (typical := self.log.typical_length):
            return told
        return f"{told} Loss and density are those of the task's texts (median: {typical:.0f} tokens)."

    @property
    def tried(self) -> str:
        """What was trained, in a sentence."""
        said = []
        for rung, own in self.curve.groupby("rung", sort=False):
            rows, seeds = int(own["rows"].iloc[0]), int(own["seeds"].iloc[0])
            plans = "1 sparse plan was" if len(own) == 1 else f"{len(own)} sparse plans were"
            with_seeds = "one seed" if seeds == 1 else f"{seeds} seeds"
            if rung == "first" and not self.log.chose:
                said.append("There was no time to choose, so one plan that is often good was taken")
                continue
            said.append(f"{plans} {_TRIED[rung]} {rows:,} training rows and {with_seeds}")
        return f"{'; '.join(said)}." if said else "No sparse plan was tried."

    @property
    def saved(self) -> list[str]:
        """What the recommended plan saves, in sentences; where nothing is saved stands first.

        Where dense attention is recommended it is what the plan that came nearest would save.
        """
        if self.savings.empty and not self.promises:
            return []
        said = savings.in_words(self.savings)
        return (
            said if self.held or self.savings.empty else [f"If the loss were allowed: {said[0]}", *said[1:]]
        )

    @property
    def model(self) -> str | None:
        """Where the recommended model lies in the folder of the search."""
        return self.recommended and f"{MODELS}/{self.recommended.name}"

    def command(self, folder: str | Path) -> str:
        """The command that repeats the search, or goes on with it."""
        given = {"out": folder} | self.log.request.model_dump(exclude_defaults=True) | {"task": self._task}
        if lengths := given.get("lengths"):
            given["lengths"] = ",".join(map(str, lengths))
        if budget := given.get("budget"):
            given["budget"] = f"{budget:g}s"
        return _command("advise", given)

    @property
    def seen(self) -> str:
        """How many rows the model saw, before the command `on_all_rows`; or none, if it saw all of them."""
        if self.recommended is None or self.recommended.train_size is None:
            return ""
        rows = self.log.train_rows
        seen = f"The model saw {self.recommended.train_size:,} of the {rows:,} training rows."
        return f"{seen} This command trains its plan on all rows, which the search did not test"

    def on_all_rows(self, folder: str | Path) -> str:
        """The command that trains the recommended plan on all training rows, into a folder in `folder`."""
        config = self.recommended.model_copy(update={"train_size": None})
        given = config.model_dump(exclude_defaults=True) | {"task": self._task}
        degrees = given.pop("degrees", {})
        return _command("finetune", given | degrees | {"save": Path(folder, ALL_ROWS)})

    @property
    def _task(self) -> str:
        return self.log.request.task.removesuffix(CONFIRM)

    def lines(self, folder: str | Path) -> str:
        """Three lines of code that put the model, from the search in `folder`, into a pipeline; or none."""
        if self.model is None:
            return ""
        path = Path(folder, self.model)
        task, options = self.baseline.predictions[PART].in_pipeline(self.baseline.metric)
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

    The log and the recommended model are kept in `folder`, the records in the store. A longer budget and
    other lengths go on with a search, too. Findings that warn go to stderr before the search. Raises
    `InputError` for data with a finding that stops, and for a folder with the search of another request.
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
    for finding in log.findings:
        if finding.severity == "warns":
            say(f"warning: {finding.sentence}")
    search = Search(log, folder, task.paired, run or trainer(store, folders), clock, started, folders)
    made = [*log.runs]
    search.make()
    advice = Advice.of(log, search.records.values())
    if log.savings is None and (record := _to_measure(advice)):
        plan = savings.measurable(record, folder)
        finished = log.runs == made  # so other lengths are asked for, which the budget is not for
        left = (lambda: math.inf) if finished else lambda: search.left(reserve=0)
        found = measure(plan, request.encoder, request.lengths, left)
        log.savings = found.assign(plan=plan.replace(f"{folder}/", "")).to_dict("records")
        if finished:
            log.write(folder)
        else:
            search.write()
        advice = Advice.of(log, search.records.values())
    if advice.recommended:
        search.keep(advice.recommended)
    return advice


def advised(request: Request, folder: str | Path | None = None) -> Advice:
    """The advice of the search in a folder; without one that which the book has on record, or a new one.

    Nothing that is recorded is taken where SPARSEBERT_FRESH is set. A new search is kept in the folder of
    runs, in `searches/`. Raises what `advise` does. Chapter 09 shows a search.
    """
    if folder is None and (found := _recorded(request)):
        return found
    name = hashlib.sha256(request.model_dump_json().encode()).hexdigest()[:16]
    return advise(request, folder or runs_dir() / SEARCHES / name)


def _command(name: str, options: Mapping[str, object]) -> str:
    words = ["sparsebert", name]
    for option, value in options.items():
        words += [f"--{option.replace('_', '-')}", str(value)]
    return shlex.join(words)


def _recorded(request: Request) -> Advice | None:
    if project_root() is None or fresh_runs():
        return None
    asked = request.task, f"{request.task}{CONFIRM}"
    for path in sorted((results_dir() / SEARCHES).glob("*.json")):
        log = read_model(path, Log, "the log of a search", "remove it")
        if log.request.task in asked and log.request == request.model_copy(update={"task": log.request.task}):
            return Advice.of(log, recorded(SEARCHES))
    return None


def _to_measure(advice: Advice) -> RunRecord | None:
    """The recommended run, or else that of the finalist which was tested first, if there is one."""
    sparse = [own[0] for plan, own in advice.final.items() if plan != str(DENSE) and own]
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
    columns = ["rung", "plan", "density", "lost", "low", "high", "seeds", "rows"]
    return pd.DataFrame(rows, columns=columns).astype(dict.fromkeys(columns[2:6], float))  # also without rows


def _why(log: Log, promises: list[Promise]) -> str:
    """What is promised, or why nothing is."""
    ended = log.ended
    if ended is None and (not promises or math.isnan(promises[0].bound)):
        missing = sum((LEAST_SEEDS - promise.seeds) * promise.seconds for promise in promises[:1])
        ended = too_short(log.request.budget + missing)
    if ended:
        return f"{ended[0].upper()}{ended[1:]}."
    rung = log.rung("final")
    trained = (
        f" Models were trained on {rung.rows:,} of {log.train_rows:,} rows." if rung and rung.rows else ""
    )
    if best := recommended(promises):
        return (
            f"With 95 % confidence it loses at most the {log.request.max_loss:g} points that were allowed. "
            f"Over {best.seeds} seeds, on {best.rows:,} rows that were not used to choose it, it lost "
            f"{rounded(best.loss.value)} points, and the bound on the loss is {rounded(best.bound)}.{trained}"
        )
    return f"No sparse plan can be promised. {promises[0].needed(log.request.max_loss)}{trained}"


def _went_on(log: Log, promises: list[Promise]) -> str:
    """That shorter searches came before, and what that does to a promise."""
    if not log.budgets:
        return ""
    said = f" This search went on from {listed([f'one of {in_words(budget)}' for budget in log.budgets])}."
    if recommended(promises):
        said += " Whoever goes on until a plan is promised errs more often than in 5 of 100 searches."
    return said
