"""Figures of what attention costs: time and memory against length, the floor, and where a model's time goes.

They look like those of `sparsebert.figures`, and `figures.show` puts them on the page. They draw the frames
of `sparsebert.bench.attention` and `sparsebert.bench.models`; the `describe_...` functions say in words, for
alt texts, what such a frame shows, so that a chapter that is run again says what it found.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, NullLocator

from sparsebert.bench.measuring import crossover
from sparsebert.errors import InputError
from sparsebert.figures.look import (
    BACKGROUND,
    COLOURS,
    FAINT,
    INK,
    MARKERS,
    PIXELS_PER_INCH,
    WIDTH,
    check_alike,
    check_columns,
    dense_mark,
    draw_dense,
    keep_within,
    legend_above,
    looks_of,
    pattern_marks,
    style,
)
from sparsebert.reading import path_of
from sparsebert.study.intervals import mean_interval

Mark = Callable[[Axes, pd.DataFrame, str], None]  # draws into a panel of one pattern and pass

_TITLES = {"forward": "forward", "both": "forward + backward"}
_PARTS = {
    "attention": "attention's core",
    "projections": "projections",
    "feed_forward": "feed-forward",
    "rest": "rest",
}
_CONTENDERS = (  # they look alike in every figure
    "auto",
    "banded",
    "reference",
    "flex",
    "masked",
    "flex alone",
    "longformer",
    "bigbird",
)


# ---- what a kernel computes ---------------------------------------------------------------------


@style()
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
    figure = Figure(figsize=(0.5 * WIDTH, 0.5 * WIDTH + 0.5), layout="constrained")
    axes = figure.subplots()
    shades = {
        1: (FAINT, "computed in excess"),
        2: (COLOURS[0], "the window"),
        3: (COLOURS[1], "global tokens"),
    }
    cells = ListedColormap([BACKGROUND, *(colour for colour, _ in shades.values())])
    axes.pcolormesh(shade, cmap=cells, vmin=0, vmax=3, edgecolors=BACKGROUND, linewidth=0.8)
    axes.set(xlabel="keys", ylabel="queries", aspect="equal", xticks=[], yticks=[])
    axes.invert_yaxis()
    axes.spines[["left", "bottom"]].set_visible(False)
    order = (2, 3, 1)
    legend_above(figure, [Patch(color=shades[key][0], label=shades[key][1]) for key in order])
    return figure


# ---- one layer ----------------------------------------------------------------------------------


@style()
def times(frame: pd.DataFrame) -> Figure:
    """Milliseconds against length, both logarithmic: lines are contenders, panels passes, rows patterns.

    `frame` is that of `measure_attention`. A dotted line marks the length from which on `auto` is faster than
    dense. Raises `InputError` if a column is missing or nothing was measured.
    """
    check_columns(frame, *_TITLES, *(f"{what}_over_dense" for what in _TITLES))

    def mark(axes: Axes, own: pd.DataFrame, what: str) -> None:
        length = crossover(own, ratio=f"{what}_over_dense")
        if length is not None:
            axes.axvline(length, color=INK, linestyle=":", linewidth=1.3, zorder=1)
            note = f"auto is faster\nfrom {_short(length)}"
            right = length > math.sqrt(own["length"].min() * own["length"].max())
            place = {"xytext": (-4 if right else 4, 4), "textcoords": "offset points", "va": "bottom"}
            place |= {"ha": "right" if right else "left", "fontsize": 8}
            axes.annotate(note, (length, 0), xycoords=("data", "axes fraction"), **place)

    return _against_length(frame, {what: what for what in _TITLES}, 1e3, "milliseconds", mark)


@style()
def memory(frame: pd.DataFrame) -> Figure:
    """Peak megabytes beyond the inputs against length, as `times` draws milliseconds."""
    columns = {what: f"memory_{what}" for what in _TITLES}
    check_columns(frame, *columns.values())
    return _against_length(frame, columns, 1e-6, "peak megabytes beyond the inputs")


@style()
def over_floor(frame: pd.DataFrame) -> Figure:
    """Time over the floor, which is dense attention's time times the density, against length."""
    columns = {what: f"{what}_over_floor" for what in _TITLES}
    check_columns(frame, *columns.values())

    def mark(axes: Axes, own: pd.DataFrame, what: str) -> None:
        axes.axhline(1, color=INK, linestyle="--", linewidth=1.3, zorder=1)

    kept = frame[frame["contender"] != "dense"]  # its density is 1, and so it is its own floor
    return _against_length(kept, columns, 1, "time over the floor", mark)


def describe_times(frame: pd.DataFrame) -> str:
    """What `times` shows: the contenders' times at the longest length, and where `auto` crosses dense."""
    check_columns(frame, "pattern", "contender", "length", "forward", "forward_over_dense")
    text = _describe(frame, "forward", 1e3, "Time against length", "milliseconds, forward,")
    for pattern, own in frame[frame["forward_over_dense"].notna()].groupby("pattern", sort=False):
        length = crossover(own)
        where = "at no length measured" if length is None else f"from {length:,} tokens on"
        text += f" {pattern}: auto is faster than dense {where}."
    return text


def describe_memory(frame: pd.DataFrame) -> str:
    """What `memory` shows: the contenders' peaks at the longest length."""
    return _describe(
        frame, "memory_forward", 1e-6, "Peak memory against length", "megabytes of a forward pass"
    )


def describe_floor(frame: pd.DataFrame) -> str:
    """What `over_floor` shows: how often the contenders need the floor's time at the longest length."""
    return _describe(frame, "forward_over_floor", 1, "Time over the floor", "times the floor, forward,")


def _describe(frame: pd.DataFrame, column: str, unit: float, title: str, what: str) -> str:
    check_columns(frame, "pattern", "contender", "length", column)
    sentences = []
    for pattern, own in frame[frame[column].notna()].groupby("pattern", sort=False):
        longest = own["length"].max()
        values = own[own["length"] == longest].sort_values(column)
        listed = ", ".join(
            f"{name} {unit * x:.3g}" for name, x in zip(values["contender"], values[column], strict=True)
        )
        sentences.append(f"{pattern}: {what} at {longest:,} tokens: {listed}.")
    return f"{title}. " + " ".join(sentences)


def _against_length(
    frame: pd.DataFrame, columns: dict[str, str], unit: float, label: str, mark: Mark | None = None
) -> Figure:
    check_columns(frame, "pattern", "contender", "length")
    if frame[list(columns.values())].isna().all(axis=None):
        raise InputError("nothing was measured, so there is nothing to draw; see the column left_out")
    patterns = list(frame.groupby("pattern", sort=False))
    figure = Figure(figsize=(WIDTH, 3.7 * len(patterns) + 0.3), layout="constrained")
    panels = figure.subplots(len(patterns), len(columns), squeeze=False, sharex=True, sharey=True)
    looks = _contender_looks(frame["contender"])
    for line, (pattern, own) in zip(panels, patterns, strict=True):
        for axes, (what, column) in zip(line, columns.items(), strict=True):
            for name, look in looks.items():
                part = own[(own["contender"] == name) & own[column].notna()].sort_values("length")
                axes.plot(part["length"], unit * part[column], **look)
            if mark:
                mark(axes, own, what)
            title = _TITLES[what] if len(patterns) == 1 else f"{pattern}\n{_TITLES[what]}"
            axes.set(title=title, xscale="log", yscale="log")
            _length_axis(axes, frame["length"])
        line[0].set_ylabel(label)
    figure.supxlabel("tokens", fontsize=10)
    drawn = [Line2D([], [], **look) for look in looks.values()]
    legend_above(figure, drawn)
    return figure


def _length_axis(axes: Axes, lengths: pd.Series) -> None:
    ticks = sorted(lengths.unique())
    while len(ticks) > 7:
        ticks = ticks[::-2][::-1]  # the longest one stays
    axes.set_xticks(ticks, [_short(length) for length in ticks])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _short(length: int) -> str:
    return f"{length // 1024}k" if length % 1024 == 0 else f"{length:,}"


def _contender_looks(names: pd.Series) -> dict[str, dict]:
    there = list(dict.fromkeys(names))
    ordered = [name for name in ("dense", *_CONTENDERS) if name in there]
    colours = [COLOURS[place] for place in (0, 1, 2, 4, 3, 9, 5, 7)]
    looks = {}
    for name in ordered + [name for name in there if name not in ordered]:
        if name == "dense":
            look = {"color": INK, "linestyle": "--", "marker": "s"}
        else:
            place = _CONTENDERS.index(name) if name in _CONTENDERS else len(looks)
            # The choice of kernels lies over the kernel that it chose.
            wide = {"linewidth": 3.5, "alpha": 0.6, "markersize": 8} if name == "auto" else {}
            look = {"color": colours[place % len(colours)], "marker": MARKERS[place % len(MARKERS)]} | wide
        looks[name] = look | {"label": name}
    return looks


# ---- whole models -------------------------------------------------------------------------------


@style()
def where_time_goes(frame: pd.DataFrame) -> Figure:
    """Microseconds per token, stacked by part: for each length dense (left) and the plan; a panel per mode.

    `frame` is that of `measure_models`. What is left above attention's core is what no plan can save. Raises
    `InputError` if a column is missing or nothing was measured.
    """
    check_columns(frame, "mode", "length", "contender", "tokens_per_second", *_PARTS)
    measured = frame[frame["tokens_per_second"].notna()]
    if measured.empty:
        raise InputError("nothing was measured, so there is nothing to draw; see the column left_out")
    modes = list(measured.groupby("mode", sort=False))
    figure = Figure(figsize=(WIDTH, 4.2), layout="constrained")
    panels = figure.subplots(1, len(modes), squeeze=False)[0]
    colours = dict(zip(_PARTS, (COLOURS[1], COLOURS[0], COLOURS[2], "#a6a6a2"), strict=True))
    for axes, (mode, own) in zip(panels, modes, strict=True):
        lengths = sorted(own["length"].unique())
        ticks = []
        for row in own.itertuples():
            place = lengths.index(row.length) + (-0.2 if row.contender == "dense" else 0.2)
            bottom = 0.0
            for part, colour in colours.items():
                height = 1e6 / row.tokens_per_second * getattr(row, part)
                axes.bar(place, height, 0.36, bottom, color=colour, edgecolor=BACKGROUND, linewidth=0.6)
                bottom += height
            ticks.append((place, "d" if row.contender == "dense" else "p"))
        axes.set_xticks([place for place, _ in ticks], [text for _, text in ticks], minor=True)
        axes.tick_params(axis="x", which="minor", length=0, labelsize=8)
        axes.set_xticks(range(len(lengths)), [_short(length) for length in lengths])
        axes.tick_params(axis="x", which="major", length=0, pad=14)
        axes.set_title(mode)
        axes.grid(axis="x", visible=False)
    panels[0].set_ylabel("microseconds per token")
    figure.supxlabel("tokens of a sequence (d: dense, p: plan)", fontsize=10)
    legend_above(figure, [Patch(color=colours[part], label=label) for part, label in _PARTS.items()])
    return figure


def describe_shares(frame: pd.DataFrame) -> str:
    """What `where_time_goes` shows: attention's share, dense and under the plan, at both ends."""
    check_columns(frame, "mode", "length", "contender", "attention", "over_dense")
    sentences = []
    for mode, own in frame[frame["attention"].notna()].groupby("mode", sort=False):
        for length in dict.fromkeys((own["length"].min(), own["length"].max())):
            at = own[own["length"] == length].set_index("contender")
            shares = [f"{100 * at.loc[name, 'attention']:.0f} % of the {name} step" for name in at.index]
            text = f"{mode} at {length:,} tokens: attention's core takes {' and '.join(shares)}"
            over = at["over_dense"].get("plan", math.nan)
            sentences.append(
                text + ("." if math.isnan(over) else f", which takes {over:.2f} of dense's time.")
            )
    return "Time per token by part. " + " ".join(sentences)


@style()
def throughput(frame: pd.DataFrame, *, column: str = "tokens_per_second") -> Figure:
    """Tokens per second (or `memory`, in gigabytes) against length, dense and under a plan, by mode."""
    check_columns(frame, "mode", "length", "contender", column)
    modes = list(frame.groupby("mode", sort=False))
    figure = Figure(figsize=(WIDTH, 3.5), layout="constrained")
    panels = figure.subplots(1, len(modes), squeeze=False)[0]
    looks = {
        "dense": {"color": INK, "linestyle": "--", "marker": "s", "label": "dense"},
        "plan": {"color": COLOURS[0], "marker": "o", "label": "plan"},
    }
    unit = 1e-9 if column == "memory" else 1
    for axes, (mode, own) in zip(panels, modes, strict=True):
        for name, look in looks.items():
            part = own[(own["contender"] == name) & own[column].notna()].sort_values("length")
            axes.plot(part["length"], unit * part[column], **look)
        axes.set(title=mode, xscale="log", yscale="log")
        _length_axis(axes, frame["length"])
    panels[0].set_ylabel("peak gigabytes" if column == "memory" else column.replace("_", " "))
    figure.supxlabel("tokens of a sequence", fontsize=10)
    legend_above(figure, [Line2D([], [], **look) for look in looks.values()])
    return figure


# ---- what is paid and what is lost --------------------------------------------------------------


@style()
def accuracy_against_time(
    frame: pd.DataFrame,
    dense: Sequence[float] = (),
    *,
    metric: str = "accuracy",
    time: str = "time",
    label: str = "time over dense",
) -> Figure:
    """Accuracy against time: a mean with 95 % intervals both ways for each plan, in its pattern's colour.

    `frame` has a row per run with the columns `pattern` (colour), `plan` (runs that agree in both are seeds
    of one another), `density` and `metric` (in [0, 1]) and `time`; `label` names what the time is. A marker
    is the larger the denser the plan. `dense` gives the metric of the dense runs. Raises `InputError` as
    `figures.accuracy_against_sparsity` does.
    """
    check_columns(frame, "pattern", "plan", "density", metric, time)
    check_alike(frame, "pattern", "plan", "placement")
    figure = Figure(figsize=(WIDTH, 4.4), layout="constrained")
    axes = figure.subplots()
    looks = looks_of(frame["pattern"])
    draw_dense(axes, dense)
    for (pattern, _), runs in frame.groupby(["pattern", "plan"], sort=False):
        centre, bounds = [], {}
        for axis, values in (("xerr", runs[time]), ("yerr", 100 * runs[metric])):
            mean, low, high = mean_interval(values)
            centre.append(mean)
            if not math.isnan(low):
                bounds[axis] = [[mean - low], [high - mean]]
        size = {
            "markersize": 5 + 6 * math.sqrt(runs["density"].mean()),
            "linestyle": "none",
            "elinewidth": 1.4,
        }
        hollow = looks[str(pattern)]["fillstyle"] == "none"
        filled = {"markerfacecolor": BACKGROUND, "fillstyle": "full"} if hollow else {}
        axes.errorbar(*centre, **looks[str(pattern)] | size | filled | bounds, zorder=3)
    axes.set(xlabel=label, ylabel=f"{metric}, %")
    axes.set_xlim(left=0)
    keep_within(axes)
    legend_above(figure, pattern_marks(looks) + ([] if "dense" in looks else dense_mark(dense)))
    return figure


# ---- files --------------------------------------------------------------------------------------


def check_plot(path: str) -> None:
    """Raises `InputError` if a figure can't be written there, before anything is measured."""
    file = path_of(path)
    if file.suffix.lower() != ".png":
        raise InputError(f"--plot {path}: figures are PNG files; write a name such as costs.png")
    if not file.absolute().parent.is_dir():
        raise InputError(f"--plot {path}: there is no folder '{file.absolute().parent}'; make it first")


@style()
def draw_costs(frame: pd.DataFrame, path: str) -> None:
    """Draw the frame of either benchmark into a PNG file, with its description in the file's metadata."""
    models = "mode" in frame
    figure = where_time_goes(frame) if models else times(frame)
    text = describe_shares(frame) if models else describe_times(frame)
    figure.savefig(path_of(path), dpi=2 * PIXELS_PER_INCH, metadata={"Description": text})
