"""The main figure of a report: what the plans of a search lose, by their density."""

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
    """Points lost with their intervals, a row for each plan with its density, the densest at the top.

    `curve` is that of an `Advice`, of which each plan is drawn where it was judged last. A line lies at
    `max_loss` points.
    Chapter 09 shows one.
    """
    last = curve.drop_duplicates("plan", keep="last").sort_values("density", ascending=False)
    figure, [axes] = look.panels_for([""], 0.4 * len(last) + 1, xlabel="points lost")
    look.name_rows(axes, [f"{row.plan} ({row.density:.0%})" for row in last.itertuples()], width=60)
    axes.axvline(max_loss, **look.DENSE_LINE)
    for place, row in enumerate(last.itertuples()):
        look.draw_mean(axes, (row.lost, row.low, row.high), place, _RUNGS[row.rung])
    asked = look.mark("the loss that is allowed", **look.DENSE_LINE | {"marker": ""})
    marks = [look.mark(**rung) for name, rung in _RUNGS.items() if name in set(last["rung"])]
    look.legend_above(figure, [*marks, asked])
    return figure
