"""The figures of the claims' chapter, with the intervals of the rules; see `sparsebert.study.claims`."""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sparsebert.figures import look
from sparsebert.study.claims.rules import LEVELS, MARGIN
from sparsebert.study.claims.runs import CLS_ALONE

_NUMBERS = ["mean", "low", "high"]
_STATES = {
    "met": {"label": "met", "color": look.BLUE, "marker": "o"},
    "refuted": {"label": "refuted", "color": look.RED, "marker": "X"},
    "floor": {"label": "at the floor", "color": look.ORANGE, "marker": "v"},
    "open": {"label": "open", "color": look.GREY, "marker": "s", "fillstyle": "none"},
}
_PLACEMENTS = {
    "late": {"label": "at the later half", "color": look.BLUE, "marker": "o"},
    "all": {"label": "at all layers", "color": look.RED, "marker": "D", "fillstyle": "none"},
}
_ALONE = {"label": "[CLS] alone, at all layers", "color": look.INK, "marker": "s", "fillstyle": "none"}
_FROM = 70  # percent of sparsity: less is no matter of C1 and C2
_KINDS = {
    CLS_ALONE: {"color": look.INK, "marker": "s"},
    "neighbours": {"color": look.BLUE, "marker": "o"},
    "random keys": {"color": look.RED, "marker": "X"},
    "both": {"color": look.GREEN, "marker": "D"},
    "learned degrees": {"color": look.BLUE, "marker": "o", "fillstyle": "none"},
}


@look.style()
def forest(frame: pd.DataFrame) -> Figure:
    """A forest plot: a row per estimate with its mean and 90 % interval, and a tick at its rule's bound.

    Columns of `frame`, as `claims.estimates` gives them: `label` (the task), `what`, `mean`, `low`, `high`
    and `bound` in points, and `state`, which the markers show. Rows of one task stand together, in the order
    they come; an estimate of one seed has no interval. Raises `InputError` if a column is missing or there is
    no row.
    """
    look.check_columns(frame, "label", "what", *_NUMBERS, "bound", "state")
    rows = frame.sort_values("label", kind="stable").reset_index(drop=True)
    names = rows["what"] if rows["label"].nunique() == 1 else rows["label"] + ": " + rows["what"]
    lines = sum(look.wrapped(name, 44).count("\n") + 1 for name in names)
    figure, [axes] = look.panels_for([""], 0.2 * lines + 0.16 * len(rows) + 1.1, xlabel="points")
    bound = {"marker": "|", "color": look.INK, "linestyle": "none"}
    axes.plot(rows["bound"], rows.index, **bound, markersize=16, markeredgewidth=1.6)
    for place, row in rows.iterrows():
        look.draw_mean(axes, tuple(row[_NUMBERS]), place, _STATES[row["state"]])
    look.name_rows(axes, names, 44, lines=rows.index[rows["label"] != rows["label"].shift()][1:])
    marks = [look.mark(**style) for style in _STATES.values()]
    look.legend_above(figure, [*marks, look.mark("what the rule asks for", **bound, markersize=12)])
    return figure


@look.style()
def losses_by_sparsity(frame: pd.DataFrame) -> Figure:
    """What C1 and C2 are about: what patterns lose, by the sparsity of the layers that they change.

    A panel per task, from 70 % sparsity on, with a line at the claim's sparsity and one at the margin of what
    is little. Columns of `frame`, as `claims.losses` gives them: `label` (the task), `placement`, `kind` and
    `pattern`, `sparsity` in [0, 1], and `mean`, `low` and `high` in points. Random controls are left out.
    Points of nearly equal sparsity stand side by side. Raises `InputError` if a column is missing or there is
    no row to draw.
    """
    look.check_columns(frame, "label", "placement", "kind", "pattern", "sparsity", *_NUMBERS)
    frame = frame[(frame["kind"] != "control") & (100 * frame["sparsity"] >= _FROM)]
    look.check_some(frame, "losses of patterns that are 70 % sparse or more")
    alone = frame["pattern"] == CLS_ALONE
    styles = [_ALONE if a else _PLACEMENTS[place] for a, place in zip(alone, frame["placement"], strict=True)]
    figure, panels = _losses(frame, "sparsity", styles, "sparsity of the changed layers, %")
    dotted = look.DENSE_LINE | {"linestyle": ":"}
    for axes in panels:
        axes.axhline(MARGIN, **look.DENSE_LINE, zorder=1)
        axes.axvline(100 * LEVELS[0], **dotted, zorder=1)
        axes.set_xlim(_FROM, 101)
    marks = [look.mark(**style) for style in (*_PLACEMENTS.values(), _ALONE)]
    marks.append(look.mark(f"{MARGIN:g} point", **look.DENSE_LINE, marker=""))
    look.legend_above(figure, [*marks, look.mark(f"{100 * LEVELS[0]:.0f} %", **dotted, marker="")])
    return figure


@look.style()
def losses_by_density(frame: pd.DataFrame) -> Figure:
    """What fixed patterns and learned degrees lose against their density: a panel per task.

    Columns of `frame`, as `claims.by_density` gives them: `label` (the task), `kind`, `density` in [0, 1],
    and `mean`, `low` and `high` in points. Points of nearly equal density stand side by side. Raises
    `InputError` if a column is missing or there is no row.
    """
    look.check_columns(frame, "label", "kind", "density", *_NUMBERS)
    figure, _ = _losses(frame, "density", frame["kind"].map(_KINDS.get), "density over real tokens, %")
    there = [kind for kind in _KINDS if kind in set(frame["kind"])]
    look.legend_above(figure, [look.mark(kind, **_KINDS[kind]) for kind in there])
    return figure


@look.style()
def losses_in_rows(frame: pd.DataFrame, row: str = "pattern", kind: str = "placement") -> Figure:
    """What is lost on each task, in points, with 90 % intervals: a panel per task, a row for each of `row`.

    `kind` says which markers stand in a row: a placement, or any other names. Columns of `frame`, as
    `claims.losses` and `claims.parts_left_out` give them: `label` (the task), `row`, `kind`, and `mean`,
    `low` and `high` in points. Rows and kinds come in the order of the frame. Raises `InputError` if a column
    is missing or there is no row.
    """
    look.check_columns(frame, "label", row, kind, *_NUMBERS)
    names, kinds = list(frame[row].unique()), list(frame[kind].unique())
    free = zip(kinds, look.COLOURS, look.MARKERS, strict=False)
    styles = {name: {"label": name, "color": colour, "marker": marker} for name, colour, marker in free}
    styles |= {name: style for name, style in _PLACEMENTS.items() if name in styles}
    options = {"columns": 2, "share": "y", "margin": 0.7}
    figure, panels = look.panels_of(frame, "label", 0.36 * len(names) + 0.6, **options)
    for axes, _, own in panels:
        for _, one in own.iterrows():
            aside = 0.3 * (kinds.index(one[kind]) - (len(kinds) - 1) / 2)
            numbers = tuple(one[_NUMBERS])
            look.draw_mean(axes, numbers, names.index(one[row]) + aside, styles[one[kind]])
        look.name_rows(axes, names)
    figure.supxlabel("points lost", fontsize=10)
    look.legend_above(figure, [look.mark(**style) for style in styles.values()])
    return figure


def _losses(frame: pd.DataFrame, x: str, styles: Iterable[dict], xlabel: str) -> tuple[Figure, list[Axes]]:
    """Means with their intervals in points against a share `x`; each row of the frame has a style."""
    frame = frame.assign(style=list(styles))
    labels = {"xlabel": xlabel, "ylabel": "points lost"}
    figure, panels = look.panels_of(frame, "label", 2.7, columns=2, margin=0.6, **labels)
    for axes, _, own in panels:
        axes.axhline(0, **look.ZERO_LINE)
        places = look.beside(100 * own[x])
        for index, row in own.iterrows():
            look.draw_mean(axes, places[index], tuple(row[_NUMBERS]), row["style"])
    return figure, [axes for axes, *_ in panels]
