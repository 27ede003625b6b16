"""What all figures share: their look, their colours and markers, and how one gets onto the page."""

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
from matplotlib import pyplot as plt
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from torch import Tensor

from sparsebert.errors import InputError
from sparsebert.patterns import Global, Pattern, Random, parse_pattern, parts_of
from sparsebert.study.captions import origin
from sparsebert.study.intervals import mean_interval
from sparsebert.training.runs import RunRecord

WIDTH = 7.2  # inches across the page's column
PIXELS_PER_INCH = 100  # as shown; saved at twice that for sharp screens

BACKGROUND = "#fcfcfa"
INK = "#262626"
FAINT = "#d9d9d6"
COLOURS = sns.color_palette("colorblind").as_hex()
BLUE, ORANGE = COLOURS[0], COLOURS[1]
MARKERS = "osD^vPX<>*"
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


def show(
    figure: Figure, name: str, caption: str, alt: str, made_from: Sequence[RunRecord | Mapping] = ()
) -> None:
    """Display a figure once, as a PNG, and close it; a cell of a chapter ends with this call.

    `name` is the figure's label in the book (``{numref}`name` ``), `caption` stands below it in Markdown, and
    `alt` says to those who can't see it what it shows. Rendering the chapter reads them from the output's
    metadata. To the caption is added when, where and by which commit the runs, or the measurements with these
    provenances, were made that the figure is `made_from`. Raises `InputError` if any text is empty.
    """
    given = {"name": name, "caption": caption, "alt": alt}
    for what, text in given.items():
        if not text.strip():
            raise InputError(f"figure '{name}' has no {what}: give it a name, a caption and an alt text")
    given["caption"] = f"{caption} {origin(made_from)}".strip()
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


# ---- patterns, colours and legends --------------------------------------------------------------

CONTROL = "its degree-matched random control"


def looks_of(levels: Iterable[object]) -> dict[str, dict]:
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
            places[label] = next(free, len(places) % len(MARKERS))
    colours = [*COLOURS[:5], INK, *COLOURS[5:8], COLOURS[9]]  # yellow is hard to see on a light page
    looks = {}
    for text, (_, _, control) in read.items():
        place = places[labels[text]]
        looks[text] = {
            "label": labels[text],
            "color": colours[place],
            "marker": MARKERS[place],
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
    parts = parts_of(pattern)
    globals_ = [str(part) for part in parts if isinstance(part, Global)]
    return [part for part in parts if not isinstance(part, Global)], " | ".join(globals_)


def panels_of(
    frame: pd.DataFrame, col: str | None, height: float = 3.8
) -> tuple[Figure, list[tuple[Axes, pd.DataFrame]]]:
    """A panel per level of `col`, in the order they come, each with its part of the frame."""
    parts = [("", frame)] if col is None else list(frame.groupby(col, sort=False))
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    panels = figure.subplots(1, len(parts), squeeze=False, sharex=True, sharey=True)[0]
    for axes, (level, _) in zip(panels, parts, strict=True):
        axes.set_title(str(level))
    return figure, [(axes, part) for axes, (_, part) in zip(panels, parts, strict=True)]


def legend_mark(label: str, **look: object) -> Line2D:
    return Line2D([], [], **{"color": "#595959", "marker": "o", "linestyle": "none", **look}, label=label)


def pattern_marks(looks: Mapping[str, dict], one_marker: bool = False) -> list[Line2D]:
    """A mark per colour and, if there are controls, one that says what hollow means."""
    plain = {"linestyle": "none", "fillstyle": "full"} | ({"marker": "o"} if one_marker else {})
    of_label = {look["label"]: look | plain for look in looks.values()}
    marks = [Line2D([], [], **look) for look in of_label.values()]
    return marks + [legend_mark(CONTROL, fillstyle="none")] * any_control(looks)


def any_control(looks: Mapping[str, dict]) -> bool:
    return any(look["fillstyle"] == "none" for look in looks.values())


def dense_mark(dense: Sequence | Mapping) -> list[Line2D]:
    return [Line2D([], [], color=INK, linestyle="--", linewidth=1.3, label="dense")] if len(dense) else []


def legend_above(figure: Figure, handles: Sequence[Artist]) -> None:
    """A legend outside the axes, where it covers no data, in as few lines as the page has room for."""
    if handles:
        longest = max(len(handle.get_label()) for handle in handles)
        lines = math.ceil(len(handles) / max(1, 100 // (longest + 7)))
        columns = math.ceil(len(handles) / lines)  # the last line is about as full as the others
        figure.legend(handles=handles, loc="outside upper center", ncols=columns)


def wrapped(text: str, width: int = 30) -> str:
    return "\n".join(textwrap.wrap(text, width))


def check_some(things: Sequence | Mapping, what: str) -> Sequence | Mapping:
    if not len(things):
        raise InputError(f"there are no {what} to draw; give at least one")
    return things


def check_shape(array: Tensor | np.ndarray, shape: tuple[int, int], title: str) -> None:
    if tuple(array.shape) != shape:
        raise InputError(f"'{title}' has the shape {list(array.shape)}, but the labels want {list(shape)}")


def check_columns(frame: pd.DataFrame, *columns: str | None) -> None:
    missing = [column for column in columns if column is not None and column not in frame]
    if missing:
        there = ", ".join(map(str, frame)) or "none"
        raise InputError(f"the frame lacks the column {missing[0]}; its columns are: {there}")
    if frame.empty:
        raise InputError("the frame has no rows, so there is nothing to draw")


def check_alike(frame: pd.DataFrame, *drawn: str | None) -> None:
    """Runs that differ in what the figure doesn't show must not be averaged as if they were seeds of one."""
    for column in ("task", "encoder", "train_size", "placement", "cls"):
        if column in frame and column not in drawn and frame[column].nunique(dropna=False) > 1:
            values = ", ".join(map(str, frame[column].unique()))
            raise InputError(f"the frame mixes {column}: {values}; keep one of them or draw them apart")


# ---- runs of several seeds ----------------------------------------------------------------------


def draw_point(axes: Axes, place: float, values: pd.Series, look: dict, sideways: bool = False) -> None:
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


def beside(places: pd.Series) -> pd.Series:
    """Where to draw points at these places, in percent: nearly equal ones side by side."""
    ordered = places.sort_values(kind="stable")
    cluster = (ordered.diff() > 0.55).cumsum()
    step = 0.018 * max(ordered.max() - ordered.min(), 1)
    rank = ordered.groupby(cluster).cumcount()
    size = cluster.groupby(cluster).transform("size")
    return ordered.groupby(cluster).transform("mean") + step * (rank - (size - 1) / 2)


def keep_within(axes: Axes) -> None:
    """Intervals of Student's may end below 0 or above 100 %; the axis does not go along."""
    low, high = axes.get_ylim()
    axes.set_ylim(max(low, 0), min(high, 100.5))


def dense_of(part: pd.DataFrame, col: str | None, dense: Sequence | Mapping) -> Sequence[float]:
    if not isinstance(dense, Mapping):
        return dense
    level = part[col].iloc[0] if col else None
    if level not in dense:
        raise InputError(f"dense has no runs for {level}, only for {', '.join(map(str, dense)) or 'nothing'}")
    return dense[level]


def draw_dense(axes: Axes, dense: Sequence[float]) -> None:
    values = [100 * value for value in dense]
    if values:
        mean, low, high = mean_interval(values)
        axes.axhline(mean, color=INK, linestyle="--", linewidth=1.3, zorder=1)
        if not math.isnan(low):
            axes.axhspan(low, high, color=INK, alpha=0.1, linewidth=0, zorder=0)
