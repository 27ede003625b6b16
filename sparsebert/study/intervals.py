"""How well a mean over runs is known: from seeds alone, or from seeds and evaluation rows together."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy import optimize, special, stats

from sparsebert.errors import InputError

LEVEL = 0.90  # of intervals that rules look at: a rule asks about one end, which 5 % of luck lie beyond


class Scatter(NamedTuple):
    """What variances over seeds are shrunk towards: `variance` counts as much as `freedom` further seeds."""

    variance: float
    freedom: float


@dataclass(frozen=True)
class Mean:
    """A mean with its standard `error` (NaN if unknown) and that error's degrees of `freedom`.

    `of_rows` is the part of the squared error that is the luck of evaluation rows.
    """

    value: float
    error: float
    freedom: float
    of_rows: float = 0.0

    def interval(self, level: float = LEVEL) -> tuple[float, float]:
        """The ends of the interval after Student."""
        half = self.error * float(stats.t.ppf((1 + level) / 2, self.freedom))
        return self.value - half, self.value + half

    def chance(self, bound: float) -> float:
        """The one-sided p-value of the statement that the mean lies above a bound."""
        if math.isnan(self.error):
            return math.nan
        if not self.error:
            return float(self.value <= bound)
        return float(stats.t.sf((self.value - bound) / self.error, self.freedom))


def over_seeds(points: Iterable[float], scatter: Scatter | None = None) -> Mean:
    """The mean of independent runs, a number for each seed; one seed tells nothing of its error.

    Raises `InputError` if there is no value.
    """
    values = np.asarray(list(points), dtype=float)
    if not values.size:
        raise InputError("a mean needs at least one value")
    variance, freedom = _moderated(values, scatter)
    return Mean(float(values.mean()), math.sqrt(variance / values.size), freedom)


def over_seeds_and_rows(points: Float[np.ndarray, "seed row"], scatter: Scatter | None = None) -> Mean:
    """The mean of differences that are known for each evaluation row, the same rows with every seed.

    Seeds and rows are crossed random effects: a row that is hard for one pattern is so with many seeds. The
    variance of the mean is that over seeds (divided by their number), plus that over rows, less what both
    count: the rest that neither explains (Searle, Casella and McCulloch, 1992, chapter 4; degrees of freedom
    after Satterthwaite, 1946). Chapter 07 explains it.

    Raises `InputError` for a single row.
    """
    seeds, rows = points.shape
    if rows == 1:
        raise InputError("one evaluation row tells nothing of the luck of rows; evaluate on more")
    by_seed, by_row, mean = points.mean(1), points.mean(0), float(points.mean())
    variance, freedom = _moderated(by_seed, scatter)
    if seeds == 1:
        return Mean(mean, math.sqrt(variance), freedom)
    rest = points - by_row - by_seed[:, None] + mean
    unexplained = float((rest**2).sum()) / ((seeds - 1) * (rows - 1))
    of_seeds = variance / seeds
    of_rows = max(0.0, float(by_row.var(ddof=1)) / rows - unexplained / (seeds * rows))
    total = of_seeds + of_rows
    if not total:
        return Mean(mean, 0.0, freedom)
    freedom = total**2 / (of_seeds**2 / freedom + of_rows**2 / (rows - 1))
    return Mean(mean, math.sqrt(total), freedom, of_rows)


def scatter_of(scores: pd.DataFrame) -> Scatter | None:
    """How much the conditions of a setting scatter over seeds, apart from what a seed does to all of them.

    `scores` has a row per seed and a column per condition; it is None with fewer than three of either.
    Where some conditions have more seeds than others, either their further seeds or the conditions with few
    seeds are left out, whichever leaves more. The variances of the conditions are taken as drawn from a
    scaled inverse chi-square distribution, fitted by the moments of their logarithms (Smyth, 2004, section
    6.2; known as limma's moderated t). For a sum of conditions multiply `variance` by the sum of the
    squared weights.
    """
    blocks = [scores.dropna(axis="index"), scores.dropna(axis="columns")]
    blocks = [block for block in blocks if min(block.shape) >= 3]
    if not blocks:
        return None
    whole = max(blocks, key=lambda block: block.size)
    conditions = whole.shape[1]
    values = whole.to_numpy(float)
    rest = values - values.mean(0) - values.mean(1, keepdims=True) + values.mean()
    freedom = (len(whole) - 1) * (conditions - 1) / conditions
    variances = np.maximum((rest**2).sum(0) / freedom, 1e-9)
    logs = np.log(variances) - special.digamma(freedom / 2) + math.log(freedom / 2)
    more = float(logs.var(ddof=1)) - float(special.polygamma(1, freedom / 2))
    if more <= 0:  # no more than chance makes variances differ: all are one
        return Scatter(float(variances.mean()), freedom * conditions)
    half = optimize.brentq(lambda x: float(special.polygamma(1, x)) - more, 1e-6, 1e9)
    return Scatter(float(np.exp(logs.mean() + special.digamma(half) - math.log(half))), 2 * half)


def _moderated(values: Float[np.ndarray, " seed"], scatter: Scatter | None) -> tuple[float, float]:
    """A variance over seeds and its degrees of freedom, shrunk if it is known towards what."""
    own = values.size - 1
    variance = float(values.var(ddof=1)) if own else math.nan
    if scatter is None or not own:
        return variance, own
    freedom = own + scatter.freedom
    return (own * variance + scatter.freedom * scatter.variance) / freedom, freedom


def mean_interval(values: Iterable[float]) -> tuple[float, float, float]:
    """Mean of independent runs and its 95 % interval after Student: (mean, low, high).

    A single run says nothing about the spread, so its bounds are NaN. Raises `InputError` if there is no
    value.
    """
    mean = over_seeds(values)
    return mean.value, *mean.interval(0.95)


def mean_points(runs: pd.DataFrame, column: str = "loss") -> tuple[float, float, float]:
    """The mean over seeds of a column such as `loss`, in points, with its 95 % interval: (mean, low, high).

    Runs of one seed, for example with several patterns, are averaged first. `column` is a fraction; without
    runs all three are NaN. Chapter 03 explains it.
    """
    by_seed = 100 * runs.groupby("seed")[column].mean()
    return (math.nan, math.nan, math.nan) if by_seed.empty else mean_interval(by_seed)
