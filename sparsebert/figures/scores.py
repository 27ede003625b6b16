"""Figures of scores over seeds: against sparsity, by placement, by the parts of a mixture."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from sparsebert.figures.look import (
    BACKGROUND,
    CONTROL,
    FAINT,
    INK,
    MARKERS,
    WIDTH,
    any_control,
    beside,
    check_alike,
    check_columns,
    dense_mark,
    dense_of,
    draw_dense,
    draw_point,
    keep_within,
    legend_above,
    legend_mark,
    looks_of,
    panels_of,
    pattern_marks,
    style,
    wrapped,
)
from sparsebert.study.intervals import mean_interval


@style()
def accuracy_against_sparsity(
    frame: pd.DataFrame,
    dense: Sequence[float] | Mapping[object, Sequence[float]] = (),
    *,
    hue: str = "pattern",
    style: str | None = "placement",
    col: str | None = None,
    metric: str = "accuracy",
) -> Figure:
    """Accuracy against measured sparsity: means over seeds with 95 % intervals, single runs as small ticks.

    Points of nearly equal sparsity stand side by side.

    `frame` has a row per run with the columns `sparsity` and `metric` (both in [0, 1]), `hue` (colours; a
    degree-matched control is hollow, in its pattern's colour), `style` (markers) and `col` (panels). `dense`
    gives the metric of the dense runs, or a mapping from each level of `col` to it; it is drawn as a line
    with its interval as a band. Raises `InputError` if runs would be averaged that differ in task, encoder,
    training size, placement or [CLS], or if the mapping lacks a level.
    """
    check_columns(frame, "sparsity", metric, hue, style, col)
    check_alike(frame, hue, style, col)
    figure, panels = panels_of(frame, col, height=4.4)
    looks = looks_of(frame[hue])
    markers = dict(zip(dict.fromkeys(frame[style]), MARKERS, strict=False)) if style else {}
    for axes, part in panels:
        draw_dense(axes, dense_of(part, col, dense))
        groups = dict(list(part.groupby([hue, style] if style else [hue], sort=False)))
        places = beside(pd.Series([100 * runs["sparsity"].mean() for runs in groups.values()]))
        for number, (keys, runs) in enumerate(groups.items()):
            look = looks[str(keys[0])] | ({"marker": markers[keys[1]]} if style else {})
            draw_point(axes, places[number], 100 * runs[metric], look)
        axes.set_xlabel("sparsity over real tokens, %")
        keep_within(axes)
    panels[0][0].set_ylabel(f"{metric}, %")
    placed = [legend_mark(str(level), marker=marker) for level, marker in markers.items()]
    legend_above(figure, pattern_marks(looks, one_marker=bool(style)) + placed + dense_mark(dense))
    return figure


@style()
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
    check_columns(frame, "pattern", loss, col)
    check_alike(frame, "pattern", col)
    looks = looks_of(frame["pattern"])
    rows = list(dict.fromkeys(look["label"] for look in looks.values()))
    figure, panels = panels_of(frame, col, height=0.55 * len(rows) + 1.5)
    for axes, part in panels:
        axes.axvline(0, color=INK, linewidth=1.2)
        for text, runs in part.groupby("pattern", sort=False):
            look = looks[text]
            beside = (0.18 if look["fillstyle"] == "none" else -0.18) * any_control(looks)
            draw_point(axes, rows.index(look["label"]) + beside, -100 * runs[loss], look, sideways=True)
        for between in range(1, len(rows)):
            axes.axhline(between - 0.5, color=FAINT, linewidth=0.8, zorder=0)
        axes.set(yticks=range(len(rows)), yticklabels=map(wrapped, rows), ylim=(len(rows) - 0.5, -0.5))
        axes.grid(axis="y", visible=False)
        axes.tick_params(axis="y", length=0)
    figure.supxlabel(f"{metric} against {reference}, points", fontsize=10)
    both = [legend_mark("the pattern"), legend_mark(CONTROL, fillstyle="none")]
    legend_above(figure, both if any_control(looks) else [])
    return figure


@style()
def from_layer(
    frame: pd.DataFrame,
    dense: Sequence[float] = (),
    *,
    first: str = "first_layer",
    hue: str = "pattern",
    metric: str = "accuracy",
) -> Figure:
    """Accuracy against the first sparse layer, all later ones being sparse too: means and 95 % intervals.

    `frame` has a row per run with the columns `first` (an int), `hue` and `metric`; `dense` gives the metric
    of the dense runs. Raises `InputError` as `accuracy_against_sparsity` does.
    """
    check_columns(frame, first, metric, hue)
    check_alike(frame, hue, "placement")
    figure, [(axes, _)] = panels_of(frame, None, height=4.0)
    looks = looks_of(frame[hue])
    draw_dense(axes, dense)
    for place, (level, look) in enumerate(looks.items()):
        aside = 0.08 * (place - (len(looks) - 1) / 2)  # so that intervals stand side by side
        runs_at = (100 * frame[frame[hue].astype(str) == level].set_index(first)[metric]).groupby(level=0)
        for layer, runs in runs_at:
            draw_point(axes, layer + aside, runs, look)
        means = runs_at.mean()
        axes.plot(means.index + aside, means, **look | {"marker": "none"})
    axes.set(xlabel="first sparse layer", ylabel=f"{metric}, %")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    legend_above(figure, pattern_marks(looks) + dense_mark(dense))
    return figure


# ---- how many connections of each kind ----------------------------------------------------------


@style()
def heat_maps(
    frame: pd.DataFrame, *, x: str = "w", y: str = "r", col: str = "g", metric: str = "accuracy"
) -> Figure:
    """The mean of a metric over seeds, in percent, for each pair of `x` and `y`; a panel per level of `col`.

    `frame` has a row per run with the columns `x`, `y` and `col` (numbers) and `metric` (in [0, 1]). Under
    each mean stands half the width of its 95 % interval, if it has one. All panels share one colour scale;
    what was not run is blank. Raises `InputError` as `accuracy_against_sparsity` does.
    """
    check_columns(frame, x, y, col, metric)
    check_alike(frame, x, y, col)
    across, down, levels = (sorted(frame[axis].unique()) for axis in (x, y, col))
    columns = min(2, len(levels))
    lines = math.ceil(len(levels) / columns)
    figure = Figure(figsize=(WIDTH, lines * (0.5 * len(down) + 0.8)), layout="constrained")
    panels = figure.subplots(lines, columns, squeeze=False)
    means = 100 * frame.groupby([col, y, x])[metric].mean()
    for unused in panels.flat[len(levels) :]:
        unused.remove()
    for axes, level in zip(panels.flat, levels, strict=False):
        own = frame[frame[col] == level]
        table = own.pivot_table(index=y, columns=x, values=metric).mul(100).reindex(down, columns=across)
        texts = table.astype(object)
        for (row, column), runs in own.groupby([y, x])[metric]:
            mean, low, _ = mean_interval(100 * runs)
            texts.loc[row, column] = f"{mean:.1f}" + ("" if math.isnan(low) else f"\n±{mean - low:.1f}")
        sns.heatmap(
            table,
            vmin=means.min(),
            vmax=means.max(),
            cmap="cividis",
            annot=texts,
            fmt="",
            annot_kws={"fontsize": 9},
            linewidths=1.5,
            linecolor=BACKGROUND,
            cbar=False,
            ax=axes,
        )
        axes.set(title=f"{col} = {level}", xlabel=x, ylabel=y)
        axes.grid(False)
        axes.tick_params(length=0)
        axes.tick_params(axis="y", rotation=0)
        axes.invert_yaxis()  # more connections further up and to the right
    return figure


@style()
def accuracy_against_density(
    frame: pd.DataFrame,
    dense: Sequence[float] = (),
    *,
    hue: str = "parts",
    point: str = "mixture",
    metric: str = "accuracy",
) -> Figure:
    """Accuracy against measured density: a mean with its 95 % interval for each level of `point`.

    `frame` has a row per run with the columns `density` and `metric` (both in [0, 1]), `point` and `hue`, the
    colours. `dense` gives the metric of the dense runs, drawn as a line with its interval as a band. Raises
    `InputError` as `accuracy_against_sparsity` does.
    """
    check_columns(frame, "density", metric, hue, point)
    check_alike(frame, hue, point)
    figure, [(axes, _)] = panels_of(frame, None, height=4.4)
    looks = looks_of(frame[hue])
    draw_dense(axes, dense)
    for (level, _), runs in frame.groupby([hue, point], sort=False):
        draw_point(axes, 100 * runs["density"].mean(), 100 * runs[metric], looks[str(level)])
    axes.set(xlabel="density over real tokens, %", ylabel=f"{metric}, %")
    legend_above(figure, pattern_marks(looks) + dense_mark(dense))
    return figure


@style()
def marginal_values(
    frame: pd.DataFrame, *, value: str = "value", col: str = "where", metric: str = "accuracy"
) -> Figure:
    """What one more edge per token is worth, by the mean degree before; a panel per level of `col`.

    `frame` has a row per step and seed with the columns `step` (what is compared with what), `part` (the kind
    of edge that is added, the colour), `degree` (mean degree of a token before the step), `value` (change of
    the metric, in [-1, 1], per added degree) and `col`. Points are means over seeds with 95 % intervals.
    Each panel has a scale of its own. Raises `InputError` as `accuracy_against_sparsity` does.
    """
    check_columns(frame, "step", "part", "degree", value, col)
    check_alike(frame, "step", "part", col)
    parts = list(frame.groupby(col, sort=False))
    figure = Figure(figsize=(WIDTH, 3.8), layout="constrained")
    panels = figure.subplots(1, len(parts), squeeze=False)[0]
    looks = looks_of(frame["part"])
    for axes, (level, own) in zip(panels, parts, strict=True):
        axes.axhline(0, color=INK, linewidth=1.2)
        for (kind, _), runs in own.groupby(["part", "step"], sort=False):
            aside = 0.12 * (list(looks).index(str(kind)) - (len(looks) - 1) / 2)  # steps from one point
            draw_point(axes, runs["degree"].mean() + aside, 100 * runs[value], looks[str(kind)])
        axes.set(title=level, xlabel="mean degree before", ylabel="")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    panels[0].set_ylabel(f"{metric}, points per added degree")
    legend_above(figure, pattern_marks(looks))
    return figure
