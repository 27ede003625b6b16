"""The main figure of a report: what the plans of a search lose, against the time that they take."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from sparsebert.figures import look

_RUNGS = {
    "first": {"label": "tried once", "color": look.GREY, "marker": "o", "fillstyle": "none"},
    "second": {"label": "tried again on more rows", "color": look.ORANGE, "marker": "D"},
    "final": {"label": "confirmed on rows that chose nothing", "color": look.BLUE, "marker": "s"},
}


@look.style()
def trade_off(curve: pd.DataFrame, max_loss: float) -> Figure:
    """Points lost with their intervals against the time of an evaluation as a share of dense attention's.

    `curve` is that of an `Advice`, of which each plan is drawn where it was judged last; the finalists are
    named. A line lies at `max_loss` points.
    Chapter 09 shows one.
    """
    last = curve.drop_duplicates("plan", keep="last")
    figure, [axes] = look.panels_for(
        [""], 3.4, xlabel="time of an evaluation, as a share of dense attention's", ylabel="points lost"
    )
    axes.axhline(0, **look.ZERO_LINE)
    axes.axvline(1, **look.ZERO_LINE)
    axes.axhline(max_loss, **look.DENSE_LINE)
    for row in last.itertuples():
        look.draw_mean(axes, row.time, (row.lost, row.low, row.high), _RUNGS[row.rung])
        if row.rung == "final":
            box = {"facecolor": look.BACKGROUND, "edgecolor": "none", "pad": 1, "alpha": 0.8}
            below = {"xytext": (0, -30), "textcoords": "offset points", "ha": "center", "fontsize": 8}
            axes.annotate(look.wrapped(row.plan, 28), (row.time, row.lost), bbox=box, zorder=2, **below)
    asked = look.mark("the loss that is allowed", **look.DENSE_LINE | {"marker": ""})
    marks = [look.mark(**rung) for name, rung in _RUNGS.items() if name in set(last["rung"])]
    look.legend_above(figure, [*marks, asked])
    return figure
