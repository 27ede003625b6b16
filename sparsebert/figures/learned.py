"""Figures of learned degrees: graphs of two rows, distributions, degrees by head, and what changes do."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
from jaxtyping import Bool
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from sparsebert.errors import InputError
from sparsebert.figures import look


@look.style()
def two_rows(
    graph_by_title: Mapping[str, tuple[str, str, Bool[Tensor, "upper lower"]]],
    degrees: Mapping[str, Sequence[int]] | None = None,
) -> Figure:
    """Graphs with edges between two rows of nodes, such as Tanner graphs; below each lower node its degree.

    Each title has the names of its upper nodes (squares) and lower nodes (circles), and which are linked.
    The edges of the lower nodes with the largest degree stand out, where these are few. A title may have
    `degrees` of its own; else a node's degree is the number of its edges.
    """
    figure, panels = look.panels_for(list(graph_by_title), 2.1, columns=2)
    for axes, (title, (above, below, graph)) in zip(panels, graph_by_title.items(), strict=True):
        linked = graph.numpy(force=True)
        upper, lower = (np.linspace(0, 1, count + 2)[1:-1] for count in linked.shape)
        degree = np.array((degrees or {}).get(title, linked.sum(0)))
        few = (degree == degree.max()).mean() <= 0.5
        for top, bottom in np.argwhere(linked):
            strong = degree[bottom] == degree.max() and few
            colour, width = (look.BLUE, 1.3) if strong else (look.PALE, 0.8)
            axes.plot([upper[top], lower[bottom]], [1, 0], color=colour, linewidth=width, zorder=1 + strong)
        axes.plot(upper, np.ones_like(upper), "s", color=look.ORANGE, markersize=8, zorder=3)
        axes.plot(lower, np.zeros_like(lower), "o", color=look.INK, markersize=8, zorder=3)
        for place, count in zip(lower, degree, strict=True):
            axes.text(place, -0.2, str(count), ha="center", va="top", fontsize=9)
        axes.text(0, 1.2, above, fontsize=9, va="bottom")
        axes.text(0, -0.55, below, fontsize=9, va="top")
        axes.set_ylim(-0.8, 1.45)
        axes.set_axis_off()
    return figure


@look.style()
def by_head(
    table: Sequence[Sequence[float]], form: str = "{:g}", framed: Collection[tuple[int, int]] = ()
) -> Figure:
    """A number for each head (column) of each layer (row), such as its mean degree, as a coloured cell.

    `table[layer][head]` is at least 0 and written in its cell in this `form`; `framed` lists layer and head
    of those that get a frame. Raises `InputError` if a number is negative.
    """
    numbers = np.array(table)
    if (numbers < 0).any():
        raise InputError(f"a head has the number {numbers.min():g}; give numbers of at least 0")
    figure, [axes] = look.panels_for([""], 0.36 * len(numbers), margin=0.9)
    # The square root keeps the many small numbers apart beside a few large ones.
    look.heat_map(axes, np.sqrt(numbers), np.vectorize(form.format)(numbers))
    axes.set(xlabel="head", ylabel="layer")
    for layer, head in framed:
        frame = Rectangle((head, layer), 1, 1, fill=False, edgecolor=look.RED, linewidth=2.5, zorder=4)
        axes.add_patch(frame)
    return figure


@look.style()
def survivals(survival: Sequence[Sequence[Sequence[float]]]) -> Figure:
    """S(o) against the distance o, a panel per layer and a line per head; the mean over heads is thick.

    `survival[layer][head][o - 1]` is S(o), as in a run's `learning`.
    """
    titles = [f"layer {layer}" for layer in range(len(survival))]
    figure, panels = look.panels_for(titles, 1.9, columns=3, margin=0.3, share="xy")
    for axes, heads in zip(panels, survival, strict=True):
        lines = 100 * np.array([[1, *head] for head in heads])
        a_head, *_ = axes.plot(lines.T, color=look.BLUE, linewidth=0.9, alpha=0.6)
        [mean] = axes.plot(lines.mean(0), color=look.INK, linewidth=2, label="mean over heads")
        axes.set_ylim(-3, 103)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    a_head.set_label("a head")
    figure.supxlabel("distance o", fontsize=10)
    figure.supylabel("S(o), %", fontsize=10)
    look.legend_above(figure, [a_head, mean])
    return figure
