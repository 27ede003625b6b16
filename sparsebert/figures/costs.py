"""Figures of what attention costs: ratios to dense attention against length, and where a model's time goes.

They draw the frames of `sparsebert.bench.compared` and `sparsebert.bench.models`. For alt texts, the
`describe_...` functions say in words what such a frame shows. Chapter 06 explains all of it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogFormatter, NullLocator

from sparsebert.bench.compared import layers_over_dense
from sparsebert.errors import InputError
from sparsebert.figures import look
from sparsebert.figures.page import show
from sparsebert.reading import path_of

_PARTS = {  # of a step: the words of the legend and the colour
    "attention": ("attention's core", look.ORANGE),
    "projections": ("projections", look.BLUE),
    "feed_forward": ("feed-forward", look.GREEN),
    "rest": ("rest", look.PALE),
}


@look.style()
def tiles(length: int, width: int, block: int) -> Figure:
    """Pairs that `banded` computes for `neighbour(width) | global(cls)` in blocks: wanted, and in excess.

    Rows are queries, columns keys.
    """
    place = np.arange(length)
    start = 1 + (place - 1) // block * block  # of the block that a query is in
    near = np.abs(place[:, None] - place) <= width
    window = (place >= start[:, None] - width) & (place < start[:, None] + block + width)
    shade = np.where(near & window, 1, np.where(window, 3, 0))
    shade[0], shade[:, 0] = 2, 2
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


@look.style()
def over_dense(frame: pd.DataFrame, line: str, col: str | None = None) -> Figure:
    """Ratios to dense attention against length, both logarithmic, with their intervals as bars.

    `frame` has a row per ratio with the columns `length`, `ratio`, `low` and `high` (NaN: it has no
    interval), as `sparsebert.bench.compared` makes them; a line for each level of `line`, a panel for each of
    `col`. Below the dashed line at 1 a contender takes less than dense attention.
    """
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

    `frame` is made of `model_rows`. What is left above attention's core is what no plan can save. Raises
    `InputError` if nothing was measured.
    """
    measured = frame[frame["tokens_per_second"].notna()]
    if measured.empty:
        raise InputError("nothing was measured, so there is nothing to draw; see the column left_out")
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


def check_plot(path: str, contenders: Sequence[str] | None = None) -> None:
    """Raises `InputError` if no figure of the contenders (by default all) can be written there, in time."""
    file = path_of(path)
    if file.suffix.lower() != ".png":
        raise InputError(f"--plot {path}: figures are PNG files; write a name such as costs.png")
    if not file.absolute().parent.is_dir():
        raise InputError(f"--plot {path}: there is no folder '{file.absolute().parent}'; make it first")
    if contenders and "dense" not in contenders:
        raise InputError("--plot draws ratios to dense attention; add --contender dense")


@look.style()
def draw_costs(frame: pd.DataFrame, path: str) -> None:
    """Draw the frame of either benchmark into a PNG file, with its description in the file's metadata."""
    if "mode" in frame:
        figure, told = where_time_goes(frame), describe_shares(frame)
    else:
        ratios = layers_over_dense(frame)
        if ratios.empty:
            raise InputError("nothing was measured beside dense attention, so there is nothing to draw")
        ratios["panel"] = ratios["what"] + ", " + ratios["pass"] + "\n" + ratios["pattern"]
        figure, told = (draw(ratios, "contender", "panel") for draw in (over_dense, describe_over_dense))
    figure.savefig(path_of(path), dpi=2 * look.PIXELS_PER_INCH, metadata={"Description": told})
