"""The figures of the claims' chapter, with intervals over seeds; see `sparsebert.study.claims`.

They look like those of `sparsebert.figures`, and `figures.show` puts them on the page.
"""

from __future__ import annotations

import math

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from sparsebert.figures.look import (
    BACKGROUND,
    BLUE,
    COLOURS,
    FAINT,
    INK,
    WIDTH,
    beside,
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
_PLACEMENTS = {  # as _STATES, with the words of the legend and a place beside the middle of the row
    "late": ("at the later half", (BLUE, "o", True), -0.17),
    "all": ("at all layers", (COLOURS[3], "D", False), 0.17),
}
_KINDS = {  # as _STATES
    "[CLS] alone": (INK, "s", True),
    "neighbours": (BLUE, "o", True),
    "random keys": (COLOURS[3], "X", True),
    "both": (COLOURS[2], "D", True),
    "learned degrees": (BLUE, "o", False),
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
        _draw_mean(axes, place, row, *_STATES[row["state"]])
        if place and row["label"] != rows["label"][place - 1]:
            axes.axhline(place - 0.5, color=FAINT, linewidth=0.8, zorder=0)
    _name_rows(axes, names)
    axes.set(xlabel="points", ylabel="")
    marks = [_mark(state, *look) for state, look in _STATES.items()]
    bound = legend_mark("what the rule asks for", marker="|", markersize=12, color=INK)
    legend_above(figure, [*marks, bound])
    return figure


@style()
def losses(frame: pd.DataFrame) -> Figure:
    """What each pattern loses at the later half and at all layers: a panel per task, a row per pattern.

    Columns of `frame`, as `claims.losses` gives them: `label` (the task), `placement`, `pattern`, and `mean`,
    `low` and `high` in points. Each panel has a scale of its own. Raises `InputError` if a column is missing
    or there is no row.
    """
    check_columns(frame, "label", "placement", "pattern", "mean", "low", "high")
    patterns = list(frame["pattern"].unique())
    figure, panels = _panels(frame, 0.32 * len(patterns) + 0.6, 0.8, sharey=True)
    for axes, own in panels:
        axes.axvline(0, color=INK, linewidth=1.2, zorder=1)
        for _, row in own.iterrows():
            _, look, beside = _PLACEMENTS[row["placement"]]
            _draw_mean(axes, patterns.index(row["pattern"]) + beside, row, *look)
        for between in range(1, len(patterns)):
            axes.axhline(between - 0.5, color=FAINT, linewidth=0.8, zorder=0)
        _name_rows(axes, [wrapped(pattern) for pattern in patterns])
        axes.set(xlabel="points lost")
    legend_above(figure, [_mark(words, *look) for words, look, _ in _PLACEMENTS.values()])
    return figure


@style()
def losses_by_density(frame: pd.DataFrame) -> Figure:
    """What fixed patterns and learned degrees lose against their density: a panel per task.

    Columns of `frame`, as `claims.by_density` gives them: `label` (the task), `kind`, `density` in [0, 1],
    and `mean`, `low` and `high` in points. Points of nearly equal density stand side by side. Raises
    `InputError` if a column is missing or there is no row.
    """
    check_columns(frame, "label", "kind", "density", "mean", "low", "high")
    figure, panels = _panels(frame, 2.7, 0.6)
    for axes, own in panels:
        axes.axhline(0, color=INK, linewidth=1.2, zorder=1)
        places = beside(100 * own["density"])
        for index, row in own.iterrows():
            _draw_mean(axes, places[index], row, *_KINDS[row["kind"]], sideways=False)
        axes.set(xlabel="density over real tokens, %", ylabel="points lost")
    legend_above(figure, [_mark(kind, *look) for kind, look in _KINDS.items() if kind in set(frame["kind"])])
    return figure


def _panels(
    frame: pd.DataFrame, height: float, legend: float, sharey: bool = False
) -> tuple[Figure, list[tuple[Axes, pd.DataFrame]]]:
    """A panel per task, two in a line, each with its part of the frame; heights in inches."""
    parts = list(frame.groupby("label", sort=False))
    columns = min(2, len(parts))
    lines = math.ceil(len(parts) / columns)
    figure = Figure(figsize=(WIDTH, lines * height + legend), layout="constrained")
    panels = list(figure.subplots(lines, columns, squeeze=False, sharey=sharey).flat)
    for axes in panels[len(parts) :]:
        axes.remove()
    for axes, (task, _) in zip(panels, parts, strict=False):
        axes.set_title(task)
    return figure, [(axes, part) for axes, (_, part) in zip(panels, parts, strict=False)]


def _draw_mean(
    axes: Axes, place: float, row: pd.Series, colour: str, marker: str, filled: bool, sideways: bool = True
) -> None:
    """A mean with its interval, if it has one; in a row, or else in a column."""
    spread = None if pd.isna(row["low"]) else [[row["mean"] - row["low"]], [row["high"] - row["mean"]]]
    axes.errorbar(
        *((row["mean"], place) if sideways else (place, row["mean"])),
        **{"xerr" if sideways else "yerr": spread},
        color=colour,
        marker=marker,
        markerfacecolor=colour if filled else BACKGROUND,
        elinewidth=1.6,
        zorder=3,
    )


def _name_rows(axes: Axes, names: list[str]) -> None:
    axes.set(yticks=range(len(names)), yticklabels=names, ylim=(len(names) - 0.5, -0.5))
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", length=0)


def _mark(label: str, colour: str, marker: str, filled: bool) -> Line2D:
    return legend_mark(label, color=colour, marker=marker, fillstyle="full" if filled else "none")
