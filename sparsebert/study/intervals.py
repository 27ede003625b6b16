"""The mean of independent runs and how well it is known."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
from scipy import stats

from sparsebert.errors import InputError


def mean_interval(values: Iterable[float]) -> tuple[float, float, float]:
    """Mean of independent runs and its 95 % interval after Student: (mean, low, high).

    A single run says nothing about the spread, so its bounds are NaN. Raises `InputError` if there is no
    value.
    """
    array = np.asarray(list(values), dtype=float)
    if not array.size:
        raise InputError("a mean needs at least one value")
    mean = float(array.mean())
    if array.size == 1:
        return mean, math.nan, math.nan
    half = float(stats.t.ppf(0.975, array.size - 1) * stats.sem(array))
    return mean, mean - half, mean + half
