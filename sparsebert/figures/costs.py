"""Figures of what attention costs: time and memory against length, and where a model's time goes.

They draw the frames of `sparsebert.bench.attention`, `sparsebert.bench.models` and, as ratios to dense
attention, `sparsebert.bench.compared`. For alt texts, the `describe_...` functions say in words what such a
frame shows. Chapter 06 explains all of it.
"""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogFormatter, NullLocator

from sparsebert.bench.measuring import PASSES, crossover
from sparsebert.errors import InputError, unknown_name
from sparsebert.figures import look
from sparsebert.figures.page import show
from sparsebert.reading import path_of

_MEASURES = {  # the column of a pass, its unit, the axis, and what a description says
    "time": ("{}", 1e3, "milliseconds", "milliseconds, forward,"),
    "memory": ("memory_{}", 1e-6, "peak megabytes beyond the inputs", "megabytes of a forward pass"),
}
_PARTS = {  # of a step: the words of the legend and the colour
    "attention": ("attention's core", look.ORANGE),
    "projections": ("projections", look.BLUE),
    "feed_forward": ("feed-forward", look.GREEN),
    "rest": ("rest", look.PALE),
}
_DENSE = {"color": look.INK, "linestyle": "--", "marker": "s"}
_AUTO = {"linewidth": 3.5, "alpha": 0.6, "markersize": 8}  # it lies over the kernel that it chose


@look.style()
def tiles(length: int, width: int, block: int, tokens: int = 1) -> Figure:
    """Pairs that `banded` computes for `neighbour(width) | global(tokens)` in blocks: wanted, and in excess.

    Rows are queries, columns keys. Raises `InputError` if there is no block or no token.
    """
    if min(length, block) < 1 or min(width, tokens) < 0:
        raise InputError(
            f"there is nothing to draw with length {length} and blocks of {block}; write numbers above 0"
        )
    place = np.arange(length)
    start = tokens + (place - tokens) // block * block  # of the block that a query is in
    near = np.abs(place[:, None] - place) <= width
    window = (place >= start[:, None] - width) & (place < start[:, None] + block + width)
    shade = np.where(near & window, 1, np.where(window, 3, 0))
    shade[:tokens], shade[:, :tokens] = 2, 2
    shades = {"the window": look.BLUE, "global tokens": look.ORANGE, "computed in excess": look.FAINT}
    figure, [axes] = look.panels_for([""], 0.5 * look.WIDTH + 0.5, xlabel="keys", ylabel="queries")
    figure.set_figwidth(0.5 * look.WIDTH)
    cells = ListedColormap([look.BACKGROUND, *shades.values()])
    axes.pcolormesh(shade, cmap=cells, vmin=0, vmax=3, edgecolors=look.BACKGROUND, linewidth=0.8)
    axes.set(aspect="equal", xticks=[], yticks=[])
    axes.invert_yaxis()
    axes.spines[["left", "bottom"]].set_visible(False)
    look.legend_above(figure, [Patch(color=colour, label=label) for label, colour in shades.items()])
    return figure


@look.style()
def against_length(frame: pd.DataFrame, measure: str = "time") -> Figure:
    """Costs against length, both logarithmic: lines are contenders, panels passes, rows of panels patterns.

    `frame` is that of `measure_attention`. `measure` is `time` (milliseconds; a dotted line marks the length
    from which on `auto` is faster than dense) or `memory` (peak megabytes beyond the inputs). Raises
    `InputError` if a column is missing, for an unknown measure, and if nothing was measured.
    """
    if measure not in _MEASURES:
        raise unknown_name("measure", measure, _MEASURES)
    column, unit, label, _ = _MEASURES[measure]
    columns = {column.format(what): words for what, words in PASSES.items()}
    ratios = {column: f"{column}_over_dense" for column in columns if measure == "time"}
    look.check_columns(frame, "pattern", "contender", "length", *columns, *ratios.values())
    _check_measured(frame[[*columns]])
    levels = frame["pattern"].unique()
    titles = [
        f"{level}\n{words}" if len(levels) > 1 else words for level in levels for words in columns.values()
    ]
    figure, drawn = look.panels_for(titles, 3.7, columns=2, margin=0.3, share="xy", ylabel=label)
    looks = look.looks_of(frame["contender"].unique())
    for name, own_look in {"auto": _AUTO, "dense": _DENSE}.items():
        if name in looks:
            looks[name] |= own_look
    for axes, (level, column) in zip(drawn, product(levels, columns), strict=True):
        own = frame[frame["pattern"] == level]
        if ratios and (length := crossover(own, ratio=ratios[column])):
            axes.axvline(length, **look.DENSE_LINE | {"linestyle": ":"}, zorder=1)
            right = length > math.sqrt(own["length"].min() * own["length"].max())
            place = {"xytext": (-4 if right else 4, 4), "textcoords": "offset points", "va": "bottom"}
            place |= {"ha": "right" if right else "left", "xycoords": ("data", "axes fraction")}
            axes.annotate(f"auto is faster\nfrom {_short(length)}", (length, 0), **place, fontsize=8)
        look.draw_lines(axes, own, "contender", "length", column, looks, unit)
        _logarithmic(axes, frame["length"])
    figure.supxlabel("tokens", fontsize=10)
    look.legend_above(figure, figure.axes[0].get_legend_handles_labels()[0])
    return figure


def _logarithmic(axes: Axes, lengths: pd.Series) -> None:
    """Both axes, with lengths of texts as ticks below: at most seven, the longest one among them."""
    ticks = sorted(lengths.unique())
    while len(ticks) > 7:
        ticks = ticks[::-2][::-1]
    axes.set(xscale="log", yscale="log")
    axes.set_xticks(ticks, [_short(length) for length in ticks])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(_Plain(labelOnlyBase=False))  # within a decade


class _Plain(LogFormatter):
    """The ticks that `LogFormatter` labels, as plain numbers: 0.9 and not 9e-01."""

    def __call__(self, x: float, pos: int | None = None) -> str:
        return f"{x:g}" if super().__call__(x, pos) else ""


def _short(length: int) -> str:
    return f"{length // 1024}k" if length % 1024 == 0 else f"{length:,}"


def _check_measured(values: pd.DataFrame | pd.Series) -> None:
    if values.isna().all(axis=None):
        raise InputError("nothing was measured, so there is nothing to draw; see the column left_out")


def describe_against_length(frame: pd.DataFrame, measure: str = "time") -> str:
    """What `against_length` shows: the contenders at the longest length, and where `auto` crosses dense."""
    column, unit, _, what = _MEASURES[measure]
    column = column.format("forward")
    look.check_columns(frame, "pattern", "contender", "length", column, "forward_over_dense")
    sentences = [f"{measure.capitalize()} against length."]
    for pattern, own in frame[frame[column].notna()].groupby("pattern", sort=False):
        longest = own["length"].max()
        values = own[own["length"] == longest].sort_values(column)
        listed = ", ".join(f"{row['contender']} {unit * row[column]:.3g}" for _, row in values.iterrows())
        sentences.append(f"{pattern}: {what} at {longest:,} tokens: {listed}.")
        if measure == "time" and own["forward_over_dense"].notna().any():
            length = crossover(own)
            where = "at no length measured" if length is None else f"from {length:,} tokens on"
            sentences.append(f"auto is faster than dense {where}.")
    return " ".join(sentences)


@look.style()
def over_dense(frame: pd.DataFrame, line: str, col: str | None = None) -> Figure:
    """Ratios to dense attention against length, both logarithmic, with their intervals as bars.

    `frame` has a row per ratio with the columns `length`, `ratio`, `low` and `high` (NaN: it has no
    interval), as `sparsebert.bench.compared` makes them; a line for each level of `line`, a panel for each of
    `col`. Below the dashed line at 1 a contender takes less than dense attention. Raises `InputError` if a
    column is missing or there is no row.
    """
    look.check_columns(frame, *filter(None, (line, col)), "length", "ratio", "low", "high")
    figure, panels = look.panels_of(frame, col, 3.7, columns=2, margin=0.3, share="xy", ylabel="over dense")
    looks = look.looks_of(frame[line].unique())
    for axes, _, own in panels:
        axes.axhline(1, **look.DENSE_LINE, zorder=1)
        for level, part in own.sort_values("length").groupby(line, sort=False):
            ratio = part["ratio"]
            bars = [(ratio - part["low"]).fillna(0), (part["high"] - ratio).fillna(0)]
            axes.errorbar(part["length"], ratio, yerr=bars, **looks[str(level)], elinewidth=1.4)
        _logarithmic(axes, frame["length"])
    figure.supxlabel("tokens", fontsize=10)
    look.legend_above(figure, look.marks_of(looks, linestyle="-"), dense=[1])
    return figure


def show_over_dense(frame: pd.DataFrame, line: str, col: str | None = None, **told: object) -> None:
    """Show what `over_dense` draws of a frame, if it has rows; `told` is what `figures.show` takes."""
    if len(frame):
        show(over_dense(frame, line, col), alt=describe_over_dense(frame, line, col), **told)


def describe_over_dense(frame: pd.DataFrame, line: str, col: str | None = None) -> str:
    """What `over_dense` shows: the ratio of each line at its shortest and at its longest length."""
    sentences = ["Ratios to dense attention against length."]
    for level, own in frame.groupby([name for name in (col, line) if name], sort=False):
        ends = [own.loc[own["length"].idxmin()], own.loc[own["length"].idxmax()]]
        told = " and ".join(f"{row['ratio']:.2f} at {row['length']:,.0f} tokens" for row in ends)
        sentences.append(f"{', '.join(map(str, level))}: {told}.")
    return " ".join(sentences)


@look.style()
def where_time_goes(frame: pd.DataFrame) -> Figure:
    """Microseconds per token, stacked by part: for each length dense (d) and the plan (p); a panel per mode.

    `frame` is that of `measure_models`. What is left above attention's core is what no plan can save. Raises
    `InputError` if a column is missing or nothing was measured.
    """
    look.check_columns(frame, "mode", "length", "contender", "tokens_per_second", *_PARTS)
    _check_measured(frame["tokens_per_second"])
    measured = frame[frame["tokens_per_second"].notna()]
    figure, panels = look.panels_of(measured, "mode", 4.2, ylabel="microseconds per token")
    bars = {"stacked": True, "width": 0.8, "edgecolor": look.BACKGROUND, "linewidth": 0.6, "legend": False}
    for axes, _, own in panels:
        heights = own[list(_PARTS)].mul(1e6 / own["tokens_per_second"], axis=0)
        heights.plot.bar(ax=axes, color=[colour for _, colour in _PARTS.values()], **bars)
        names = [f"{row['contender'][0]}\n{_short(row['length'])}" for _, row in own.iterrows()]
        axes.set_xticks(range(len(own)), names, rotation=0)
        axes.tick_params(axis="x", length=0)
        axes.grid(axis="x", visible=False)
    figure.supxlabel("tokens of a sequence (d: dense, p: plan)", fontsize=10)
    look.legend_above(figure, [Patch(color=colour, label=words) for words, colour in _PARTS.values()])
    return figure


def describe_shares(frame: pd.DataFrame) -> str:
    """What `where_time_goes` shows: attention's share, dense and under the plan, at both ends."""
    look.check_columns(frame, "mode", "length", "contender", "attention", "over_dense")
    sentences = ["Time per token by part."]
    for mode, own in frame[frame["attention"].notna()].groupby("mode", sort=False):
        for length in dict.fromkeys((own["length"].min(), own["length"].max())):
            at = own[own["length"] == length].set_index("contender")
            shares = [f"{100 * share:.0f} % of the {name} step" for name, share in at["attention"].items()]
            over = at["over_dense"].get("plan", math.nan)
            ratio = "" if math.isnan(over) else f", which takes {over:.2f} of dense's time"
            told = f"{mode} at {length:,} tokens: attention's core takes {' and '.join(shares)}{ratio}."
            sentences.append(told)
    return " ".join(sentences)


def check_plot(path: str) -> None:
    """Raises `InputError` if a figure can't be written there, before anything is measured."""
    file = path_of(path)
    if file.suffix.lower() != ".png":
        raise InputError(f"--plot {path}: figures are PNG files; write a name such as costs.png")
    if not file.absolute().parent.is_dir():
        raise InputError(f"--plot {path}: there is no folder '{file.absolute().parent}'; make it first")


@look.style()
def draw_costs(frame: pd.DataFrame, path: str) -> None:
    """Draw the frame of either benchmark into a PNG file, with its description in the file's metadata."""
    draw, describe = (
        (where_time_goes, describe_shares) if "mode" in frame else (against_length, describe_against_length)
    )
    metadata = {"Description": describe(frame)}
    draw(frame).savefig(path_of(path), dpi=2 * look.PIXELS_PER_INCH, metadata=metadata)
