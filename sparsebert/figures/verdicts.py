"""The figures of the claims' chapter, with intervals over seeds; see `sparsebert.study.claims`."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from sparsebert.figures import look

_NUMBERS = ["mean", "low", "high"]
_STATES = {
    "met": {"color": look.BLUE, "marker": "o"},
    "refuted": {"color": look.RED, "marker": "X"},
    "floor": {"color": look.ORANGE, "marker": "D"},
    "open": {"color": look.GREY, "marker": "s", "fillstyle": "none"},
}
_PLACEMENTS = {  # the style, and the place beside the middle of the row
    "late": ({"label": "at the later half", "color": look.BLUE, "marker": "o"}, -0.17),
    "all": ({"label": "at all layers", "color": look.RED, "marker": "D", "fillstyle": "none"}, 0.17),
}
_KINDS = {
    "[CLS] alone": {"color": look.INK, "marker": "s"},
    "neighbours": {"color": look.BLUE, "marker": "o"},
    "random keys": {"color": look.RED, "marker": "X"},
    "both": {"color": look.GREEN, "marker": "D"},
    "learned degrees": {"color": look.BLUE, "marker": "o", "fillstyle": "none"},
}


@look.style()
def forest(frame: pd.DataFrame) -> Figure:
    """A forest plot: a row per estimate with its mean and 95 % interval, and a tick at its rule's bound.

    Columns of `frame`, as `claims.estimates` gives them: `label` (the task), `what`, `mean`, `low`, `high`
    and `bound` in points, `state`. Rows of one task stand together, in the order they come; an estimate of
    one seed has no interval. Raises `InputError` if a column is missing or there is no row.
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
    marks = [look.mark(state, **style) for state, style in _STATES.items()]
    look.legend_above(figure, [*marks, look.mark("what the rule asks for", **bound, markersize=12)])
    return figure


@look.style()
def losses(frame: pd.DataFrame) -> Figure:
    """What each pattern loses at the later half and at all layers: a panel per task, a row per pattern.

    Columns of `frame`, as `claims.losses` gives them: `label` (the task), `placement`, `pattern`, and `mean`,
    `low` and `high` in points. Each panel has a scale of its own. Raises `InputError` if a column is missing
    or there is no row.
    """
    look.check_columns(frame, "label", "placement", "pattern", *_NUMBERS)
    patterns = list(frame["pattern"].unique())
    options = {"columns": 2, "margin": 0.8, "share": "y", "xlabel": "points lost"}
    figure, panels = look.panels_of(frame, "label", 0.32 * len(patterns) + 0.6, **options)
    for axes, _, own in panels:
        for _, row in own.iterrows():
            style, aside = _PLACEMENTS[row["placement"]]
            look.draw_mean(axes, tuple(row[_NUMBERS]), patterns.index(row["pattern"]) + aside, style)
        look.name_rows(axes, patterns)
    look.legend_above(figure, [look.mark(**style) for style, _ in _PLACEMENTS.values()])
    return figure


@look.style()
def losses_by_density(frame: pd.DataFrame) -> Figure:
    """What fixed patterns and learned degrees lose against their density: a panel per task.

    Columns of `frame`, as `claims.by_density` gives them: `label` (the task), `kind`, `density` in [0, 1],
    and `mean`, `low` and `high` in points. Points of nearly equal density stand side by side. Raises
    `InputError` if a column is missing or there is no row.
    """
    look.check_columns(frame, "label", "kind", "density", *_NUMBERS)
    labels = {"xlabel": "density over real tokens, %", "ylabel": "points lost"}
    figure, panels = look.panels_of(frame, "label", 2.7, columns=2, margin=0.6, **labels)
    for axes, _, own in panels:
        axes.axhline(0, **look.ZERO_LINE)
        places = look.beside(100 * own["density"])
        for index, row in own.iterrows():
            look.draw_mean(axes, places[index], tuple(row[_NUMBERS]), _KINDS[row["kind"]])
    there = [kind for kind in _KINDS if kind in set(frame["kind"])]
    look.legend_above(figure, [look.mark(kind, **_KINDS[kind]) for kind in there])
    return figure
