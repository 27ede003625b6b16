"""Figures of runs: scores against sparsity, what patterns cost where, and mixtures in a grid."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from sparsebert.figures import look
from sparsebert.study.intervals import mean_interval

_SHARES = {name: f"{name} over real tokens, %" for name in ("sparsity", "density")}


@look.style()
def means(
    frame: pd.DataFrame,
    x: str,
    y: str = "accuracy",
    dense: Sequence[float] = (),
    *,
    colour: str = "pattern",
    apart: str | None = None,
    line: bool = False,
    zero: bool = False,
    xlabel: str = "",
    ylabel: str = "",
) -> Figure:
    """Scores `y` in percent against `x`: means over seeds with 95 % intervals, single runs as small ticks.

    Points of nearly equal `x` stand side by side. `frame` has a row per run with the columns `x` (`sparsity`
    and `density` in [0, 1] are drawn in percent), `y` (in [0, 1], or in [-1, 1] for a change), `colour` (a
    pattern, or what else is compared; a degree-matched control is hollow, in its pattern's colour) and
    `apart`. Runs that agree in the last two are seeds of one another; with `line`, in `x` too, and means of
    one colour are joined. `dense` gives the scores of the dense runs, drawn as a line with their interval as
    a band. With `zero` there is a line at 0. Raises `InputError` if runs would be averaged
    that differ in task, encoder, training size, placement or [CLS].
    """
    by = [column for column in (colour, apart, x if line else None) if column]
    look.check_alike(frame, *by)
    labels = {"xlabel": xlabel or _SHARES.get(x, x.replace("_", " ")), "ylabel": ylabel or f"{y}, %"}
    figure, [(axes, *_)] = look.panels_of(frame, None, 4.4, **labels)
    looks = look.looks_of(frame[colour])
    if len(dense):
        mean, low, high = mean_interval(100 * value for value in dense)
        axes.axhline(mean, **look.DENSE_LINE, zorder=1)
        if not math.isnan(low):
            axes.axhspan(low, high, color=look.INK, alpha=0.1, linewidth=0, zorder=0)
    groups = [runs for _, runs in frame.groupby(by, sort=False)]
    places = look.beside(pd.Series([(100 if x in _SHARES else 1) * runs[x].mean() for runs in groups]))
    for place, runs in zip(places.sort_index(), groups, strict=True):
        look.draw_runs(axes, place, 100 * runs[y], looks[str(runs[colour].iloc[0])])
    for level, own_look in looks.items() if line else ():
        here = [number for number, runs in enumerate(groups) if str(runs[colour].iloc[0]) == level]
        heights = [100 * groups[number][y].mean() for number in here]
        axes.plot(places[here], heights, **own_look | {"marker": "none"})
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if zero:
        axes.axhline(0, **look.ZERO_LINE)
    else:  # Student's intervals may end below 0 or above 100 %; the axis does not go along
        bottom, top = axes.get_ylim()
        axes.set_ylim(max(bottom, 0), min(top, 100.5))
    look.legend_above(figure, look.marks_of(looks), () if "dense" in looks else dense)
    return figure


@look.style()
def by_placement(frame: pd.DataFrame) -> Figure:
    """What each pattern loses at each placement, in points, with 95 % intervals, beside its random control.

    `frame` has a row per run with the columns `pattern`, `placement` (panels) and `loss`: the metric of the
    dense run of the same seed minus this run's. A control, `random(like=P, ...)` with or without global
    tokens, is drawn hollow in the row of P. Raises `InputError` as `means` does.
    """
    look.check_alike(frame, "pattern", "placement")
    looks = look.looks_of(frame["pattern"])
    controlled = look.any_control(looks)
    rows = list(dict.fromkeys(style["label"] for style in looks.values()))
    figure, panels = look.panels_of(frame, "placement", 0.55 * len(rows) + 1.5, share="xy")
    for axes, _, part in panels:
        for text, runs in part.groupby("pattern", sort=False):
            style = looks[text]
            aside = (0.18 if style["fillstyle"] == "none" else -0.18) * controlled
            look.draw_runs(axes, rows.index(style["label"]) + aside, 100 * runs["loss"], style, sideways=True)
        look.name_rows(axes, rows)
    figure.supxlabel("points lost against dense", fontsize=10)
    both = [look.mark("the pattern"), look.mark(look.CONTROL, fillstyle="none")]
    look.legend_above(figure, both * controlled)
    return figure


@look.style()
def by_task(frame: pd.DataFrame, guessed: Mapping[str, float] | pd.Series) -> Figure:
    """Scores of runs, a row per task: each run, their mean with its 95 % interval, and what guessing scores.

    Columns of `frame`: `task` and `score`, in percent, as are the levels of `guessed`, one for each task.
    """
    parts = dict(list(frame.groupby("task", sort=False)["score"]))
    options = {"margin": 0.8, "xlabel": "score, %"}
    figure, [(axes, *_)] = look.panels_of(frame, None, 0.6 * len(parts), **options)
    cross = {"color": look.INK, "marker": "x", "markersize": 7}
    for row, (task, scores) in enumerate(parts.items()):
        axes.plot(guessed[task], row, **cross)
        look.draw_runs(axes, row, scores, {"color": look.BLUE, "marker": "o"}, sideways=True)
    look.name_rows(axes, parts)
    axes.set_xlim(0, 100.5)
    marks = [look.mark("mean", color=look.BLUE), look.mark("one run", color=look.BLUE, marker="|")]
    look.legend_above(figure, [*marks, look.mark("commonest label", **cross)])
    return figure


@look.style()
def heat_maps(frame: pd.DataFrame) -> Figure:
    """Points lost, the mean over seeds, for each width and number of random keys; a panel per g.

    `frame` has a row per run with the columns `g`, `r` and `w` (numbers of global tokens, random keys and
    neighbours on each side) and `loss` (in [-1, 1]). Under each mean stands half the width of its 95 %
    interval, if it has one. All panels share one colour scale; what was not run is blank. Raises `InputError`
    as `means` does.
    """
    look.check_alike(frame, "w", "r", "g")
    widths, keys = sorted(frame["w"].unique()), sorted(frame["r"].unique())
    table = 100 * frame.groupby(["g", "r", "w"])["loss"].mean()
    frame = frame.sort_values("g", kind="stable")
    figure, panels = look.panels_of(frame, "g", 0.5 * len(keys) + 0.8, columns=2, xlabel="w")
    for axes, tokens, own in panels:
        cells = table[tokens].unstack().reindex(keys, columns=widths)
        texts = cells.astype(object)
        for point, runs in own.groupby(["r", "w"])["loss"]:
            mean, low, _ = mean_interval(100 * runs)
            texts.loc[point] = f"{mean:.1f}" + ("" if math.isnan(low) else f"\n±{mean - low:.1f}")
        look.heat_map(axes, cells, texts, vmin=table.min(), vmax=table.max())
        axes.set(title=f"g = {tokens}", xlabel="w", ylabel="r")
        axes.invert_yaxis()  # more connections further up and to the right
    return figure
