"""Figures of learned degrees: graphs of two rows, degree distributions, and methods compared by density.

They look like those of `sparsebert.figures`, and `figures.show` puts them on the page.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence

import numpy as np
import pandas as pd
import seaborn as sns
from jaxtyping import Bool
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from sparsebert.errors import InputError
from sparsebert.figures.look import (
    BACKGROUND,
    BLUE,
    COLOURS,
    INK,
    MARKERS,
    ORANGE,
    WIDTH,
    beside,
    check_alike,
    check_columns,
    check_some,
    dense_mark,
    dense_of,
    draw_dense,
    draw_point,
    legend_above,
    legend_mark,
    style,
)

Rows = Sequence[Sequence[float]]  # a list per head; the item at o - 1 belongs to distance o


# ---- graphs and codes ---------------------------------------------------------------------------


@style()
def two_rows(
    graph_by_title: Mapping[str, tuple[str, str, Bool[Tensor, "upper lower"]]], *, columns: int = 2
) -> Figure:
    """Graphs with edges between two rows of nodes, such as Tanner graphs; below each lower node its degree.

    Each title has the names of its upper nodes (squares) and lower nodes (circles), and which are linked.
    The edges of the lower nodes with the largest degree stand out, where these are few. Raises `InputError`
    if there is no graph to draw.
    """
    check_some(graph_by_title, "graphs")
    columns = min(columns, len(graph_by_title))
    lines = math.ceil(len(graph_by_title) / columns)
    figure = Figure(figsize=(WIDTH, 2.1 * lines), layout="constrained")
    panels = figure.subplots(lines, columns, squeeze=False)
    for unused in panels.flat[len(graph_by_title) :]:
        unused.remove()
    for axes, (title, (above, below, graph)) in zip(panels.flat, graph_by_title.items(), strict=False):
        linked = graph.numpy(force=True)
        upper, lower = (np.linspace(0, 1, count + 2)[1:-1] for count in linked.shape)
        degree = linked.sum(0)
        few = (degree == degree.max()).mean() <= 0.5
        for top, bottom in np.argwhere(linked):
            strong = degree[bottom] == degree.max() and few
            look = {"color": BLUE, "linewidth": 1.3} if strong else {"color": "#a6a6a2", "linewidth": 0.8}
            axes.plot([upper[top], lower[bottom]], [1, 0], **look, zorder=1 + strong)
        axes.plot(upper, np.ones_like(upper), "s", color=ORANGE, markersize=8, zorder=3)
        axes.plot(lower, np.zeros_like(lower), "o", color=INK, markersize=8, zorder=3)
        for place, count in zip(lower, degree, strict=True):
            axes.text(place, -0.2, str(count), ha="center", va="top", fontsize=9)
        axes.text(0, 1.2, above, fontsize=9, va="bottom")
        axes.text(0, -0.55, below, fontsize=9, va="top")
        axes.set(title=title, ylim=(-0.8, 1.45))
        axes.set_axis_off()
    return figure


@style()
def decoding(frame: pd.DataFrame) -> Figure:
    """Share of unknown bits by round of decoding, a line for each level of `code`.

    Columns of `frame`: `code`, `round` (0, 1, ...) and `unknown` (in [0, 1]).
    """
    check_columns(frame, "code", "round", "unknown")
    figure = Figure(figsize=(WIDTH, 3.0), layout="constrained")
    axes = figure.subplots()
    handles = []
    for place, (code, own) in enumerate(frame.groupby("code", sort=False)):
        look = {"color": COLOURS[place], "linestyle": ("-", "--", ":")[place % 3], "label": str(code)}
        handles += axes.plot(own["round"], 100 * own["unknown"], **look)
    axes.set(xlabel="round", ylabel="bits still unknown, %")
    axes.set_ylim(bottom=0)
    legend_above(figure, handles)
    return figure


# ---- degree distributions -----------------------------------------------------------------------


@style()
def two_views(survival: Sequence[float], *, open_ended: bool = True) -> Figure:
    """One distribution of one-sided degrees from its nodes, P(d), and from its edges, S(o) = P(d >= o).

    `survival` gives S(1), S(2), ...; with `open_ended` the last item stands for all larger distances. Raises
    `InputError` if it increases somewhere: then it comes from no distribution.
    """
    edge = np.array([1.0, *check_some(survival, "survivals")])
    if (np.diff(edge) > 1e-3).any():
        raise InputError("this survival function increases, so no degree distribution has it")
    names = [str(distance) for distance in range(len(edge))]
    if open_ended:
        edge, names = edge[:-1], [*names[:-2], "all"]
    node = edge - np.append(edge[1:], 0)
    figure = Figure(figsize=(WIDTH, 2.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.bar(range(len(node)), 100 * node, color=BLUE)
    left.set(xlabel="one-sided degree d", ylabel="tokens, %", title="seen from the nodes: P(d)")
    right.bar(range(1, len(edge)), 100 * edge[1:], color=ORANGE)
    right.set(xlabel="distance o", ylabel="edges that exist, %", title="seen from the edges: S(o) = P(d ≥ o)")
    for axes, start in ((left, 0), (right, 1)):
        shown = [*range(start, len(names) - 1, 4), len(names) - 1]
        shown = [place for place in shown if place == shown[-1] or shown[-1] - place > 2]
        axes.set_xticks(shown, [names[place] for place in shown])
        axes.grid(axis="x", visible=False)
    if open_ended:
        right.set_xticks(left.get_xticks()[left.get_xticks() > 0])
        right.set_xticklabels(
            [f"≥ {place}" if place == len(names) - 1 else names[int(place)] for place in right.get_xticks()]
        )
    return figure


@style()
def mean_degrees(kept: Sequence[Rows]) -> Figure:
    """Mean one-sided degree of each head (column) of each layer (row): the sum of its kept shares.

    `kept[layer][head][o - 1]` is the share of tokens that keep distance o, as in `HardDegrees`.
    """
    table = np.array([[sum(head) for head in layer] for layer in check_some(kept, "degrees")])
    texts = np.vectorize(lambda degree: f"{degree:.1f}".removesuffix(".0"))(table)
    return _by_head(table, texts)


@style()
def attention_by_head(shares: Sequence[Sequence[float]], framed: Collection[tuple[int, int]] = ()) -> Figure:
    """A share of the attention of each head (column) of each layer (row), in percent; some heads framed.

    `shares[layer][head]` lies in [0, 1]; `framed` lists layer and head of those that get a frame.
    """
    table = 100 * np.array(check_some(shares, "shares"))
    figure = _by_head(table, np.vectorize("{:.0f}".format)(table))
    for layer, head in framed:
        frame = Rectangle((head, layer), 1, 1, fill=False, edgecolor=COLOURS[3], linewidth=2.5, zorder=4)
        figure.axes[0].add_patch(frame)
    return figure


def _by_head(table: np.ndarray, texts: np.ndarray) -> Figure:
    """A cell for each layer and head, coloured by its number and with its text."""
    figure = Figure(figsize=(WIDTH, 0.36 * len(table) + 0.9), layout="constrained")
    axes = figure.subplots()
    # The square root keeps the many small numbers apart beside a few large ones.
    sns.heatmap(
        np.sqrt(table),
        annot=texts,
        fmt="",
        annot_kws={"fontsize": 9},
        cmap="cividis",
        linewidths=1.5,
        linecolor=BACKGROUND,
        cbar=False,
        ax=axes,
    )
    axes.set(xlabel="head", ylabel="layer")
    axes.tick_params(length=0)
    axes.tick_params(axis="y", rotation=0)
    return figure


@style()
def survivals(survival: Sequence[Rows], *, columns: int = 3) -> Figure:
    """S(o) against the distance o, a panel per layer and a line per head; the mean over heads is thick.

    `survival[layer][head][o - 1]` is S(o), as in a run's `learning`.
    """
    check_some(survival, "survival functions")
    columns = min(columns, len(survival))
    lines = math.ceil(len(survival) / columns)
    figure = Figure(figsize=(WIDTH, 1.9 * lines + 0.3), layout="constrained")
    panels = figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True)
    for unused in panels.flat[len(survival) :]:
        unused.remove()
    for layer, (axes, heads) in enumerate(zip(panels.flat, survival, strict=False)):
        lines_ = 100 * np.array([[1, *head] for head in heads])
        axes.plot(lines_.T, color=BLUE, linewidth=0.9, alpha=0.6)
        axes.plot(lines_.mean(0), color=INK, linewidth=2)
        axes.set(title=f"layer {layer}", ylim=(-3, 103))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.tick_params(labelbottom=layer + columns >= len(survival))
    figure.supxlabel("distance o", fontsize=10)
    figure.supylabel("S(o), %", fontsize=10)
    handles = [
        Line2D([], [], color=BLUE, linewidth=0.9, label="a head"),
        Line2D([], [], color=INK, linewidth=2, label="mean over heads"),
    ]
    legend_above(figure, handles)
    return figure


# ---- methods compared ---------------------------------------------------------------------------


@style()
def soft_and_hard(frame: pd.DataFrame, *, metric: str = "accuracy") -> Figure:
    """Each run before its degrees hardened (hollow) and at its end (filled), joined by a line.

    `frame` has a row per run with the columns `method`, `soft_density`, `soft`, `density` and `metric`, all
    but the first in [0, 1].
    """
    check_columns(frame, "method", "soft_density", "soft", "density", metric)
    figure = Figure(figsize=(WIDTH, 3.8), layout="constrained")
    axes = figure.subplots()
    looks = _method_looks(frame["method"])
    for _, run in frame.iterrows():
        look = looks[run["method"]] | {"linestyle": "none"}
        (x0, y0), (x1, y1) = (
            (100 * run["soft_density"], 100 * run["soft"]),
            (100 * run["density"], 100 * run[metric]),
        )
        axes.plot([x0, x1], [y0, y1], color=look["color"], linewidth=0.8, zorder=1)
        axes.plot(x0, y0, **look, markerfacecolor=BACKGROUND, zorder=2)
        axes.plot(x1, y1, **look, zorder=3)
    axes.set(xlabel="density over real tokens, %", ylabel=f"{metric}, %")
    handles = [Line2D([], [], **look, linestyle="none") for look in looks.values()]
    both = [legend_mark("before hardening", fillstyle="none"), legend_mark("hard, at the end")]
    legend_above(figure, handles + both)
    return figure


@style()
def methods_by_density(
    frame: pd.DataFrame,
    dense: Sequence[float] | Mapping[object, Sequence[float]] = (),
    *,
    col: str | None = None,
    metric: str = "accuracy",
) -> Figure:
    """Accuracy against measured density: means over seeds with 95 % intervals, single runs as small ticks.

    `frame` has a row per run with the columns `density` and `metric` (both in [0, 1]), `method` (colour and
    marker), `weights` (False: hollow), `point` (runs that agree in it and in the former two are seeds of one
    another) and `col` (panels with axes of their own). `dense` gives the metric of the dense runs, or a
    mapping from each level of `col` to it. Points of nearly equal density stand side by side. Raises
    `InputError` as `figures.accuracy_against_sparsity` does.
    """
    check_columns(frame, "density", metric, "method", "weights", "point", col)
    parts = [("", frame)] if col is None else list(frame.groupby(col, sort=False))
    figure = Figure(figsize=(WIDTH, 4.6), layout="constrained")
    panels = figure.subplots(1, len(parts), squeeze=False)[0]
    looks = _method_looks(frame["method"])
    for axes, (level, own) in zip(panels, parts, strict=True):
        check_alike(own, col)
        draw_dense(axes, dense_of(own, col, dense))
        points = own.groupby(["method", "weights", "point"], sort=False)
        places = beside(100 * points["density"].mean())
        for key, runs in points:
            look = looks[key[0]] | {"fillstyle": "full" if key[1] else "none"}
            draw_point(axes, places[key], 100 * runs[metric], look)
        axes.set(title=str(level), xlabel="density over real tokens, %")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    panels[0].set_ylabel(f"{metric}, %")
    handles = [Line2D([], [], **look, linestyle="none") for look in looks.values()]
    both = [legend_mark("weights on edges"), legend_mark("no weights", fillstyle="none")]
    legend_above(figure, handles + both * (frame["weights"].nunique() > 1) + dense_mark(dense))
    return figure


_METHODS = (  # they look alike in every figure
    "single width",
    "BigBird mixture",
    "learned, per head",
    "learned, per layer",
    "learned, per network",
    "adaptive span",
    "gates per distance",
    "attention mass",
)


def _method_looks(methods: Sequence[str]) -> dict[str, dict]:
    known = [method for method in _METHODS if method in set(methods)]
    others = [method for method in dict.fromkeys(methods) if method not in known]
    colours = [COLOURS[place] for place in (1, 2, 0, 9, 4, 3, 5, 7, 6)]
    looks = {}
    for method in known + others:
        place = _METHODS.index(method) if method in known else len(_METHODS) + others.index(method)
        looks[method] = {
            "label": method,
            "color": colours[place % len(colours)],
            "marker": MARKERS[place % len(MARKERS)],
        }
    return looks
