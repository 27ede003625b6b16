"""A search within a budget of seconds: successive halving (Jamieson and Talwalkar, 2016) over rows and seeds.

    warm-up    dense attention on next to no rows, as the first run of a process is slow
    probe      dense attention on few rows: how fast are runs here?
    baseline   dense attention on the rows that finalists get: is there anything to lose? If not, on more rows
    first      many candidates on few rows, with one seed; without time to choose, one candidate alone
    second     a third of them on more rows, with another seed
    final      at most two, on the baseline's rows, with at least three seeds that chose no plan

What depends on the clock (the sizes of a rung, and which runs find no time) is written into the log before it
is acted on, and the rest follows from the log and the records (`sparsebert.advise.halving`). So a search that
was interrupted goes on, and one that is finished is read again from both without training. With a longer
budget a finished one goes on, too: its last rung is decided anew, as a rule the final with more seeds.
"""

from __future__ import annotations

import itertools
import math
import shutil
import time
from bisect import bisect_right
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

from sparsebert.advise.halving import PART, candidates, finalists, ranked, record_of, survivors
from sparsebert.advise.promising import LEAST_SEEDS
from sparsebert.advise.search_log import DENSE, Candidate, Log, Rung
from sparsebert.errors import InputError, say
from sparsebert.paths import Folders
from sparsebert.study.losses import gain
from sparsebert.sweeps.estimates import Estimates, in_words
from sparsebert.sweeps.running import describe, find_or_train
from sparsebert.training.runs import RunConfig, RunRecord, RunStore
from sparsebert.training.saving import read_settings

Runner = Callable[[RunConfig, Path | None], RunRecord]
"""Makes the record of a run, and keeps its model in a folder if one is given."""

MODELS = "models"  # the folder of models in that of a search
RESERVE = 0.1  # of the budget, for measuring what is saved
REPORT = 30.0  # seconds of the budget for the report behind the search, a tenth of it at most
FINAL = 0.6  # of the rest, for the baseline and the finalists
MARGIN = 1.2  # by which runs may take longer than expected
LEAST_ROWS = 500  # of a rung: plans hardly differ after fewer
WARM_UP = 64, 64  # rows to train and to evaluate on
GOES_ON = 3  # one candidate of so many
_MORE = 1.25  # times as many rows are worth another baseline
FINALISTS, MOST_SEEDS = 2, 10
SEED = {"probe": 0, "first": 0, "second": 1, "baseline": 2, "final": 2}  # the final's seeds chose no plan
NOTHING_LEARNED = 0.05  # chance of the baseline's gain if nothing was learned, from which on it is taken so


def trainer(store: RunStore | None = None, folders: Folders | None = None) -> Runner:
    """Finds or trains the runs of a search; a run whose model is saved already is not made again for it."""

    def run(config: RunConfig, save_to: Path | None) -> RunRecord:
        try:
            saved = save_to is not None and read_settings(save_to).config == config.model_dump()
        except InputError:
            saved = False
        return find_or_train(config, store, folders, None if saved else save_to)[0]

    return run


def too_short(needed: float) -> str:
    """Why a search ends that needs so many seconds at the least."""
    return f"the budget is too short to promise anything; give at least {in_words(1.1 * needed)}"


class _NoTime(InputError):
    """A run that would end after the budget."""


class Search:
    """The rungs of a search, made one after the other; `log` and `records` are what remains of it.

    `run` trains, `clock` tells the seconds, and `started` is what it told before the data was read. In
    `folder` are the log and the models of the final's first seed.
    """

    def __init__(
        self,
        log: Log,
        folder: Path,
        paired: bool,
        run: Runner,
        clock: Callable[[], float] = time.monotonic,
        started: float | None = None,
        folders: Folders | None = None,
    ):
        self.log, self.folder, self.paired, self.run, self.clock = log, folder, paired, run, clock
        self.started = (clock() if started is None else started) - log.spent
        self.records: dict[str, RunRecord] = {}
        self.estimates = Estimates(folders=folders)

    def make(self) -> None:
        """Make all rungs, or go on with those that are missing, as far as the budget goes."""
        decide = {
            "warm-up": lambda: Rung("warm-up", (DENSE,), (0,), *WARM_UP),
            "probe": lambda: self._rung("probe", [DENSE], 0),
            "baseline": self._baseline,
            "first": self._first,
            "second": self._second,
            "final": self._final,
        }
        for name, how in decide.items():
            if self.log.rung(name) is None and self.log.ended is None:
                decided = how()
                if isinstance(decided, Rung):
                    self.log.rungs.append(decided)
                else:
                    self.log.ended = decided
                self.write()
            if (rung := self.log.rung(name)) is None:
                break
            self._make(rung)
            if name == "baseline":
                self._enlarge_baseline()
        for name in set(self.log.runs) - self.records.keys():  # of a rung that was decided anew
            self.log.runs.remove(name)
            shutil.rmtree(self._place(name), ignore_errors=True)

    def keep(self, config: RunConfig) -> None:
        """See that the model of a run is kept, as a rule from when it was made, and no other run's."""
        self.run(config, self._place(config.name))
        for name in self.log.runs:
            if name != config.name:
                shutil.rmtree(self._place(name), ignore_errors=True)

    def left(self, reserve: float = RESERVE) -> float:
        """Seconds of the budget that are left beside a share in reserve."""
        budget = self.log.request.budget
        return budget * (1 - reserve) - min(REPORT, budget / 10) - (self.clock() - self.started)

    def write(self) -> None:
        """Keep the log, with the time that was spent."""
        self.log.spent = self.clock() - self.started
        self.log.write(self.folder)

    # ---- the rungs; a text in the place of one says why the search ends

    def _baseline(self) -> Rung | str:
        """The rows on which dense attention and two finalists can have three seeds in their share of time."""
        final = [DENSE] * (1 + FINALISTS) * LEAST_SEEDS
        rows = self._most_rows("baseline", final, self.log.train_rows, FINAL * self.left())
        rung = self._rung("baseline", [DENSE], rows)
        least = 2 * LEAST_SEEDS * self._seconds(rung)  # one finalist, and no time to choose it
        return rung if least <= self.left() else self._too_short(least)

    def _enlarge_baseline(self) -> None:
        """While dense attention has learned nothing, train it on more rows, as far as there is time."""
        while self.log.rungs[-1].name == "baseline" and not self._learned() and (more := self._more_rows()):
            del self.records[self._configs(self.log.rungs[-1])[0].name]
            self.log.rungs[-1] = more
            self.write()
            self._make(more)

    def _learned(self) -> bool:
        baseline = record_of(self.log, self.records, self.log.rung("baseline"), DENSE)
        return gain(baseline, PART).chance(0.0) <= NOTHING_LEARNED

    def _more_rows(self) -> Rung | None:
        """A baseline on as many rows as leave time for one finalist; None if they are hardly more."""
        final, rows = [DENSE] * 2 * LEAST_SEEDS, self.log.rung("baseline").rows or self.log.train_rows
        most = self._most_rows("baseline", final, self.log.train_rows, self.left()) or 0
        return self._rung("baseline", [DENSE], most) if most >= _MORE * rows else None

    def _first(self) -> Rung | str:
        """As many candidates as can have enough rows in half of the time that the finalists leave.

        Where there is no time to choose, the first candidate is the only finalist.
        """
        if not self._learned():
            return (
                "dense attention does no better than an answer that is always the same, so there is nothing "
                "to lose yet; give more labelled rows, a longer budget or another learning rate"
            )
        them = candidates(self.paired, self.log.typical_length)
        for count in range(len(them), 1, -1):
            seconds = self._free() / (2 if count > GOES_ON else 1)
            if rows := self._most_rows("first", [DENSE, *them[:count]], self._full, seconds):
                return self._rung("first", [DENSE, *them[:count]], rows)
        choosing = self._rung("first", [DENSE, *them[:2]], 0)
        if self._seconds(choosing) <= self._free(finalists=1):
            return choosing
        return replace(self._rung("final", [DENSE, them[0]], self._full), name="first")

    def _second(self) -> Rung:
        """A third of the candidates, in the rest of the time beside the final; none if they are few."""
        ranking = ranked(self.log, self.records)
        kept = survivors(ranking, max(2, math.ceil(len(ranking) / GOES_ON))) if ranking else []
        them = [DENSE, *(one.candidate for one in kept)]
        rows = self._most_rows("second", them, self._full, self._free())
        return self._rung("second", them, rows) if rows and len(ranking) > GOES_ON else Rung(name="second")

    def _final(self) -> Rung | str:
        """The finalists in the order of their tests, and as many seeds as there is time for."""
        ranking = ranked(self.log, self.records)
        for chosen in (finalists(ranking), ranking[:1]) if ranking else ():
            rung = self._rung("final", [DENSE, *(one.candidate for one in chosen)], self._full)
            most = replace(rung, seeds=tuple(SEED["final"] + number for number in range(MOST_SEEDS)))
            there = [config for config in self._configs(most) if config.name in self.log.runs]
            seeds = int((self.left() + self._expected(there)) / self._seconds(rung))
            seeds = max(seeds, len(there) // len(rung.candidates))  # of a shorter search
            if seeds >= LEAST_SEEDS:
                return replace(most, seeds=most.seeds[:seeds])
        return self._too_short(2 * LEAST_SEEDS * self._seconds(self._rung("final", [DENSE], self._full)))

    def _too_short(self, more: float) -> str:
        """That the budget has no place for so many seconds more."""
        needed = (self.clock() - self.started + more + REPORT) / (1 - RESERVE)
        return too_short(max(needed, self.log.request.budget))

    def _rung(self, name: str, them: Iterable[Candidate], rows: int | None) -> Rung:
        """A rung with one seed, on at least `LEAST_ROWS` rows, and before the final evaluated on as many."""
        rows = max(rows or 0, LEAST_ROWS)
        sizes = {"rows": rows if rows < self.log.train_rows else None}
        if name not in ("baseline", "final"):
            sizes["eval_rows"] = rows
        return Rung(name=name, candidates=tuple(them), seeds=(SEED[name],), **sizes)

    @property
    def _full(self) -> int:
        return self.log.rung("baseline").rows or self.log.train_rows

    def _free(self, finalists: int = FINALISTS) -> float:
        """Seconds that are left beside the final."""
        final = self._rung("final", [DENSE] * ((1 + finalists) * LEAST_SEEDS - 1), self._full)
        return self.left() - self._seconds(final)

    def _most_rows(self, name: str, them: list[Candidate], most: int, seconds: float) -> int | None:
        """The most rows with which a rung takes no longer; None if it takes longer with the fewest."""
        sizes = range(min(LEAST_ROWS, most), most + 1)
        fitting = bisect_right(sizes, seconds, key=lambda rows: self._seconds(self._rung(name, them, rows)))
        return sizes[fitting - 1] if fitting else None

    def _seconds(self, rung: Rung) -> float:
        """What the runs of a rung are expected to take, at most."""
        return self._expected(self._configs(rung))

    def _expected(self, configs: Iterable[RunConfig]) -> float:
        return MARGIN * sum(self.estimates.seconds(config) or 0.0 for config in configs)

    def _configs(self, rung: Rung) -> list[RunConfig]:
        """The runs of a rung, seed by seed."""
        pairs = itertools.product(rung.seeds, rung.candidates)
        return [self.log.config(candidate, seed, rung) for seed, candidate in pairs]

    # ---- the runs

    def _make(self, rung: Rung) -> None:
        """The runs of a rung, seed by seed; one that would end after the budget is left out."""
        for seed in rung.seeds:
            for candidate in rung.candidates:
                config = self.log.config(candidate, seed, rung)
                if config.name in self.log.left_out:
                    continue
                try:
                    record = self._run(config, keep=seed == SEED["final"])
                except InputError as error:
                    if not self.log.rung("first"):  # without dense attention there is nothing to compare with
                        raise
                    say(f"left out: {candidate}, seed {seed}: {error}")
                    # Were only a failed seed left out, the others would promise what the plan does not keep.
                    alone = isinstance(error, _NoTime) or candidate == DENSE
                    seeds = (seed,) if alone else rung.seeds
                    left_out = [self.log.config(candidate, each, rung).name for each in seeds]
                    self.log.left_out += left_out
                    for name in left_out:
                        self.records.pop(name, None)
                else:
                    if config.name not in self.log.runs:
                        say(f"{rung.name}: {describe(record)}")
                    self.records[config.name] = record
                    if rung.name != "warm-up":
                        self.estimates.add(record)
                    if config.name not in self.log.runs:
                        self.log.runs.append(config.name)
                self.write()

    def _run(self, config: RunConfig, keep: bool) -> RunRecord:
        if config.name in self.log.runs:
            return self.run(config, None)
        if MARGIN * (self.estimates.seconds(config) or 0.0) > self.left():
            raise _NoTime("no time is left for it")
        return self.run(config, self._place(config.name) if keep else None)

    def _place(self, name: str) -> Path:
        return self.folder / MODELS / name
