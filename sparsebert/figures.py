"""The book's figures: each function takes data and returns a matplotlib Figure; `show` puts it on the page.

Figures are drawn for a column of 720 pixels, on a background of their own so that they read on light and dark
pages, in colours that colour-blind readers can tell apart; where colours matter, so do markers or places.
"""

from __future__ import annotations

import base64
import io
import math
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
from IPython.display import display
from jaxtyping import Bool, Float, Int
from matplotlib import pyplot as plt
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap, LogNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import FancyArrowPatch, Patch
from matplotlib.path import Path
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from sparsebert.errors import InputError
from sparsebert.intervals import mean_interval
from sparsebert.patterns import Global, Pattern, Random, Union, parse_pattern

WIDTH = 7.2  # inches across the page's column
PIXELS_PER_INCH = 100  # as shown; saved at twice that for sharp screens

BACKGROUND = "#fcfcfa"
INK = "#262626"
FAINT = "#d9d9d6"
_COLOURS = sns.color_palette("colorblind").as_hex()
BLUE, ORANGE = _COLOURS[0], _COLOURS[1]
_MARKERS = "osD^vPX<>*"
_FAMILIES = ("neighbour", "random", "syntax", "lexical", "global", "dense")  # they look alike in every figure


@contextmanager
def style() -> Iterator[None]:
    """The look of every figure; use it as a context manager or, as here, as a decorator."""
    look = {
        "figure.facecolor": BACKGROUND,
        "axes.facecolor": BACKGROUND,
        "savefig.facecolor": BACKGROUND,
        "axes.edgecolor": "#8c8c8c",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": "#e6e6e3",
        "text.color": INK,
        "axes.labelcolor": INK,
        "xtick.color": INK,
        "ytick.color": INK,
        "font.size": 10,
        "axes.titlesize": 10,
        "axes.labelsize": 10,
        "xtick.labelsize": 9,
        "ytick.labelsize": 9,
        "legend.fontsize": 9,
        "legend.title_fontsize": 9,
        "legend.frameon": False,
        "lines.linewidth": 1.8,
        "lines.markersize": 6,
    }
    with mpl.rc_context({**sns.axes_style("ticks"), **look}):
        yield


def show(figure: Figure, name: str, caption: str, alt: str) -> None:
    """Display a figure once, as a PNG, and close it; a cell of a chapter ends with this call.

    `name` is the figure's label in the book (``{numref}`name` ``), `caption` stands below it, and `alt` says
    to those who can't see it what it shows. Rendering the chapter reads them from the output's metadata.
    Raises `InputError` if any is empty.
    """
    given = {"name": name, "caption": caption, "alt": alt}
    for what, text in given.items():
        if not text.strip():
            raise InputError(f"figure '{name}' has no {what}: give it a name, a caption and an alt text")
    stream = io.BytesIO()
    with style():
        figure.savefig(stream, format="png", dpi=2 * PIXELS_PER_INCH, bbox_inches="tight", pad_inches=0.12)
    plt.close(figure)
    pixels = int.from_bytes(stream.getvalue()[16:20])  # the width in a PNG's header
    display(
        {"image/png": base64.b64encode(stream.getvalue()).decode(), "text/plain": f"Figure: {alt}"},
        metadata={"image/png": {"width": pixels // 2}, "sparsebert": given},
        raw=True,
    )


# ---- who may attend to whom ---------------------------------------------------------------------


@style()
def grid(
    relation_by_title: Mapping[str, Bool[Tensor, "query key"]],
    tokens: Sequence[str],
    *,
    columns: int = 3,
    degrees: bool = False,
) -> Figure:
    """Relations as grids of queries (rows) and keys (columns), a panel per title; self-loops are darker.

    `degrees` writes at the end of each row how many other tokens the query may attend to. Raises `InputError`
    if there is no relation or its shape isn't [tokens, tokens].
    """
    size = len(tokens)
    for title, relation in _some(relation_by_title, "relations").items():
        _check_shape(relation, (size, size), title)
    figure, panels = _panels(relation_by_title, columns, tokens, tokens, extra=0.35)
    cells = ListedColormap([BACKGROUND, BLUE, INK])
    for axes, relation in zip(panels, relation_by_title.values(), strict=True):
        allowed = relation.numpy(force=True).astype(int)
        shade = allowed + allowed * np.eye(size, dtype=int)
        axes.pcolormesh(shade, cmap=cells, vmin=0, vmax=2, edgecolors=FAINT, linewidth=0.5)
        _token_axes(axes, tokens, tokens)
        if degrees:
            for query, degree in enumerate(allowed.sum(1) - allowed.diagonal()):
                axes.text(size + 0.3, query + 0.5, str(degree), va="center", fontsize=8)
    legend = [Patch(color=BLUE, label="the query may attend to the key"), Patch(color=INK, label="to itself")]
    _legend_above(figure, legend)
    return figure


@style()
def influence(
    strength_by_title: Mapping[str, Float[Tensor, "output input"]],
    tokens: Sequence[str],
    *,
    outputs: Sequence[str] | None = None,
    columns: int = 3,
    label: str = "gradient norm",
) -> Figure:
    """How strongly each output (row) depends on each input token (column); exact zeros are blank.

    All panels share one logarithmic colour scale. `outputs` names the rows where they aren't the tokens
    themselves. Raises `InputError` if there is nothing to draw, a shape doesn't fit or a strength is
    negative.
    """
    outputs = tokens if outputs is None else outputs
    _some(strength_by_title, "strengths")
    values = {title: strength.numpy(force=True) for title, strength in strength_by_title.items()}
    for title, strength in values.items():
        _check_shape(strength, (len(outputs), len(tokens)), title)
        if (strength < 0).any():
            raise InputError(f"a strength in '{title}' is negative; give norms")
    positive = np.concatenate([strength[strength > 0] for strength in values.values()])
    # One outlier at the faint end would wash out all the rest, so the scale starts where the mass does.
    low, high = (np.quantile(positive, 0.02), positive.max()) if positive.size else (0.1, 1)
    scale = LogNorm(min(low, high / 10), high)
    figure, panels = _panels(values, columns, outputs, tokens, extra=0.7)
    for axes, strength in zip(panels, values.values(), strict=True):
        shades = np.ma.masked_equal(strength, 0)
        mesh = axes.pcolormesh(shades, cmap="viridis_r", norm=scale, edgecolors=FAINT, linewidth=0.5)
        _token_axes(axes, outputs, tokens, "output" if outputs is tokens else "", "input token")
    bar = figure.colorbar(mesh, ax=panels, location="bottom", shrink=0.5, aspect=40, pad=0.02, extend="min")
    bar.set_label(f"{label} (blank: exactly zero)", fontsize=9)
    bar.outline.set_visible(False)
    return figure


@style()
def arcs(
    tokens: Sequence[str],
    relation: Bool[Tensor, "query key"] | None = None,
    *,
    heads: Sequence[int] | Int[Tensor, " words"] | None = None,
    words: Sequence[str] | None = None,
    word_ids: Sequence[int] | Int[Tensor, " tokens"] | None = None,
    highlight: int | None = None,
) -> Figure:
    """A sentence on a line: its parse as arrows above, the edges of a pattern over its tokens as arcs below.

    `heads` gives the head of each word (a root is its own); arrows lead from heads to dependants. Where
    words and tokens differ, `words` names the words and `word_ids` says which of them each token is a piece
    of (-1: none). An edge of `relation` is drawn once, whichever of the two may attend to the other;
    `highlight` brings out the edges of one token. Raises `InputError` if there is neither a parse nor a
    relation, or sizes don't fit.
    """
    tokens = list(_some(tokens, "tokens"))
    if heads is None and relation is None:
        raise InputError("arcs draws a parse, a relation, or both: give heads or relation")
    if (words is None) != (word_ids is None):
        raise InputError("where words and tokens differ, arcs takes both words and word_ids")
    two_lines = words is not None
    words = list(words) if two_lines else tokens
    pieces: dict[int, list[int]] = {}  # of each word that has any
    for token, word in enumerate(word_ids if two_lines else range(len(tokens))):
        if word >= 0:
            pieces.setdefault(int(word), []).append(token)
    if relation is not None:
        _check_shape(relation, (len(tokens), len(tokens)), "relation")
    if heads is not None and len(heads) != len(words):
        raise InputError(f"{len(heads)} heads and {len(words)} words don't match; give one head per word")

    # Data units are the width of a letter across and the height of a line upwards.
    widths = np.array([max(len(token), 2) + 1.5 for token in tokens])
    for word, own in pieces.items() if two_lines else ():
        widths[own] *= max(1, (1.2 * len(words[word]) + 1.5) / widths[own].sum())
    ends = widths.cumsum()
    token_at = ends - widths / 2
    word_at = {word: (ends[own[0]] - widths[own[0]] + ends[own[-1]]) / 2 for word, own in pieces.items()}
    word_line = 1.0 if two_lines else 0.0
    figure = Figure()
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    centred = {"ha": "center", "va": "center_baseline"}
    for at, token in zip(token_at, tokens, strict=True):
        axes.text(at, 0, token, **centred)
    for word, own in pieces.items() if two_lines else ():
        axes.text(word_at[word], word_line, words[word], weight="bold", **centred)
        span = [ends[own[0]] - widths[own[0]] + 0.4, ends[own[-1]] - 0.4]
        axes.plot(span, [0.5, 0.5], color="#8c8c8c", linewidth=1)

    tops, bottoms = [word_line + (0 if heads is None else 1.5)], [0.0]
    parsed = {word: int(head) for word, head in enumerate([] if heads is None else heads) if word in word_at}
    for word, head in parsed.items():
        if head != word and head in word_at:
            start = word_at[head] + 0.35 * np.sign(word - head)  # beside the arrow that leads to the head
            tops.append(_arc(axes, start, word_at[word], word_line + 0.55, 1, INK, "-|>"))
    for word, head in parsed.items():
        if head == word:
            tip, tail = (word_at[word], word_line + 0.55), (word_at[word], max(tops) + 0.6)
            arrow = {"arrowstyle": "-|>", "color": INK}
            axes.annotate("root", tip, tail, ha="center", fontsize=9, arrowprops=arrow)
    if relation is not None:
        linked = relation.numpy(force=True)
        edges = [tuple(map(int, edge)) for edge in np.argwhere(np.triu(linked | linked.T, 1))]
        for edge in sorted(edges, key=lambda edge: highlight in edge):  # what is brought out lies on top
            colour = BLUE if highlight is None or highlight in edge else "#bdbdb9"
            bottoms.append(_arc(axes, token_at[edge[0]], token_at[edge[1]], -0.5, -1, colour))
    low, high = min(bottoms) - 0.4, max(tops) + (1.4 if parsed else 0.6)
    axes.set(xlim=(-0.5, ends[-1] + 0.5), ylim=(low, high))
    per_letter = max(WIDTH / (ends[-1] + 1), 0.083)  # a long sentence makes a wide figure, not small letters
    figure.set_size_inches(per_letter * (ends[-1] + 1), 0.22 * (high - low))
    return figure


def _arc(axes: Axes, start: float, end: float, line: float, side: int, colour: str, tip: str = "-") -> float:
    """Draw an arc above (side 1) or below (-1) a line; returns how far up or down it reaches."""
    height = side * (0.6 + 0.8 * math.sqrt(abs(end - start)))
    corners = [(start, line), (start, line + height * 4 / 3), (end, line + height * 4 / 3), (end, line)]
    path = Path(corners, [Path.MOVETO, *[Path.CURVE4] * 3])
    axes.add_patch(FancyArrowPatch(path=path, color=colour, arrowstyle=tip, mutation_scale=9, linewidth=1.2))
    return line + height


def _panels(
    titles: Iterable[str], columns: int, rows: Sequence[str], tokens: Sequence[str], extra: float
) -> tuple[Figure, list[Axes]]:
    """A panel of square cells per title, as wide as the page together, and `extra` inches for a legend."""
    titles = list(titles)
    columns = min(columns, len(titles))
    lines = math.ceil(len(titles) / columns)
    left, below = (0.08 * max(map(len, labels)) + 0.35 for labels in (rows, tokens))
    cell = min((WIDTH - left - 0.2 * columns) / columns / len(tokens), 0.4)  # inches
    titled = [_wrapped(title, 88 // columns) for title in titles]
    above = 0.15 + 0.17 * max(title.count("\n") + 1 for title in titled)
    height = lines * (len(rows) * cell + above) + below + extra
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True)
    for unused in axes.flat[len(titles) :]:
        unused.remove()
    for number, (panel, title) in enumerate(zip(axes.flat, titled, strict=False)):
        panel.set_title(title, fontsize=9)
        panel.tick_params(labelbottom=number + columns >= len(titles))  # where no panel is below
    return figure, list(axes.flat[: len(titles)])


def _token_axes(
    axes: Axes,
    rows: Sequence[str],
    columns: Sequence[str],
    row_label: str = "query",
    column_label: str = "key",
) -> None:
    axes.set_aspect("equal")
    axes.grid(False)
    axes.tick_params(length=0, pad=2)
    axes.set_xticks(np.arange(len(columns)) + 0.5, columns, rotation=90)
    axes.set_yticks(np.arange(len(rows)) + 0.5, rows, va="center_baseline")
    axes.tick_params(labelsize=9 if len(columns) <= 14 else 8)
    axes.set(xlim=(0, len(columns)), ylim=(len(rows), 0))
    axes.spines[:].set_visible(False)
    if axes.get_subplotspec().is_first_col():
        axes.set_ylabel(row_label)
    if axes.xaxis.get_tick_params()["labelbottom"]:
        axes.set_xlabel(column_label)


# ---- how far, how dense -------------------------------------------------------------------------


@style()
def reach(frame: pd.DataFrame, *, hue: str = "pattern", col: str | None = None) -> Figure:
    """How much of a sequence information can come from after n layers: a line per pattern, a panel per `col`.

    Columns of `frame`: `layers` (0, 1, ...), `share` (of the tokens, in [0, 1]), `hue` and `col`; rows that
    agree in all of these are averaged.
    """
    _check_columns(frame, "layers", "share", hue, col)
    figure, panels = _side_by_side(frame, col)
    looks = _looks(frame[hue])
    for axes, part in panels:
        for level, look in looks.items():
            mean = 100 * part[part[hue].astype(str) == level].groupby("layers")["share"].mean()
            axes.plot(mean.index, mean, **look)
        axes.set(xlabel="layers", ylim=(0, 104))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    panels[0][0].set_ylabel("tokens within reach, %")
    _legend_above(figure, [Line2D([], [], **look) for look in looks.values()])
    return figure


@style()
def densities(frame: pd.DataFrame) -> Figure:
    """Density of each pattern, counted over real tokens and over the padded square.

    Columns of `frame`: `pattern`, `over_real` and `over_padded`, both in [0, 1]; one row per pattern.
    """
    _check_columns(frame, "pattern", "over_real", "over_padded")
    names = {"over_real": "of the pairs of real tokens", "over_padded": "of the padded square"}
    long = frame.rename(columns=names).melt("pattern", list(names.values()), "counted", "density")
    long["density"] *= 100
    figure = Figure(figsize=(WIDTH, 0.48 * len(frame) + 1.2), layout="constrained")
    axes = figure.subplots()
    sns.barplot(long, y="pattern", x="density", hue="counted", palette=[BLUE, ORANGE], saturation=1, ax=axes)
    for bars in axes.containers:
        axes.bar_label(bars, fmt="%.1f", padding=3, fontsize=9)
    axes.set(xlabel="allowed pairs, %", ylabel="", xlim=(0, 109))
    axes.set_yticks(axes.get_yticks(), [_wrapped(label.get_text()) for label in axes.get_yticklabels()])
    axes.grid(axis="y", visible=False)
    handles, _ = axes.get_legend_handles_labels()
    axes.get_legend().remove()
    _legend_above(figure, handles)
    return figure


@style()
def degrees(frame: pd.DataFrame, *, columns: int = 3) -> Figure:
    """How the degrees of tokens are distributed: a histogram per pattern, with the mean as a dashed line.

    Columns of `frame`: `pattern` and `degree`; one row per token.
    """
    _check_columns(frame, "pattern", "degree")
    patterns = list(dict.fromkeys(frame["pattern"]))
    columns = min(columns, len(patterns))
    lines = math.ceil(len(patterns) / columns)
    figure = Figure(figsize=(WIDTH, 1.9 * lines), layout="constrained")
    panels = figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True)
    for unused in panels.flat[len(patterns) :]:
        unused.remove()
    for axes, pattern in zip(panels.flat, patterns, strict=False):
        own = frame.loc[frame["pattern"] == pattern, "degree"]
        sns.histplot(x=own, discrete=True, stat="percent", color=BLUE, alpha=1, linewidth=0, ax=axes)
        axes.axvline(own.mean(), color=INK, linestyle="--", linewidth=1.2)
        axes.set_title(f"{_wrapped(pattern)}\nmean {own.mean():.1f}", fontsize=9)
        axes.set(xlabel="degree", ylabel="tokens, %")
        axes.tick_params(labelbottom=True)
    return figure


# ---- results over seeds -------------------------------------------------------------------------


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

    `frame` has a row per run with the columns `sparsity` and `metric` (both in [0, 1]), `hue` (colours; a
    degree-matched control is hollow, in its pattern's colour), `style` (markers) and `col` (panels). `dense`
    gives the metric of the dense runs, or a mapping from each level of `col` to it; it is drawn as a line
    with its interval as a band. Raises `InputError` if runs would be averaged that differ in task, encoder,
    training size, placement or [CLS], or if the mapping lacks a level.
    """
    _check_columns(frame, "sparsity", metric, hue, style, col)
    _check_alike(frame, hue, style, col)
    figure, panels = _side_by_side(frame, col, height=4.4)
    looks = _looks(frame[hue])
    markers = dict(zip(dict.fromkeys(frame[style]), _MARKERS, strict=False)) if style else {}
    for axes, part in panels:
        _dense_line(axes, _dense_of(part, col, dense))
        for keys, runs in part.groupby([hue, style] if style else [hue], sort=False):
            look = looks[str(keys[0])] | ({"marker": markers[keys[1]]} if style else {})
            _point(axes, 100 * runs["sparsity"].mean(), 100 * runs[metric], look)
        axes.set_xlabel("sparsity over real tokens, %")
    panels[0][0].set_ylabel(f"{metric}, %")
    placed = [_mark(str(level), marker=marker) for level, marker in markers.items()]
    _legend_above(figure, _pattern_marks(looks, one_marker=bool(style)) + placed + _dense_mark(dense))
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
    _check_columns(frame, "pattern", loss, col)
    _check_alike(frame, "pattern", col)
    looks = _looks(frame["pattern"])
    rows = list(dict.fromkeys(look["label"] for look in looks.values()))
    figure, panels = _side_by_side(frame, col, height=0.55 * len(rows) + 1.5)
    for axes, part in panels:
        axes.axvline(0, color=INK, linewidth=1.2)
        for text, runs in part.groupby("pattern", sort=False):
            look = looks[text]
            beside = (0.18 if look["fillstyle"] == "none" else -0.18) * _any_control(looks)
            _point(axes, rows.index(look["label"]) + beside, -100 * runs[loss], look, sideways=True)
        for between in range(1, len(rows)):
            axes.axhline(between - 0.5, color=FAINT, linewidth=0.8, zorder=0)
        axes.set(yticks=range(len(rows)), yticklabels=map(_wrapped, rows), ylim=(len(rows) - 0.5, -0.5))
        axes.grid(axis="y", visible=False)
        axes.tick_params(axis="y", length=0)
    figure.supxlabel(f"{metric} against {reference}, points", fontsize=10)
    both = [_mark("the pattern"), _mark(_CONTROL, fillstyle="none")]
    _legend_above(figure, both if _any_control(looks) else [])
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
    _check_columns(frame, first, metric, hue)
    _check_alike(frame, hue, "placement")
    figure, [(axes, _)] = _side_by_side(frame, None, height=4.0)
    looks = _looks(frame[hue])
    _dense_line(axes, dense)
    for place, (level, look) in enumerate(looks.items()):
        aside = 0.08 * (place - (len(looks) - 1) / 2)  # so that intervals stand side by side
        runs_at = (100 * frame[frame[hue].astype(str) == level].set_index(first)[metric]).groupby(level=0)
        for layer, runs in runs_at:
            _point(axes, layer + aside, runs, look)
        means = runs_at.mean()
        axes.plot(means.index + aside, means, **look | {"marker": "none"})
    axes.set(xlabel="first sparse layer", ylabel=f"{metric}, %")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _legend_above(figure, _pattern_marks(looks) + _dense_mark(dense))
    return figure


def _point(axes: Axes, place: float, values: pd.Series, look: dict, sideways: bool = False) -> None:
    """The mean of runs as a marker with its interval, if it has one, and each run as a tick across it."""
    mean, low, high = mean_interval(values)
    across = np.full(len(values), place)
    tick = {"color": look["color"], "linestyle": "none", "marker": "|" if sideways else "_", "markersize": 5}
    axes.plot(*((values, across) if sideways else (across, values)), **tick, markeredgewidth=1, zorder=2)
    spread = None if math.isnan(low) else [[mean - low], [high - mean]]
    bounds = {"xerr" if sideways else "yerr": spread, "elinewidth": 1.4}
    filled = {"markerfacecolor": BACKGROUND, "fillstyle": "full"} if look["fillstyle"] == "none" else {}
    drawn = look | {"linestyle": "none", "markeredgewidth": 1.5} | filled | bounds
    axes.errorbar(*((mean, place) if sideways else (place, mean)), **drawn, zorder=3)


def _dense_of(part: pd.DataFrame, col: str | None, dense: Sequence | Mapping) -> Sequence[float]:
    if not isinstance(dense, Mapping):
        return dense
    level = part[col].iloc[0] if col else None
    if level not in dense:
        raise InputError(f"dense has no runs for {level}, only for {', '.join(map(str, dense)) or 'nothing'}")
    return dense[level]


def _dense_line(axes: Axes, dense: Sequence[float]) -> None:
    values = [100 * value for value in dense]
    if values:
        mean, low, high = mean_interval(values)
        axes.axhline(mean, color=INK, linestyle="--", linewidth=1.3, zorder=1)
        if not math.isnan(low):
            axes.axhspan(low, high, color=INK, alpha=0.1, linewidth=0, zorder=0)


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
    _check_columns(frame, x, y, col, metric)
    _check_alike(frame, x, y, col)
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
    _check_columns(frame, "density", metric, hue, point)
    _check_alike(frame, hue, point)
    figure, [(axes, _)] = _side_by_side(frame, None, height=4.4)
    looks = _looks(frame[hue])
    _dense_line(axes, dense)
    for (level, _), runs in frame.groupby([hue, point], sort=False):
        _point(axes, 100 * runs["density"].mean(), 100 * runs[metric], looks[str(level)])
    axes.set(xlabel="density over real tokens, %", ylabel=f"{metric}, %")
    _legend_above(figure, _pattern_marks(looks) + _dense_mark(dense))
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
    _check_columns(frame, "step", "part", "degree", value, col)
    _check_alike(frame, "step", "part", col)
    parts = list(frame.groupby(col, sort=False))
    figure = Figure(figsize=(WIDTH, 3.8), layout="constrained")
    panels = figure.subplots(1, len(parts), squeeze=False)[0]
    looks = _looks(frame["part"])
    for axes, (level, own) in zip(panels, parts, strict=True):
        axes.axhline(0, color=INK, linewidth=1.2)
        for (kind, _), runs in own.groupby(["part", "step"], sort=False):
            aside = 0.12 * (list(looks).index(str(kind)) - (len(looks) - 1) / 2)  # steps from one point
            _point(axes, runs["degree"].mean() + aside, 100 * runs[value], looks[str(kind)])
        axes.set(title=level, xlabel="mean degree before", ylabel="")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    panels[0].set_ylabel(f"{metric}, points per added degree")
    _legend_above(figure, _pattern_marks(looks))
    return figure


# ---- what they share ----------------------------------------------------------------------------

_CONTROL = "its degree-matched random control"


def _looks(levels: Iterable[object]) -> dict[str, dict]:
    """How to draw each level, as arguments of matplotlib's plot.

    Levels that are patterns of one kind look alike in every figure where they can. A degree-matched control
    has the label and colour of its pattern, but is hollow and dashed. Global tokens are left out of the
    labels if all the patterns have the same ones.
    """
    read = {str(level): _read(str(level)) for level in dict.fromkeys(levels)}
    shared = {globals_ for bare, globals_, _ in read.values() if bare not in ("", "dense")}
    labels = {
        text: bare if bare and len(shared) == 1 else " | ".join(filter(None, (bare, globals_)))
        for text, (bare, globals_, _) in read.items()
    }
    places: dict[str, int] = {}  # of each label among the colours and markers
    for label in sorted(dict.fromkeys(labels.values()), key=lambda label: "|" in label):  # unions come last
        kind = next((number for number, name in enumerate(_FAMILIES) if label.startswith(name)), None)
        if kind is not None and kind not in places.values():
            places[label] = kind
    for label in dict.fromkeys(labels.values()):
        if label not in places:
            free = (number for number in (6, 7, 8, 9, *range(6)) if number not in places.values())
            places[label] = next(free, len(places) % len(_MARKERS))
    colours = [*_COLOURS[:5], INK, *_COLOURS[5:8], _COLOURS[9]]  # yellow is hard to see on a light page
    looks = {}
    for text, (_, _, control) in read.items():
        place = places[labels[text]]
        looks[text] = {
            "label": labels[text],
            "color": colours[place],
            "marker": _MARKERS[place],
            "fillstyle": "none" if control else "full",
            "linestyle": "--" if control else "-",
        }
    return looks


def _read(text: str) -> tuple[str, str, bool]:
    """A pattern's text without its global tokens, those, and whether it is a degree-matched control.

    A control is read as the pattern that it controls. What isn't a pattern is taken as it is.
    """
    try:
        pattern = parse_pattern(text)
    except InputError:
        return text, "", False
    bare, globals_ = _apart(pattern)
    if len(bare) == 1 and isinstance(bare[0], Random) and bare[0].like is not None:
        return " | ".join(map(str, _apart(bare[0].like)[0])), globals_, True
    return " | ".join(map(str, bare)), globals_, False


def _apart(pattern: Pattern) -> tuple[list[Pattern], str]:
    parts = pattern.parts if isinstance(pattern, Union) else (pattern,)
    globals_ = [str(part) for part in parts if isinstance(part, Global)]
    return [part for part in parts if not isinstance(part, Global)], " | ".join(globals_)


def _side_by_side(
    frame: pd.DataFrame, col: str | None, height: float = 3.8
) -> tuple[Figure, list[tuple[Axes, pd.DataFrame]]]:
    """A panel per level of `col`, in the order they come, each with its part of the frame."""
    parts = [("", frame)] if col is None else list(frame.groupby(col, sort=False))
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    panels = figure.subplots(1, len(parts), squeeze=False, sharex=True, sharey=True)[0]
    for axes, (level, _) in zip(panels, parts, strict=True):
        axes.set_title(str(level))
    return figure, [(axes, part) for axes, (_, part) in zip(panels, parts, strict=True)]


def _mark(label: str, **look: object) -> Line2D:
    return Line2D([], [], **{"color": "#595959", "marker": "o", "linestyle": "none", **look}, label=label)


def _pattern_marks(looks: Mapping[str, dict], one_marker: bool = False) -> list[Line2D]:
    """A mark per colour and, if there are controls, one that says what hollow means."""
    plain = {"linestyle": "none", "fillstyle": "full"} | ({"marker": "o"} if one_marker else {})
    of_label = {look["label"]: look | plain for look in looks.values()}
    marks = [Line2D([], [], **look) for look in of_label.values()]
    return marks + [_mark(_CONTROL, fillstyle="none")] * _any_control(looks)


def _any_control(looks: Mapping[str, dict]) -> bool:
    return any(look["fillstyle"] == "none" for look in looks.values())


def _dense_mark(dense: Sequence | Mapping) -> list[Line2D]:
    return [Line2D([], [], color=INK, linestyle="--", linewidth=1.3, label="dense")] if len(dense) else []


def _legend_above(figure: Figure, handles: Sequence[Artist]) -> None:
    """A legend outside the axes, where it covers no data, in as few lines as the page has room for."""
    if handles:
        longest = max(len(handle.get_label()) for handle in handles)
        lines = math.ceil(len(handles) / max(1, 100 // (longest + 7)))
        columns = math.ceil(len(handles) / lines)  # the last line is about as full as the others
        figure.legend(handles=handles, loc="outside upper center", ncols=columns)


def _wrapped(text: str, width: int = 30) -> str:
    return "\n".join(textwrap.wrap(text, width))


def _some(things: Sequence | Mapping, what: str) -> Sequence | Mapping:
    if not len(things):
        raise InputError(f"there are no {what} to draw; give at least one")
    return things


def _check_shape(array: Tensor | np.ndarray, shape: tuple[int, int], title: str) -> None:
    if tuple(array.shape) != shape:
        raise InputError(f"'{title}' has the shape {list(array.shape)}, but the labels want {list(shape)}")


def _check_columns(frame: pd.DataFrame, *columns: str | None) -> None:
    missing = [column for column in columns if column is not None and column not in frame]
    if missing:
        there = ", ".join(map(str, frame)) or "none"
        raise InputError(f"the frame lacks the column {missing[0]}; its columns are: {there}")
    if frame.empty:
        raise InputError("the frame has no rows, so there is nothing to draw")


def _check_alike(frame: pd.DataFrame, *drawn: str | None) -> None:
    """Runs that differ in what the figure doesn't show must not be averaged as if they were seeds of one."""
    for column in ("task", "encoder", "train_size", "placement", "cls"):
        if column in frame and column not in drawn and frame[column].nunique(dropna=False) > 1:
            values = ", ".join(map(str, frame[column].unique()))
            raise InputError(f"the frame mixes {column}: {values}; keep one of them or draw them apart")
