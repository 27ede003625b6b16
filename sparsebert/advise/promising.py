"""What can be promised: that a loss is at most what is allowed, by a bound from rows that chose nothing.

The promise is the limit and not the bound, although the bound is lower: a plan is recommended only if its
bound lies below the limit, so bounds that are too low by luck are told more often.

Plans are tested in an order that is fixed before, and testing ends at the first that fails. So all that is
promised together is wrong with a chance of 5 % at most, without a correction (fixed-sequence testing: Maurer,
Hothorn and Lehmacher, 1995). That holds for one search: whoever repeats searches on the same rows until a
promise comes out errs more often.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from sparsebert.advise.data_findings import files_of
from sparsebert.study import power
from sparsebert.study.captions import rounded
from sparsebert.study.intervals import LEVEL, Mean
from sparsebert.study.losses import counted, differences, mean_loss
from sparsebert.sweeps.estimates import in_words
from sparsebert.training.runs import RunRecord

PART = "test"
LEAST_SEEDS = 3
_CHANCE = 0.8  # of a promise that more rows or seeds are counted for


@dataclass(frozen=True)
class Promise:
    """A plan's loss in points on the confirmation rows, and the `bound` it stays below with 95 % confidence.

    `held` is None if the plan was not tested, because one before it failed or seeds are missing. The score
    has `counted` rows, or the words or entities in the rows.
    """

    plan: str
    loss: Mean
    bound: float
    held: bool | None
    seeds: int
    rows: int
    counted: int
    seconds: float  # of a further seed, dense and sparse

    def needed(self, max_loss: float) -> str:
        """What it would take to promise this plan, in a sentence."""
        effect = max_loss - self.loss.value
        lost = f"{self.plan} loses {rounded(self.loss.value)} points, at most {rounded(self.bound)}"
        if effect <= 0:
            return f"{lost}; more rows would not change that, so allow a larger loss or give a longer budget."
        known = {
            "effect": effect,
            "scatter": math.sqrt(max(self.loss.error**2 - self.loss.of_rows, 0.0) * self.seeds),
            "disagreement": self.loss.of_rows * self.rows / 100**2,
        }
        least = math.ceil(300 / effect * self.rows / self.counted)  # that `upper_bound` takes with any seeds
        least = max(self.rows, least)
        ways, named = [], least  # rows
        if (rows := power.rows_needed(_CHANCE, seeds=self.seeds, **known)) and max(rows, least) > self.rows:
            named = max(rows, least)
            ways.append(f"about {named:,} confirmation rows")
        if (seeds := power.seeds_needed(_CHANCE, rows=least, **known)) and seeds > self.seeds:
            also = f" on {least:,} confirmation rows" if least > self.rows else ""
            ways.append(f"about {in_words((seeds - self.seeds) * self.seconds)} more for {seeds} seeds{also}")
        ways = ways or ["more rows and more time"]
        files = f" {named:,} confirmation rows take {files_of(named)}." if named > self.rows else ""
        return f"{lost}; to promise {max_loss:g}, {' or '.join(ways)} would be needed.{files}"


def upper_bound(mean: Mean, counted: int) -> float:
    """The end of a one-sided 95 % interval over seeds and rows together, after Student.

    It lies at least 3 rows (or words, or entities) of the `counted` above the mean. Where hardly any differs,
    their variance says nothing: if none of n differs, up to 3 in n may (the rule of three).
    """
    return max(mean.interval(LEVEL)[1], mean.value + 300 / counted)


def recommended(promises: Sequence[Promise]) -> Promise | None:
    """Of promises in the order of their tests the last that holds: that of the sparsest plan among them."""
    return next((promise for promise in reversed(promises) if promise.held), None)


def in_order(
    dense: Sequence[RunRecord], finalists: Mapping[str, Sequence[RunRecord]], max_loss: float
) -> list[Promise]:
    """The promises of plans by name, tested in the order in which they stand."""
    lost = {plan: differences(dense, records, PART) for plan, records in finalists.items()}
    seconds = {
        plan: sum(sum(record.seconds.values()) for record in (dense[0], *records[:1]))
        for plan, records in finalists.items()
    }
    counts = {plan: counted(records[0], PART) for plan, records in finalists.items() if records}
    return tested(lost, max_loss, counts, seconds)


def tested(
    lost: Mapping[str, Float[np.ndarray, "seed row"]],
    max_loss: float,
    counts: Mapping[str, int] | None = None,
    seconds: Mapping[str, float] | None = None,
) -> list[Promise]:
    """The promises of plans by name, from the points that each loses on confirmation rows.

    `counts` are how many rows, words or entities the score of a plan counts, by default the rows, and
    `seconds` what a further seed of a plan takes, where that is known.
    """
    found: list[Promise] = []
    for plan, own in lost.items():
        held, mean, bound = None, Mean(math.nan, math.nan, math.nan), math.nan
        seeds, rows = own.shape
        units = (counts or {}).get(plan, rows)
        if seeds >= LEAST_SEEDS:
            mean = mean_loss(own)
            bound = upper_bound(mean, units)
            held = bound <= max_loss if all(before.held for before in found) else None
        took = (seconds or {}).get(plan, math.nan)
        found.append(Promise(plan, mean, bound, held, seeds, rows, units, took))
    return found
