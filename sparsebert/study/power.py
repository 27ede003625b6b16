"""What runs can decide before they are made: how many seeds and evaluation rows a point needs."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable

import numpy as np
import pandas as pd
from scipy import stats

from sparsebert.study.captions import titled
from sparsebert.study.intervals import LEVEL, Mean

MOST_SEEDS, MOST_ROWS = 50, 1_000_000


def chance(
    effect: float, scatter: float, disagreement: float, seeds: int, rows: int, freedom: float = 0.0
) -> float:
    """The chance that an interval over `seeds` and `rows` lies on one side of a bound, and on the right one.

    `effect` is how far the true mean lies from the bound, and `scatter` the standard deviation of its
    differences over seeds, both in points. On a share `disagreement` of the rows the two sides differ with
    all seeds, so that a row's difference has the variance 100² times that. `freedom` is how many further
    seeds the scatter is as good as known from (`sparsebert.study.intervals.scatter_of`). It is the power of
    Student's test, by the noncentral t distribution.

    >>> round(chance(effect=1.0, scatter=1.2, disagreement=0.0, seeds=5, rows=1000), 2)
    0.46
    """
    of_seeds, of_rows = scatter**2 / seeds, 100**2 * disagreement / rows
    error = (of_seeds + of_rows) ** 0.5
    if not error:
        return float(effect != 0)
    degrees = error**4 / (of_seeds**2 / (seeds - 1 + freedom) + of_rows**2 / (rows - 1))
    least = stats.t.ppf((1 + LEVEL) / 2, degrees)
    return float(stats.nct.sf(least, degrees, abs(effect) / error))


def known_of(mean: Mean, seeds: int, rows: int) -> dict[str, float]:
    """The `scatter` and the `disagreement` that `chance` takes, from a mean over so many seeds and rows."""
    return {
        "scatter": math.sqrt(max(mean.error**2 - mean.of_rows, 0.0) * seeds),
        "disagreement": mean.of_rows * rows / 100**2,
    }


def seeds_needed(
    wanted: float, effect: float, scatter: float, disagreement: float, rows: int, freedom: float = 0.0
) -> int | None:
    """The fewest seeds, at least 2, that decide with this chance on these rows; None if 50 don't."""
    return _least(MOST_SEEDS, wanted, lambda n: chance(effect, scatter, disagreement, n, rows, freedom))


def rows_needed(
    wanted: float, effect: float, scatter: float, disagreement: float, seeds: int, freedom: float = 0.0
) -> int | None:
    """The fewest rows that decide with this chance and these seeds; None if a million don't."""
    return _least(MOST_ROWS, wanted, lambda n: chance(effect, scatter, disagreement, seeds, n, freedom))


def _least(most: int, wanted: float, chance_of: Callable[[int], float]) -> int | None:
    """The least number, from 2 on, with at least the wanted chance, which grows with the number."""
    found = 2 + bisect_left(range(2, most + 1), wanted, key=chance_of)
    return found if found <= most else None


def to_read(open_numbers: pd.DataFrame) -> pd.DataFrame:
    """What `table` gives as people read it, the one that new seeds decide most probably first.

    Where no rows are on record, no column says how many are needed.
    """
    numbers = open_numbers.sort_values("chance", ascending=False, kind="stable", ignore_index=True)
    unknown = np.where(numbers["rows"], f"more than {MOST_ROWS:,}", "no rows on record")
    seeds, rows = (numbers[f"{what} needed"].astype(float) for what in ("seeds", "rows"))
    read = pd.DataFrame(
        {
            "claim": numbers["claim"] + " on " + numbers["label"].map(titled),
            "number that is open": numbers["what"],
            "points, and bound": numbers["mean"].map("{:.1f}, ".format) + numbers["bound"].map("{:g}".format),
            "chance with 5 seeds": numbers["chance"].map("{:.2f}".format),
            "seeds needed": np.where(seeds.isna(), f"more than {MOST_SEEDS}", seeds.map("{:.0f}".format)),
            "rows needed": np.where(rows.isna(), unknown, rows.map("{:,.0f}".format)),
        }
    )
    return read if numbers["rows"].any() else read.drop(columns="rows needed")


def table(numbers: pd.DataFrame, seeds: int = 5, wanted: float = 0.8) -> pd.DataFrame:
    """What would decide the numbers that are open, if means and scatter are what they were measured to be.

    `numbers` are those of `claims.estimates`. A row for each that is open though it has three seeds, with the
    verdict it belongs to: the `chance` that `seeds` seeds decide it on as many rows, and how many seeds (on
    these rows) or rows (with these seeds) decide it with the chance `wanted`; None if no number does.
    """
    found = numbers.query("state == 'open' and verdict == 'undecided' and seeds >= 3")
    needed = []
    for row in found.to_dict("records"):
        known = {name: row[name] for name in ("scatter", "disagreement", "freedom")}
        known["effect"] = row["mean"] - row["bound"]
        rows = max(row["rows"], 2)  # without predictions the disagreement is 0, and rows count for nothing
        needed.append(
            {
                "chance": chance(seeds=seeds, rows=rows, **known),
                "seeds needed": seeds_needed(wanted, rows=rows, **known),
                "rows needed": rows_needed(wanted, seeds=seeds, **known) if row["rows"] else None,
            }
        )
    kept = found[["claim", "label", "what", "mean", "bound", "seeds", "rows"]]
    asked = pd.DataFrame(needed, kept.index, columns=["chance", "seeds needed", "rows needed"])
    return kept.join(asked).reset_index(drop=True)
