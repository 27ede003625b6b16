"""Figures of patterns themselves: who may attend to whom, how far, how densely."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd
import seaborn as sns
from jaxtyping import Bool, Float, Int
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap, LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, Patch
from matplotlib.path import Path
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from sparsebert.errors import InputError
from sparsebert.figures import look


@look.style()
def grid(
    relation_by_title: Mapping[str, Bool[Tensor, "query key"]],
    tokens: Sequence[str],
    *,
    columns: int = 3,
    degrees: bool = False,
) -> Figure:
    """Relations as grids of queries (rows) and keys (columns), a panel per title; self-loops are darker.

    `degrees` writes at the end of each row how many other tokens the query may attend to.
    """
    size = len(tokens)
    figure, panels = _panels(relation_by_title, columns, tokens, tokens, "query", "key", extra=0.35)
    cells = ListedColormap([look.BACKGROUND, look.BLUE, look.INK])
    for axes, relation in zip(panels, relation_by_title.values(), strict=True):
        allowed = relation.numpy(force=True).astype(int)
        shade = allowed + allowed * np.eye(size, dtype=int)
        axes.pcolormesh(shade, cmap=cells, vmin=0, vmax=2, edgecolors=look.FAINT, linewidth=0.5)
        for query, degree in enumerate(allowed.sum(1) - allowed.diagonal() if degrees else ()):
            axes.text(size + 0.3, query + 0.5, str(degree), va="center", fontsize=8)
    legend = {"the query may attend to the key": look.BLUE, "to itself": look.INK}
    look.legend_above(figure, [Patch(color=colour, label=label) for label, colour in legend.items()])
    return figure


@look.style()
def influence(
    strength_by_title: Mapping[str, Float[Tensor, "output input"]],
    tokens: Sequence[str],
    *,
    outputs: Sequence[str] | None = None,
) -> Figure:
    """How strongly each output (row) depends on each input token (column); exact zeros are blank.

    All panels share one logarithmic colour scale. `outputs` names the rows where they aren't the tokens
    themselves. Raises `InputError` if a strength is negative.
    """
    rows = tokens if outputs is None else outputs
    side = "output" if outputs is None else ""
    figure, panels = _panels(strength_by_title, 3, rows, tokens, side, "input token", extra=0.7)
    values = {title: strength.numpy(force=True) for title, strength in strength_by_title.items()}
    for title, strength in values.items():
        if (strength < 0).any():
            raise InputError(f"a strength in '{title}' is negative; give norms")
    positive = np.concatenate([strength[strength > 0] for strength in values.values()])
    # One outlier at the faint end would wash out all the rest, so the scale starts where the mass does.
    low, high = (np.quantile(positive, 0.02), positive.max()) if positive.size else (0.1, 1)
    scale = LogNorm(min(low, high / 10), high)
    corners = range(len(tokens) + 1), range(len(rows) + 1)  # what has another shape is refused
    for axes, strength in zip(panels, values.values(), strict=True):
        shades = np.ma.masked_equal(strength, 0)
        cells = {"edgecolors": look.FAINT, "linewidth": 0.5}
        mesh = axes.pcolormesh(*corners, shades, cmap="viridis_r", norm=scale, **cells)
    bar = figure.colorbar(mesh, ax=panels, location="bottom", shrink=0.5, aspect=40, pad=0.02, extend="min")
    bar.set_label("gradient norm (blank: exactly zero)", fontsize=9)
    bar.outline.set_visible(False)
    return figure


@look.style()
def arcs(
    tokens: Sequence[str],
    relation: Bool[Tensor, "query key"],
    *,
    heads: Sequence[int] | Int[Tensor, " words"],
    words: Sequence[str],
    word_ids: Sequence[int] | Int[Tensor, " tokens"],
) -> Figure:
    """A sentence on a line: its parse as arrows above, the edges of a pattern over its tokens as arcs below.

    `heads` gives the head of each word (a root is its own); arrows lead from heads to dependants. `words`
    names the words and `word_ids` says which of them each token is a piece of (-1: none). An edge of
    `relation` is drawn once, whichever of the two may attend to the other. Raises `InputError` if heads
    and words don't match.
    """
    if len(heads) != len(words):
        raise InputError(f"{len(heads)} heads and {len(words)} words don't match; give one head per word")
    pieces: dict[int, list[int]] = {}  # of each word that has any
    for token, word in enumerate(map(int, word_ids)):
        if word >= 0:
            pieces.setdefault(word, []).append(token)

    # Data units are the width of a letter across and the height of a line upwards.
    widths = np.array([max(len(token), 2) + 1.5 for token in tokens])
    for word, own in pieces.items():
        widths[own] *= max(1, (1.2 * len(words[word]) + 1.5) / widths[own].sum())
    ends = widths.cumsum()
    starts = ends - widths
    token_at = (starts + ends) / 2
    word_at = {word: (starts[own[0]] + ends[own[-1]]) / 2 for word, own in pieces.items()}
    figure = Figure()
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    centred = {"ha": "center", "va": "center_baseline"}
    for at, token in zip(token_at, tokens, strict=True):
        axes.text(at, 0, token, **centred)
    for word, own in pieces.items():
        axes.text(word_at[word], 1, words[word], weight="bold", **centred)
        axes.plot([starts[own[0]] + 0.4, ends[own[-1]] - 0.4], [0.5, 0.5], color="#8c8c8c", linewidth=1)

    tops, bottoms, line = [2.5], [0.0], 1.55
    parsed = {word: int(head) for word, head in enumerate(heads) if word in word_at}
    for word, head in parsed.items():
        if head != word and head in word_at:
            start = word_at[head] + 0.35 * np.sign(word - head)  # beside the arrow that leads to the head
            tops.append(_arc(axes, start, word_at[word], line, 1, look.INK, "-|>"))
    arrow = {"ha": "center", "fontsize": 9, "arrowprops": {"arrowstyle": "-|>", "color": look.INK}}
    for word in (word for word, head in parsed.items() if head == word):
        axes.annotate("root", (word_at[word], line), (word_at[word], max(tops) + 0.6), **arrow)
    linked = relation.numpy(force=True)
    for one, other in np.argwhere(np.triu(linked | linked.T, 1)):
        bottoms.append(_arc(axes, token_at[one], token_at[other], -0.5, -1, look.BLUE))
    low, high = min(bottoms) - 0.4, max(tops) + 1.4
    axes.set(xlim=(-0.5, ends[-1] + 0.5), ylim=(low, high))
    # A long sentence makes a wide figure, not small letters.
    figure.set_size_inches(max(look.WIDTH, 0.083 * (ends[-1] + 1)), 0.22 * (high - low))
    return figure


def _arc(axes: Axes, start: float, end: float, line: float, side: int, colour: str, tip: str = "-") -> float:
    """Draw an arc above (side 1) or below (-1) a line; returns how far up or down it reaches."""
    height = side * (0.6 + 0.8 * math.sqrt(abs(end - start)))
    corners = [(start, line), (start, line + height * 4 / 3), (end, line + height * 4 / 3), (end, line)]
    path = Path(corners, [Path.MOVETO, *[Path.CURVE4] * 3])
    axes.add_patch(FancyArrowPatch(path=path, color=colour, arrowstyle=tip, mutation_scale=9, linewidth=1.2))
    return line + height


def _panels(
    titles: Iterable[str], columns: int, rows: Sequence, tokens: Sequence, side: str, below: str, extra: float
) -> tuple[Figure, list[Axes]]:
    """A panel of square cells per title, as wide as the page together, and `extra` inches for a legend.

    Rows and columns of cells are labelled, and so are their axes, with `side` and `below`.
    """
    titles = list(titles)
    columns = min(columns, len(titles)) or 1
    left, bottom = (0.08 * max(map(len, labels)) + 0.35 for labels in (rows, tokens))
    cell = min((look.WIDTH - left - 0.2 * columns) / columns / len(tokens), 0.4)  # inches
    titled = [look.wrapped(title, 88 // columns) for title in titles]
    above = 0.15 + 0.17 * max((title.count("\n") + 1 for title in titled), default=1)
    size = {"columns": columns, "margin": bottom + extra, "share": "xy"}
    figure, panels = look.panels_for(titled, len(rows) * cell + above, **size, ylabel=side)
    for number, axes in enumerate(panels):
        axes.title.set_fontsize(9)
        axes.set(aspect="equal", xlim=(0, len(tokens)), ylim=(len(rows), 0))
        axes.grid(False)
        axes.set_xticks(np.arange(len(tokens)) + 0.5, tokens, rotation=90)
        axes.set_yticks(np.arange(len(rows)) + 0.5, rows, va="center_baseline")
        axes.tick_params(length=0, pad=2, labelsize=9 if len(tokens) <= 14 else 8)
        axes.spines[:].set_visible(False)
        axes.set_xlabel(below if number + columns >= len(titles) else "")
    return figure, panels


@look.style()
def lines(
    frame: pd.DataFrame, x: str, y: str, by: str = "pattern", *, col: str | None = None, **labels: str
) -> Figure:
    """A share `y` (in [0, 1]) against a whole number `x`: a line per level of `by`, a panel per `col`.

    `x`, `y`, `by` and `col` are columns of `frame`; rows that agree in all but `y` are averaged. `labels` are
    `xlabel` and `ylabel`.
    """
    figure, panels = look.panels_of(frame, col, 3.8, share="xy", **labels)
    looks = look.looks_of(frame[by])
    for axes, _, part in panels:
        levels = part[by].astype(str)
        for level, own_look in looks.items():
            mean = 100 * part[levels == level].groupby(x)[y].mean().dropna()
            axes.plot(mean.index, mean, **own_look, markevery=max(1, len(mean) // 12))
        axes.set_ylim(bottom=0)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    look.legend_above(figure, axes.get_legend_handles_labels()[0])
    return figure


@look.style()
def densities(frame: pd.DataFrame) -> Figure:
    """Density of each pattern, counted over real tokens and over the padded square.

    Columns of `frame`: `pattern`, `over_real` and `over_padded`, both in [0, 1]; one row per pattern.
    """
    names = {"over_real": "of the pairs of real tokens", "over_padded": "of the padded square"}
    shares = 100 * frame.set_index(frame["pattern"].map(look.wrapped))[list(names)].rename(columns=names)
    figure, [(axes, *_)] = look.panels_of(frame, None, 0.48 * len(frame), margin=1.2)
    shares.plot.barh(ax=axes, color=[look.BLUE, look.ORANGE], width=0.8, legend=False)
    for bars in axes.containers:
        axes.bar_label(bars, fmt="%.1f", padding=3, fontsize=9)
    axes.set(xlabel="allowed pairs, %", ylabel="", xlim=(0, 109))
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    look.legend_above(figure, axes.containers)
    return figure


@look.style()
def degrees(frame: pd.DataFrame, *, columns: int = 3) -> Figure:
    """How the degrees of tokens are distributed: a histogram per pattern, with the mean as a dashed line.

    Columns of `frame`: `pattern` and `degree`; one row per token.
    """
    figure, panels = look.panels_of(frame, "pattern", 1.9, columns=columns, share="xy")
    bars = {"discrete": True, "stat": "percent", "color": look.BLUE, "alpha": 1, "linewidth": 0}
    for axes, pattern, own in panels:
        mean = own["degree"].mean()
        sns.histplot(own, x="degree", **bars, ax=axes)
        axes.axvline(mean, **look.DENSE_LINE)
        axes.set_title(f"{look.wrapped(pattern)}\nmean {mean:.1f}", fontsize=9)
        axes.set(xlabel="degree", ylabel="tokens, %")
        axes.tick_params(labelbottom=True)
    return figure
