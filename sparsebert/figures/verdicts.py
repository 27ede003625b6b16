"""The figure of the claims' chapter: what a rule asks about, with intervals; see `sparsebert.claims`.

It looks like those of `sparsebert.figures`, and `figures.show` puts it on the page.
"""

from __future__ import annotations

import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from sparsebert.figures.look import (
    BACKGROUND,
    BLUE,
    COLOURS,
    FAINT,
    INK,
    WIDTH,
    check_columns,
    legend_above,
    legend_mark,
    style,
    wrapped,
)

_STATES = {  # colour, marker, and whether it is filled
    "met": (BLUE, "o", True),
    "refuted": (COLOURS[3], "X", True),
    "open": ("#595959", "s", False),
}


@style()
def forest(frame: pd.DataFrame) -> Figure:
    """A forest plot: a row per estimate with its mean and 95 % interval, and a tick at its rule's bound.

    Columns of `frame`, as `claims.estimates` gives them: `label` (the task), `what`, `mean`, `low`, `high`
    and `bound` in points, `state`. Rows of one task stand together, in the order they come; an estimate of
    one seed has no interval. Raises `InputError` if a column is missing or there is no row.
    """
    check_columns(frame, "label", "what", "mean", "low", "high", "bound", "state")
    rows = frame.sort_values("label", kind="stable").reset_index(drop=True)
    names = rows["what"] if rows["label"].nunique() == 1 else rows["label"] + ": " + rows["what"]
    names = [wrapped(name, 44) for name in names]
    lines = sum(name.count("\n") + 1 for name in names)
    figure = Figure(figsize=(WIDTH, 0.2 * lines + 0.16 * len(rows) + 1.1), layout="constrained")
    axes = figure.subplots()
    axes.axvline(0, color=INK, linewidth=1.2, zorder=1)
    sns.scatterplot(
        x=rows["bound"], y=rows.index, marker="|", s=260, color=INK, linewidth=1.6, legend=False, ax=axes
    )
    for place, row in rows.iterrows():
        colour, marker, filled = _STATES[row["state"]]
        axes.errorbar(
            row["mean"],
            place,
            xerr=None if pd.isna(row["low"]) else [[row["mean"] - row["low"]], [row["high"] - row["mean"]]],
            color=colour,
            marker=marker,
            markerfacecolor=colour if filled else BACKGROUND,
            elinewidth=1.6,
            zorder=3,
        )
        if place and row["label"] != rows["label"][place - 1]:
            axes.axhline(place - 0.5, color=FAINT, linewidth=0.8, zorder=0)
    axes.set(yticks=range(len(rows)), yticklabels=names, ylim=(len(rows) - 0.5, -0.5))
    axes.set(xlabel="points", ylabel="")
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", length=0)
    marks = [
        legend_mark(state, color=colour, marker=marker, fillstyle="full" if filled else "none")
        for state, (colour, marker, filled) in _STATES.items()
    ]
    bound = legend_mark("what the rule asks for", marker="|", markersize=12, color=INK)
    legend_above(figure, [*marks, bound])
    return figure
