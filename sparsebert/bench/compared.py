"""Measurements as ratios to dense attention, with intervals, as `figures.costs.over_dense` draws them.

A ratio stands in a row of its own: `what` says whether it is one of time or memory, `length` is that of the
text, and `ratio` has `low` and `high`, the ends of its interval. Memory is counted and not timed, so it has
none (NaN). Chapter 06 shows them.
"""

from __future__ import annotations

import math

import pandas as pd

from sparsebert.bench.measuring import PASSES

_COLUMNS = ("contender", "length", "what", "ratio", "low", "high")


def layers_over_dense(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows of `attention_rows`: a row per `pattern`, `pass`, contender, length and ratio."""
    parts = [
        _ratios(frame, "pattern", f"{what}_over_dense", f"memory_{what}").assign(**{"pass": words})
        for what, words in PASSES.items()
    ]
    return pd.concat(parts, ignore_index=True)


def encoders_over_dense(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows of `model_rows`: a row per `mode`, contender, length and ratio."""
    return _ratios(frame, "mode", "over_dense", "memory")


def _ratios(frame: pd.DataFrame, group: str, time: str, memory: str) -> pd.DataFrame:
    """The ratios of all contenders but dense, as far as there are any.

    A spread is the interquartile range of the rounds over their median; of three rounds twice the spread is
    their range. A time's ends lie twice the spread below and above it. The ends of a ratio are our lower end
    over dense attention's upper end, and the other way round. With three rounds they hold the true ratio in
    98 of 100 measurements, and more often with more.
    """
    if frame.empty:
        return pd.DataFrame(columns=[group, *_COLUMNS])
    ours, dense = 2 * frame["spread"], 2 * _of_dense(frame, "spread", group)
    times = frame.assign(
        what="time",
        ratio=frame[time],
        low=(frame[time] * (1 - ours) / (1 + dense)).clip(lower=0),
        high=frame[time] * (1 + ours) / (1 - dense).mask(dense >= 1, 0),
    )
    ratio = frame[memory] / _of_dense(frame, memory, group)
    memories = frame.assign(what="memory", ratio=ratio, low=math.nan, high=math.nan)
    found = pd.concat([times, memories], ignore_index=True)
    return found[(found["contender"] != "dense") & found["ratio"].notna()].reset_index(drop=True)


def _of_dense(frame: pd.DataFrame, column: str, group: str) -> pd.Series:
    """For each row the value that dense attention has in its group at its length."""
    dense = frame[frame["contender"] == "dense"].set_index([group, "length"])[column]
    return dense.reindex(pd.MultiIndex.from_frame(frame[[group, "length"]])).set_axis(frame.index)
