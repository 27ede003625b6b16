"""Which plans are tried and which go on: it follows from the log and the records alone.

Choices look at the part `validation`, never at the rows that a promise is made on.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from sparsebert.advise.search_log import DENSE, Candidate, Log, Rung
from sparsebert.study.intervals import Mean
from sparsebert.study.losses import gain, loss
from sparsebert.training.runs import RunRecord

Records = Mapping[str, RunRecord]

PART = "validation"
_MOST_SCALED = 20.0


def candidates(paired: bool, typical_length: float) -> list[Candidate]:
    """The plans of a search; those that are often good stand first, as little time leaves the last ones out.

    Widths are 2 and the powers of two up to a sixteenth and a quarter of the typical text.
    """
    widths = sorted({2, *(2 ** int(math.log2(max(2, typical_length / part))) for part in (16, 4))})
    neighbours = [f"neighbour({width}) | global(cls)" for width in widths]
    plans = ["neighbour(1) | copies | global(cls)", "copies | global(cls)"] if paired else []
    plans += [neighbours[0], "global(cls)"]
    plans += [*neighbours[1:], *(["lexical(2) | global(cls)"] if paired else [])]
    placed = [Candidate(plan + where) for plan in plans for where in (" @ late", "")]
    learned = [Candidate("learned | global(cls)", density) for density in (0.25, 0.1)]
    return [*placed[:4], *learned, *placed[4:]]


class Judged(NamedTuple):
    """A candidate in a rung: what it is taken to lose, and the chance that this is little enough."""

    candidate: Candidate
    loss: Mean
    chance: float
    density: float

    @classmethod
    def of(cls, candidate: Candidate, lost: Mean, density: float, max_loss: float) -> Judged:
        return cls(candidate, lost, lost.chance(max_loss), density)

    @property
    def expected_saving(self) -> float:
        """The share of connections that the plan leaves out, times the chance that it may."""
        return self.chance * (1 - self.density)


def record_of(log: Log, records: Records, rung: Rung | None, candidate: Candidate) -> RunRecord | None:
    """The record of a candidate's first seed in a rung, if there is one."""
    if rung is None or not rung.seeds:
        return None
    return records.get(log.config(candidate, rung.seeds[0], rung).name)


def judged(log: Log, records: Records, rung: Rung) -> list[Judged]:
    """The candidates of a rung that have a record, if dense attention has one.

    On few rows dense attention has learned little, so that little can be lost. Losses are therefore scaled to
    what dense attention gains in the baseline over an answer that is always the same.
    """
    dense = record_of(log, records, rung, DENSE)
    baseline = record_of(log, records, log.rung("baseline"), DENSE)
    if dense is None or baseline is None:
        return []
    scale = gain(baseline, PART).value / max(gain(dense, PART).value, 1e-9)
    scale = min(max(scale, 1.0), _MOST_SCALED)
    found = []
    for candidate in rung.candidates:
        record = record_of(log, records, rung, candidate)
        if candidate != DENSE and record is not None:
            lost = loss([dense], [record], PART)
            lost = Mean(scale * lost.value, scale * lost.error, lost.freedom)
            found.append(Judged.of(candidate, lost, record.density, log.request.max_loss))
    return found


def ranked(log: Log, records: Records) -> list[Judged]:
    """The candidates of the last rung that judged some, the highest expected saving first."""
    rungs = [rung for name in ("second", "first") if (rung := log.rung(name))]
    found = next(filter(None, (judged(log, records, rung) for rung in rungs)), [])
    return best_first(found)


def best_first(found: Sequence[Judged]) -> list[Judged]:
    """The highest expected saving first."""
    return sorted(found, key=lambda one: -one.expected_saving)


def survivors(ranking: Sequence[Judged], count: int) -> list[Judged]:
    """The best so many of a ranking, the safest among them."""
    best = list(ranking[:count])
    return best if _safest(ranking) in best else [*best[:-1], _safest(ranking)]


def finalists(ranking: Sequence[Judged]) -> list[Judged]:
    """At most two, in the order of their tests: the safer one, then the sparser one.

    One of them has the highest expected saving. The other is the safest, or if that is the same one, the best
    of the sparser ones.
    """
    best, safest = ranking[0], _safest(ranking)
    if safest.density > best.density:
        return [safest, best]
    return [best, *[one for one in ranking[1:] if one.density < best.density][:1]]


def _safest(ranking: Sequence[Judged]) -> Judged:
    return max(ranking, key=lambda one: (one.chance, -one.density))
