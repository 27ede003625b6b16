"""Figures of what attention costs: time and memory against length, the floor, and where a model's time goes.

They draw the frames of `sparsebert.bench.attention` and `sparsebert.bench.models`. For alt texts, the
`describe_...` functions say in words what such a frame shows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, NullLocator

from sparsebert.bench.measuring import PASSES, crossover
from sparsebert.errors import InputError
from sparsebert.figures import look
from sparsebert.reading import path_of
from sparsebert.study.intervals import mean_interval

Mark = Callable[[Axes, pd.DataFrame, str], None]  # draws into a panel of one pattern and pass

_PARTS = {  # of a step: the words of the legend and the colour
    "attention": ("attention's core", look.ORANGE),
    "projections": ("projections", look.BLUE),
    "feed_forward": ("feed-forward", look.COLOURS[2]),
    "rest": ("rest", look.PALE),
}


# ---- what a kernel computes ---------------------------------------------------------------------


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
    shade = np.where(near & window, 2, np.where(window, 1, 0))
    shade[:tokens], shade[:, :tokens] = 3, 3
    shades = {
        1: (look.FAINT, "computed in excess"),
        2: (look.BLUE, "the window"),
        3: (look.ORANGE, "global tokens"),
    }
    figure, [axes] = look.panels_for([""], 0.5 * look.WIDTH + 0.5)
    figure.set_figwidth(0.5 * look.WIDTH)
    cells = ListedColormap([look.BACKGROUND, *(colour for colour, _ in shades.values())])
    axes.pcolormesh(shade, cmap=cells, vmin=0, vmax=3, edgecolors=look.BACKGROUND, linewidth=0.8)
    axes.set(xlabel="keys", ylabel="queries", aspect="equal", xticks=[], yticks=[])
    axes.invert_yaxis()
    axes.spines[["left", "bottom"]].set_visible(False)
    look.legend_above(figure, [Patch(color=shades[key][0], label=shades[key][1]) for key in (2, 3, 1)])
    return figure


# ---- one layer ----------------------------------------------------------------------------------


@look.style()
def times(frame: pd.DataFrame) -> Figure:
    """Milliseconds against length, both logarithmic: lines are contenders, panels passes, rows patterns.

    `frame` is that of `measure_attention`. A dotted line marks the length from which on `auto` is faster than
    dense. Raises `InputError` if a column is missing or nothing was measured.
    """
    look.check_columns(frame, *(f"{what}_over_dense" for what in PASSES))

    def mark(axes: Axes, own: pd.DataFrame, what: str) -> None:
        length = crossover(own, ratio=f"{what}_over_dense")
        if length is not None:
            axes.axvline(length, **look.DENSE_LINE | {"linestyle": ":"}, zorder=1)
            note = f"auto is faster\nfrom {_short(length)}"
            right = length > math.sqrt(own["length"].min() * own["length"].max())
            place = {"xytext": (-4 if right else 4, 4), "textcoords": "offset points", "va": "bottom"}
            place |= {"ha": "right" if right else "left", "fontsize": 8}
            axes.annotate(note, (length, 0), xycoords=("data", "axes fraction"), **place)

    return _against_length(frame, "{}", 1e3, "milliseconds", mark)


@look.style()
def memory(frame: pd.DataFrame) -> Figure:
    """Peak megabytes beyond the inputs against length, as `times` draws milliseconds."""
    return _against_length(frame, "memory_{}", 1e-6, "peak megabytes beyond the inputs")


@look.style()
def over_floor(frame: pd.DataFrame) -> Figure:
    """Time over the floor, which is dense attention's time times the density, against length."""

    def mark(axes: Axes, own: pd.DataFrame, what: str) -> None:
        axes.axhline(1, **look.DENSE_LINE, zorder=1)

    look.check_columns(frame, "contender")
    kept = frame[frame["contender"] != "dense"]  # its density is 1, and so it is its own floor
    return _against_length(kept, "{}_over_floor", 1, "time over the floor", mark)


def _against_length(
    frame: pd.DataFrame, column: str, unit: float, label: str, mark: Mark | None = None
) -> Figure:
    """Two panels per pattern, one for each pass, whose name stands in `column` for {}."""
    columns = {what: column.format(what) for what in PASSES}
    look.check_columns(frame, "pattern", "contender", "length", *columns.values())
    if frame[list(columns.values())].isna().all(axis=None):
        raise InputError("nothing was measured, so there is nothing to draw; see the column left_out")
    patterns = frame["pattern"].unique()
    panels = [(pattern, what) for pattern in patterns for what in PASSES]
    titles = [f"{pattern}\n{PASSES[what]}" if len(patterns) > 1 else PASSES[what] for pattern, what in panels]
    figure, drawn = look.panels_for(titles, 3.7, columns=2, margin=0.3, ylabel=label)
    looks = _contender_looks(frame["contender"])
    for axes, (pattern, what) in zip(drawn, panels, strict=True):
        own = frame[frame["pattern"] == pattern]
        _draw_lines(axes, own, columns[what], unit, looks)
        if mark:
            mark(axes, own, what)
        _length_axis(axes, frame["length"])
    figure.supxlabel("tokens", fontsize=10)
    look.legend_above(figure, look.marks_of(looks))
    return figure


def _draw_lines(axes: Axes, own: pd.DataFrame, column: str, unit: float, looks: Mapping[str, dict]) -> None:
    for name, style in looks.items():
        part = own[(own["contender"] == name) & own[column].notna()].sort_values("length")
        axes.plot(part["length"], unit * part[column], **style)


def _length_axis(axes: Axes, lengths: pd.Series) -> None:
    ticks = sorted(lengths.unique())
    while len(ticks) > 7:
        ticks = ticks[::-2][::-1]  # the longest one stays
    axes.set(xscale="log", yscale="log")
    axes.set_xticks(ticks, [_short(length) for length in ticks])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _short(length: int) -> str:
    return f"{length // 1024}k" if length % 1024 == 0 else f"{length:,}"


def _contender_looks(names: pd.Series, known: Sequence[str] = look.CONTENDERS) -> dict[str, dict]:
    looks = look.looks_in_order(names[names != "dense"], known, look.CONTENDER_COLOURS)
    if "auto" in looks:  # the choice of kernels lies over the kernel that it chose
        looks["auto"] |= {"linewidth": 3.5, "alpha": 0.6, "markersize": 8}
    dense = {"dense": {"color": look.INK, "linestyle": "--", "marker": "s", "label": "dense"}}
    return dense | looks if "dense" in set(names) else looks


def describe_times(frame: pd.DataFrame) -> str:
    """What `times` shows: the contenders' times at the longest length, and where `auto` crosses dense."""
    text = _describe(frame, "forward", 1e3, "Time against length", "milliseconds, forward,")
    look.check_columns(frame, "forward_over_dense")
    for pattern, own in frame[frame["forward_over_dense"].notna()].groupby("pattern", sort=False):
        length = crossover(own)
        where = "at no length measured" if length is None else f"from {length:,} tokens on"
        text += f" {pattern}: auto is faster than dense {where}."
    return text


def describe_memory(frame: pd.DataFrame) -> str:
    """What `memory` shows: the contenders' peaks at the longest length."""
    title, what = "Peak memory against length", "megabytes of a forward pass"
    return _describe(frame, "memory_forward", 1e-6, title, what)


def describe_floor(frame: pd.DataFrame) -> str:
    """What `over_floor` shows: how often the contenders need the floor's time at the longest length."""
    return _describe(frame, "forward_over_floor", 1, "Time over the floor", "times the floor, forward,")


def _describe(frame: pd.DataFrame, column: str, unit: float, title: str, what: str) -> str:
    look.check_columns(frame, "pattern", "contender", "length", column)
    sentences = [f"{title}."]
    for pattern, own in frame[frame[column].notna()].groupby("pattern", sort=False):
        longest = own["length"].max()
        values = own[own["length"] == longest].sort_values(column)
        listed = ", ".join(f"{row['contender']} {unit * row[column]:.3g}" for _, row in values.iterrows())
        sentences.append(f"{pattern}: {what} at {longest:,} tokens: {listed}.")
    return " ".join(sentences)


# ---- whole models -------------------------------------------------------------------------------


@look.style()
def where_time_goes(frame: pd.DataFrame) -> Figure:
    """Microseconds per token, stacked by part: for each length dense (left) and the plan; a panel per mode.

    `frame` is that of `measure_models`. What is left above attention's core is what no plan can save. Raises
    `InputError` if a column is missing or nothing was measured.
    """
    look.check_columns(frame, "mode", "length", "contender", "tokens_per_second", *_PARTS)
    measured = frame[frame["tokens_per_second"].notna()]
    if measured.empty:
        raise InputError("nothing was measured, so there is nothing to draw; see the column left_out")
    figure, panels = look.panels_of(measured, "mode", 4.2, share="", ylabel="microseconds per token")
    colours = [colour for _, colour in _PARTS.values()]
    for axes, _, own in panels:
        lengths = sorted(own["length"].unique())
        dense = own["contender"] == "dense"
        places = own["length"].map(lengths.index) + dense.map({True: -0.2, False: 0.2})
        heights = own[list(_PARTS)].mul(1e6 / own["tokens_per_second"], axis=0)
        for index, parts in heights.iterrows():
            stacked = {"bottom": parts.cumsum() - parts, "edgecolor": look.BACKGROUND, "linewidth": 0.6}
            axes.bar([places[index]] * len(parts), parts, 0.36, color=colours, **stacked)
        axes.set_xticks(places, dense.map({True: "d", False: "p"}), minor=True)
        axes.tick_params(axis="x", which="minor", length=0, labelsize=8)
        axes.set_xticks(range(len(lengths)), [_short(length) for length in lengths])
        axes.tick_params(axis="x", which="major", length=0, pad=14)
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
            said = f"{mode} at {length:,} tokens: attention's core takes {' and '.join(shares)}{ratio}."
            sentences.append(said)
    return " ".join(sentences)


@look.style()
def throughput(frame: pd.DataFrame) -> Figure:
    """Tokens per second against length, dense and under a plan, by mode."""
    look.check_columns(frame, "mode", "length", "contender", "tokens_per_second")
    figure, panels = look.panels_of(frame, "mode", 3.5, share="", ylabel="tokens per second")
    looks = _contender_looks(frame["contender"], known=["plan"])
    for axes, _, own in panels:
        _draw_lines(axes, own, "tokens_per_second", 1, looks)
        _length_axis(axes, frame["length"])
    figure.supxlabel("tokens of a sequence", fontsize=10)
    look.legend_above(figure, look.marks_of(looks))
    return figure


# ---- what is paid and what is lost --------------------------------------------------------------


@look.style()
def accuracy_against_time(
    frame: pd.DataFrame,
    dense: Sequence[float] = (),
    *,
    metric: str = "accuracy",
    label: str = "time over dense",
) -> Figure:
    """Accuracy against time: a mean with 95 % intervals both ways for each plan, in its pattern's colour.

    `frame` has a row per run with the columns `pattern` (colour), `plan` (runs that agree in both are seeds
    of one another), `density` and `metric` (in [0, 1]) and `time`; `label` names what the time is. A marker
    is the larger the denser the plan. `dense` gives the metric of the dense runs. Raises `InputError` as
    `figures.accuracy_against_sparsity` does.
    """
    look.check_columns(frame, "pattern", "plan", "density", metric, "time")
    look.check_alike(frame, "pattern", "plan", "placement")
    figure, [axes] = look.panels_for([""], 4.4, xlabel=label, ylabel=f"{metric}, %")
    looks = look.looks_of(frame["pattern"])
    look.draw_dense(axes, dense)
    for (pattern, _), runs in frame.groupby(["pattern", "plan"], sort=False):
        size = {"markersize": 5 + 6 * math.sqrt(runs["density"].mean())}
        time, score = mean_interval(runs["time"]), mean_interval(100 * runs[metric])
        look.draw_mean(axes, time, score, looks[str(pattern)] | size)
    axes.set_xlim(left=0)
    look.keep_within(axes)
    look.legend_above(
        figure, look.pattern_marks(looks) + ([] if "dense" in looks else look.dense_mark(dense))
    )
    return figure


# ---- files --------------------------------------------------------------------------------------


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
    models = "mode" in frame
    figure = where_time_goes(frame) if models else times(frame)
    text = describe_shares(frame) if models else describe_times(frame)
    figure.savefig(path_of(path), dpi=2 * look.PIXELS_PER_INCH, metadata={"Description": text})
