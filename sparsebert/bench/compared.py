"""Measurements as ratios to dense attention, with intervals, as `figures.costs.over_dense` draws them.

A ratio stands in a row of its own, in the columns `length`, `ratio`, and `low` and `high`, the ends of its
interval (NaN: unknown). Chapter 06 shows them.
"""

from __future__ import annotations

import pandas as pd

from sparsebert.bench.measuring import PASSES

_RATIO = ("length", "ratio", "low", "high")


def layers_over_dense(frame: pd.DataFrame) -> pd.DataFrame:
    """Times of `measure_attention`, a row per `pattern`, `contender`, `pass` and length; without dense."""
    if frame.empty:
        return pd.DataFrame(columns=["pattern", "contender", "pass", *_RATIO])
    parts = [
        _over_dense(frame, f"{what}_over_dense", "pattern").assign(**{"pass": words})
        for what, words in PASSES.items()
    ]
    return pd.concat(parts, ignore_index=True)


def encoders_over_dense(frame: pd.DataFrame) -> pd.DataFrame:
    """Times and memory of `measure_models`, a row per `mode`, `what` (time or memory) and length.

    Memory is counted, not timed, so it has no interval.
    """
    if frame.empty:
        return pd.DataFrame(columns=["mode", "what", *_RATIO])
    memory = frame["memory"] / _of_dense(frame, "memory", "mode")
    parts = {
        "time": _over_dense(frame, "over_dense", "mode"),
        "memory": _over_dense(frame.assign(memory=memory), "memory", "mode").assign(low=None, high=None),
    }
    return pd.concat([part.assign(what=what) for what, part in parts.items()], ignore_index=True).astype(
        {"low": float, "high": float}
    )


def _over_dense(frame: pd.DataFrame, ratio: str, group: str) -> pd.DataFrame:
    """The rows that have a ratio, with the ends that the spreads of both sides allow.

    A spread is the interquartile range of the rounds over their median, so that three rounds lie within twice
    the spread around it. The ends are the fastest round of the one over the slowest of dense, and the other
    way round; with three rounds they hold the true ratio in 98 of 100 measurements, and more often with more.
    """
    found = frame.rename(columns={ratio: "ratio"})
    own, dense = 2 * found["spread"], 2 * _of_dense(found, "spread", group)
    low = (found["ratio"] * (1 - own) / (1 + dense)).clip(lower=0)
    high = found["ratio"] * (1 + own) / (1 - dense).mask(dense >= 1, 0)
    found = found.assign(low=low, high=high)
    return found[(found["contender"] != "dense") & found["ratio"].notna()]


def _of_dense(frame: pd.DataFrame, column: str, group: str) -> pd.Series:
    """For each row the value that dense attention has in its group at its length."""
    dense = frame[frame["contender"] == "dense"].set_index([group, "length"])[column]
    return dense.reindex(pd.MultiIndex.from_frame(frame[[group, "length"]])).set_axis(frame.index)
