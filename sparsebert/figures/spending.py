"""The figure of the chapter on ways to spend less; see `sparsebert.study.spending`."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from sparsebert.figures import look

_WAYS = (
    *("fixed patterns", "learned degrees", "segments", "predicted"),
    *("lat", "ltp", "adaptive", "compressed", "fewer layers"),
)
_STRONG = [colour for place, colour in enumerate(look.COLOURS) if place != 8]  # which is pale
_LOOKS = {
    way: {"color": colour, "marker": marker}
    for way, colour, marker in zip(_WAYS, _STRONG, look.MARKERS, strict=False)
}
_OTHER = {"color": look.GREY, "marker": "."}


@look.style()
def lost_by_cost(frame: pd.DataFrame, what: str = "multiply-adds") -> Figure:
    """Points lost against cost: a panel per task, a line for each way through its settings.

    Columns of `frame`, as `spent` gives them: `task`, `way`, `cost` over dense attention, and `lost`, `low`
    and `high` in points. `what` is what the cost counts. Points of nearly equal cost stand side by side.
    Raises `InputError` if a column is missing or there is no row.
    """
    look.check_columns(frame, "task", "way", "cost", "lost", "low", "high")
    labels = {"xlabel": f"{what} over dense attention", "ylabel": "points lost"}
    figure, panels = look.panels_of(frame, "task", 3.6, columns=2, margin=0.6, **labels)
    ways = sorted({*frame["way"]}, key=lambda way: [*_LOOKS, way].index(way))
    looks = {way: _LOOKS.get(way, _OTHER) for way in ways}
    for axes, _, own in panels:
        axes.axhline(0, **look.ZERO_LINE)
        own = own.assign(cost=look.beside(100 * own["cost"]) / 100).sort_values("cost")
        for way, part in own.groupby("way"):
            axes.plot(part["cost"], part["lost"], color=looks[way]["color"], linewidth=1)
            for row in part.itertuples():
                look.draw_mean(axes, row.cost, (row.lost, row.low, row.high), looks[way])
    look.legend_above(figure, [look.mark(way, **own) for way, own in looks.items()])
    return figure
