"""Figures of scores over seeds: against sparsity, by placement, by the parts of a mixture."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from sparsebert.figures import look
from sparsebert.study.intervals import mean_interval


@look.style()
def accuracy_against_sparsity(
    frame: pd.DataFrame,
    dense: Sequence[float] | Mapping[object, Sequence[float]] = (),
    *,
    col: str | None = None,
    metric: str = "accuracy",
) -> Figure:
    """Accuracy against measured sparsity: means over seeds with 95 % intervals, single runs as small ticks.

    Points of nearly equal sparsity stand side by side.

    `frame` has a row per run with the columns `sparsity` and `metric` (both in [0, 1]), `pattern` (colours; a
    degree-matched control is hollow, in its pattern's colour), `placement` (markers) and `col` (panels).
    `dense` gives the metric of the dense runs, or a mapping from each level of `col` to it; it is drawn as a
    line with its interval as a band. Raises `InputError` if runs would be averaged that differ in task,
    encoder, training size, placement or [CLS], or if the mapping lacks a level.
    """
    look.check_columns(frame, "sparsity", metric, "pattern", "placement", col)
    look.check_alike(frame, "placement", col)
    labels = {"xlabel": "sparsity over real tokens, %", "ylabel": f"{metric}, %"}
    figure, panels = look.panels_of(frame, col, 4.4, **labels)
    looks = look.looks_of(frame["pattern"])
    markers = dict(zip(dict.fromkeys(frame["placement"]), look.MARKERS, strict=False))

    def look_of(pattern: object, placement: object) -> dict:
        return looks[str(pattern)] | {"marker": markers[placement]}

    for axes, level, own in panels:
        look.draw_dense(axes, dense, level)
        draw_groups(axes, own, ["pattern", "placement"], "sparsity", metric, look_of)
        look.keep_within(axes)
    placed = [look.legend_mark(str(level), marker=marker) for level, marker in markers.items()]
    look.legend_above(figure, look.pattern_marks(looks, one_marker=True) + placed + look.dense_mark(dense))
    return figure


def draw_groups(
    axes: Axes, runs: pd.DataFrame, by: list[str], x: str, metric: str, look_of: Callable[..., dict]
) -> None:
    """A mean with its interval for each group of runs, in percent; nearly equal `x` stand side by side.

    `look_of` takes the levels of a group.
    """
    groups = list(runs.groupby(by, sort=False))
    places = look.beside(pd.Series([100 * own[x].mean() for _, own in groups]))
    for number, (levels, own) in enumerate(groups):
        look.draw_runs(axes, places[number], 100 * own[metric], look_of(*levels))


@look.style()
def by_placement(
    frame: pd.DataFrame,
    *,
    loss: str = "loss_vs_dense",
    col: str = "placement",
    metric: str = "accuracy",
    reference: str = "dense",
) -> Figure:
    """What each pattern costs at each placement, in points, with 95 % intervals, beside its random control.

    `frame` has a row per run with the columns `pattern`, `col` (panels) and `loss`: the metric of the dense
    run (or of another `reference`) of the same seed minus this run's. A control, `random(like=P, ...)` with
    or without global tokens, is drawn hollow in the row of P. Raises `InputError` as
    `accuracy_against_sparsity` does.
    """
    look.check_columns(frame, "pattern", loss, col)
    look.check_alike(frame, "pattern", col)
    looks = look.looks_of(frame["pattern"])
    controlled = look.any_control(looks)
    rows = list(dict.fromkeys(style["label"] for style in looks.values()))
    figure, panels = look.panels_of(frame, col, 0.55 * len(rows) + 1.5)
    for axes, _, part in panels:
        axes.axvline(0, **look.ZERO_LINE)
        for text, runs in part.groupby("pattern", sort=False):
            style = looks[text]
            aside = (0.18 if style["fillstyle"] == "none" else -0.18) * controlled
            look.draw_runs(axes, rows.index(style["label"]) + aside, -100 * runs[loss], style, sideways=True)
        look.name_rows(axes, [look.wrapped(row) for row in rows], lines=range(1, len(rows)))
    figure.supxlabel(f"{metric} against {reference}, points", fontsize=10)
    both = [look.legend_mark("the pattern"), look.legend_mark(look.CONTROL, fillstyle="none")]
    look.legend_above(figure, both * controlled)
    return figure


@look.style()
def from_layer(frame: pd.DataFrame, dense: Sequence[float] = (), *, metric: str = "accuracy") -> Figure:
    """Accuracy against the first sparse layer, all later ones being sparse too: means and 95 % intervals.

    `frame` has a row per run with the columns `first_layer` (an int), `pattern` and `metric`; `dense` gives
    the metric of the dense runs. Raises `InputError` as `accuracy_against_sparsity` does.
    """
    look.check_columns(frame, "first_layer", metric, "pattern")
    look.check_alike(frame, "pattern", "placement")
    figure, [axes] = look.panels_for([""], 4.0, xlabel="first sparse layer", ylabel=f"{metric}, %")
    looks = look.looks_of(frame["pattern"])
    look.draw_dense(axes, dense)
    for place, (level, style) in enumerate(looks.items()):
        aside = 0.08 * (place - (len(looks) - 1) / 2)  # so that intervals stand side by side
        own = frame[frame["pattern"].astype(str) == level]
        runs_at = (100 * own.set_index("first_layer")[metric]).groupby(level=0)
        for layer, runs in runs_at:
            look.draw_runs(axes, layer + aside, runs, style)
        means = runs_at.mean()
        axes.plot(means.index + aside, means, **style | {"marker": "none"})
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    look.legend_above(figure, look.pattern_marks(looks) + look.dense_mark(dense))
    return figure


# ---- how many connections of each kind ----------------------------------------------------------


@look.style()
def heat_maps(frame: pd.DataFrame, *, metric: str = "accuracy") -> Figure:
    """The mean of a metric over seeds, in percent, for each width and number of random keys; a panel per g.

    `frame` has a row per run with the columns `g`, `r` and `w` (numbers of global tokens, random keys and
    neighbours on each side) and `metric` (in [0, 1]). Under each mean stands half the width of its 95 %
    interval, if it has one. All panels share one colour scale; what was not run is blank. Raises `InputError`
    as `accuracy_against_sparsity` does.
    """
    look.check_columns(frame, "w", "r", "g", metric)
    look.check_alike(frame, "w", "r", "g")
    frame = frame.sort_values("g", kind="stable")
    widths, keys = sorted(frame["w"].unique()), sorted(frame["r"].unique())
    means = 100 * frame.groupby(["g", "r", "w"])[metric].mean()
    figure, panels = look.panels_of(frame, "g", 0.5 * len(keys) + 0.8, columns=2, share="")
    for axes, tokens, own in panels:
        table = means[tokens].unstack().reindex(keys, columns=widths)
        texts = table.astype(object)
        for point, runs in own.groupby(["r", "w"])[metric]:
            mean, low, _ = mean_interval(100 * runs)
            texts.loc[point] = f"{mean:.1f}" + ("" if math.isnan(low) else f"\n±{mean - low:.1f}")
        look.heat_map(axes, table, texts, vmin=means.min(), vmax=means.max())
        axes.set(title=f"g = {tokens}", xlabel="w", ylabel="r")
        axes.invert_yaxis()  # more connections further up and to the right
    return figure


@look.style()
def accuracy_against_density(
    frame: pd.DataFrame, dense: Sequence[float] = (), *, metric: str = "accuracy"
) -> Figure:
    """Accuracy against measured density: a mean with its 95 % interval for each mixture.

    `frame` has a row per run with the columns `density` and `metric` (both in [0, 1]), `mixture`, and
    `parts`, the colours. `dense` gives the metric of the dense runs, drawn as a line with its interval as a
    band. Raises `InputError` as `accuracy_against_sparsity` does.
    """
    look.check_columns(frame, "density", metric, "parts", "mixture")
    look.check_alike(frame, "parts", "mixture")
    figure, [axes] = look.panels_for([""], 4.4, xlabel="density over real tokens, %", ylabel=f"{metric}, %")
    looks = look.looks_of(frame["parts"])
    look.draw_dense(axes, dense)
    for (parts, _), runs in frame.groupby(["parts", "mixture"], sort=False):
        look.draw_runs(axes, 100 * runs["density"].mean(), 100 * runs[metric], looks[str(parts)])
    look.legend_above(figure, look.pattern_marks(looks) + look.dense_mark(dense))
    return figure


@look.style()
def marginal_values(frame: pd.DataFrame, *, metric: str = "accuracy") -> Figure:
    """What one more edge per token is worth, by the mean degree before; a panel per level of `where`.

    `frame` has a row per step and seed with the columns `step` (what is compared with what), `part` (the kind
    of edge that is added, the colour), `degree` (mean degree of a token before the step), `value` (change of
    the metric, in [-1, 1], per added degree) and `where`. Points are means over seeds with 95 % intervals.
    Each panel has a scale of its own. Raises `InputError` as `accuracy_against_sparsity` does.
    """
    look.check_columns(frame, "step", "part", "degree", "value", "where")
    look.check_alike(frame, "step", "part", "where")
    labels = {"xlabel": "mean degree before", "ylabel": f"{metric}, points per added degree"}
    figure, panels = look.panels_of(frame, "where", 3.8, share="", **labels)
    looks = look.looks_of(frame["part"])
    for axes, _, own in panels:
        axes.axhline(0, **look.ZERO_LINE)
        for (part, _), runs in own.groupby(["part", "step"], sort=False):
            aside = 0.12 * (list(looks).index(str(part)) - (len(looks) - 1) / 2)  # steps from one point
            look.draw_runs(axes, runs["degree"].mean() + aside, 100 * runs["value"], looks[str(part)])
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    look.legend_above(figure, look.pattern_marks(looks))
    return figure
