"""What all figures share: panels, colours, intervals and legends."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import cycle

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from sparsebert.errors import InputError
from sparsebert.patterns import PATTERNS, globals_apart, parse_pattern
from sparsebert.study.intervals import mean_interval

WIDTH = 7.2  # inches across the page's column
PIXELS_PER_INCH = 100  # as shown; saved at twice that for sharp screens
BACKGROUND, INK, GREY, PALE, FAINT = "#fcfcfa", "#262626", "#595959", "#a6a6a2", "#d9d9d6"
COLOURS = sns.color_palette("colorblind").as_hex()
BLUE, ORANGE, GREEN, RED = COLOURS[:4]
MARKERS = "osD^vPX<>*"
CONTROL = "its degree-matched random control"
DENSE_LINE = {"color": INK, "linestyle": "--", "linewidth": 1.3}
ZERO_LINE = {"color": INK, "linewidth": 1.2, "zorder": 1}

# Names that are no patterns and look alike in every figure: their colours and markers.
_CONTENDERS = "auto", "banded", "reference", "flex", "masked", "flex alone", "longformer", "bigbird"
_KNOWN = {
    name: (COLOURS[place], marker)
    for name, place, marker in zip(_CONTENDERS, (0, 1, 2, 4, 3, 9, 5, 7), MARKERS, strict=False)
} | {"plan": (BLUE, "o"), "inference": (BLUE, "o"), "training": (RED, "s"), "scores computed": (GREEN, "D")}
# Of patterns whose family has none; pink comes last, and yellow is left out: both are pale.
_FREE = list(zip((COLOURS[place] for place in (5, 7, 9, 6)), "X>*<", strict=True))


@contextmanager
def style() -> Iterator[None]:
    """The look of every figure; use it as a context manager or, as here, as a decorator."""
    look = {
        **sns.axes_style("ticks"),
        **dict.fromkeys(("figure.facecolor", "axes.facecolor", "savefig.facecolor"), BACKGROUND),
        **dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color"), INK),
        **dict.fromkeys(("font.size", "axes.titlesize", "axes.labelsize"), 10),
        **dict.fromkeys(("xtick.labelsize", "ytick.labelsize", "legend.fontsize"), 9),
        **dict.fromkeys(("axes.spines.top", "axes.spines.right", "legend.frameon"), False),
        **dict.fromkeys(("axes.grid", "axes.axisbelow"), True),
        **{"axes.edgecolor": "#8c8c8c", "grid.color": "#e6e6e3"},
        **{"lines.linewidth": 1.8, "lines.markersize": 6},
    }
    with mpl.rc_context(look):
        yield


# ---- panels -------------------------------------------------------------------------------------


def panels_for(
    titles: Sequence[str],
    height: float | Sequence[float],
    *,
    columns: int = 4,
    margin: float = 0.0,
    share: str = "",
    **axes: str,
) -> tuple[Figure, list[Axes]]:
    """A figure with a panel per title, at most `columns` in a line; each line is `height` inches high.

    The `height` may be a list, one for each line. The figure is `margin` inches higher than its lines;
    `share` names the axes whose scale all panels share. `axes` are settings of each panel, such as `xlabel`;
    a `ylabel` stands on the left alone. Raises `InputError` without any title.
    """
    if not titles:
        raise InputError("there is nothing to draw; give at least one row or panel")
    columns = min(columns, len(titles))
    lines = math.ceil(len(titles) / columns)
    heights = [height] * lines if isinstance(height, int | float) else height
    figure = Figure(figsize=(WIDTH, sum(heights) + margin), layout="constrained")
    shared = {"sharex": "x" in share, "sharey": "y" in share}
    grid = figure.subplots(lines, columns, squeeze=False, height_ratios=heights, **shared)
    for unused in grid.flat[len(titles) :]:
        unused.remove()
    panels = list(grid.flat[: len(titles)])
    for number, (panel, title) in enumerate(zip(panels, titles, strict=True)):
        panel.set(title=title, **axes)
        if number % columns:
            panel.set_ylabel("")
        panel.tick_params(labelbottom="x" not in share or number + columns >= len(titles))
    return figure, panels


def panels_of(
    frame: pd.DataFrame, col: str | None, height: float | Sequence[float], **options: object
) -> tuple[Figure, list[tuple[Axes, object, pd.DataFrame]]]:
    """A panel per level of `col`, in the order they come, each with its level and its part of the frame.

    Without `col` there is one panel, of all rows. `options` are those of `panels_for`. Raises `InputError`
    without any row.
    """
    parts = [(None, frame)] * bool(len(frame)) if col is None else list(frame.groupby(col, sort=False))
    figure, panels = panels_for(["" if col is None else str(level) for level, _ in parts], height, **options)
    return figure, [(axes, *part) for axes, part in zip(panels, parts, strict=True)]


def name_rows(axes: Axes, names: Iterable[str], width: int = 30, lines: Iterable[int] | None = None) -> None:
    """Rows with a name each, the first at the top, a line above those in `lines` (or all), and one at 0."""
    names = [wrapped(name, width) for name in names]
    axes.set(yticks=range(len(names)), yticklabels=names, ylim=(len(names) - 0.5, -0.5))
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", length=0)
    for row in range(1, len(names)) if lines is None else lines:
        axes.axhline(row - 0.5, color=FAINT, linewidth=0.8, zorder=0)
    axes.axvline(0, **ZERO_LINE)


def heat_map(axes: Axes, table: pd.DataFrame | np.ndarray, texts: object, **options: object) -> None:
    """A table as coloured cells with a text in each; `options` are those of `seaborn.heatmap`."""
    cells = {"annot": texts, "fmt": "", "annot_kws": {"fontsize": 9}, "cmap": "cividis", "cbar": False}
    sns.heatmap(table, **cells, linewidths=1.5, linecolor=BACKGROUND, ax=axes, **options)
    axes.grid(False)
    axes.tick_params(length=0)
    axes.tick_params(axis="y", rotation=0)


def wrapped(text: str, width: int = 30) -> str:
    return "\n".join(textwrap.wrap(text, width))


# ---- colours, markers and legends ---------------------------------------------------------------


def looks_of(levels: Iterable[object]) -> dict[str, dict]:
    """How to draw each level, as arguments of matplotlib's plot.

    Contenders and patterns of one family look alike in every figure where they can. A degree-matched
    control has the label and colour of its pattern, but is hollow and dashed. Global tokens are left out of
    the labels if all the patterns have the same ones.
    """
    read = {str(level): _read(str(level)) for level in levels}
    shared = {globals_ for bare, globals_, _ in read.values() if bare not in ("", "dense")}
    labels = {
        text: bare if bare and len(shared) == 1 else " | ".join(filter(None, (bare, globals_)))
        for text, (bare, globals_, _) in read.items()
    }
    families = [(name, (kind.family.colour, kind.family.marker)) for name, kind in PATTERNS.items()]
    families = [(name, look) for name, look in families if look[1]]
    chosen = {label: _KNOWN[label] for label in labels.values() if label in _KNOWN}
    for label in sorted(dict.fromkeys(labels.values()), key=lambda label: "|" in label):  # unions come last
        for name, look in families:
            if label not in chosen and label.startswith(name) and look not in chosen.values():
                chosen[label] = look
    everything = list(dict.fromkeys([*_FREE, *(look for _, look in families)]))
    free = cycle([look for look in everything if look not in chosen.values()] or everything)
    looks = {}
    for text, (_, _, control) in read.items():
        colour, marker = chosen.get(labels[text]) or chosen.setdefault(labels[text], next(free))
        looks[text] = {"label": labels[text], "color": colour, "marker": marker}
        looks[text] |= {"fillstyle": "none" if control else "full", "linestyle": "--" if control else "-"}
    return looks


def _read(text: str) -> tuple[str, str, bool]:
    """A pattern's text (a control's: what it controls), its global tokens', and whether it is a control."""
    try:
        bare, globals_ = globals_apart(parse_pattern(text))
    except InputError:
        return text, "", False  # what isn't a pattern is taken as it is
    controlled = bare[0].controls if len(bare) == 1 else None
    shown = bare if controlled is None else globals_apart(controlled)[0]
    return " | ".join(map(str, shown)), " | ".join(map(str, globals_)), controlled is not None


def mark(label: str, **look: object) -> Line2D:
    """An entry of a legend."""
    return Line2D([], [], **{"color": GREY, "marker": "o", "linestyle": "none"} | look | {"label": label})


def marks_of(looks: Mapping[str, dict], **changes: object) -> list[Line2D]:
    """A mark per colour and, if there are controls, one that says what hollow means."""
    plain = {"linestyle": "none", "fillstyle": "full"} | changes
    marks = {look["label"]: mark(**look | plain) for look in looks.values()}
    return [*marks.values(), *[mark(CONTROL, fillstyle="none")] * any_control(looks)]


def any_control(looks: Mapping[str, dict]) -> bool:
    return any(look["fillstyle"] == "none" for look in looks.values())


def legend_above(figure: Figure, handles: Sequence[Artist], dense: Sequence = ()) -> None:
    """A legend outside the axes, where it covers no data, in as few lines as fit the page.

    It has an entry for the line of the `dense` runs if there are any.
    """
    handles = [*handles, *[Line2D([], [], **DENSE_LINE, label="dense")] * bool(len(dense))]
    if handles:
        longest = max(len(handle.get_label()) for handle in handles)
        lines = math.ceil(len(handles) / max(1, 100 // (longest + 7)))
        columns = math.ceil(len(handles) / lines)  # the last line is about as full as the others
        figure.legend(handles=handles, loc="outside upper center", ncols=columns)


# ---- lines, and runs of several seeds -----------------------------------------------------------

Interval = tuple[float, float, float]  # a mean and the ends of its interval, NaN if it has none


def check_alike(frame: pd.DataFrame, *by: str) -> None:
    """Runs that agree in `by` are averaged, so they must be seeds of one and differ in nothing else."""
    for column in frame.columns.intersection(["task", "encoder", "train_size", "placement", "cls"]):
        for values in frame.groupby([*by], dropna=False)[column].unique():
            if len(values) > 1:
                said = ", ".join(map(str, values))
                raise InputError(f"the frame mixes {column}: {said}; keep one of them or draw them apart")


def draw_mean(axes: Axes, x: float | Interval, y: float | Interval, look: dict) -> None:
    """A marker at a mean, with an interval in each direction that has one."""
    centre, bounds = [], {}
    for name, place in (("xerr", x), ("yerr", y)):
        mean, low, high = place if isinstance(place, tuple) else (place, math.nan, math.nan)
        centre.append(mean)
        if not math.isnan(low):
            bounds[name] = [[mean - low], [high - mean]]
    drawn = {"linestyle": "none", "markeredgewidth": 1.5, "elinewidth": 1.4, "zorder": 3}
    if look.get("fillstyle") == "none":
        drawn |= {"markerfacecolor": BACKGROUND, "fillstyle": "full"}
    axes.errorbar(*centre, **look | drawn | bounds)


def draw_runs(axes: Axes, place: float, values: pd.Series, look: dict, sideways: bool = False) -> None:
    """The mean of runs at a place, with its interval, and each run as a tick; `sideways` in a row."""
    turn = (lambda a, b: (b, a)) if sideways else (lambda a, b: (a, b))
    tick = {"color": look["color"], "linestyle": "none", "markersize": 5, "markeredgewidth": 1, "zorder": 2}
    axes.plot(*turn(np.full(len(values), place), values), marker="|" if sideways else "_", **tick)
    draw_mean(axes, *turn(place, mean_interval(values)), look)


def beside(places: pd.Series) -> pd.Series:
    """Where to draw points at these places: nearly equal ones (by less than 0.55) side by side."""
    ordered = places.sort_values(kind="stable")
    clusters = ordered.groupby((ordered.diff() > 0.55).cumsum())
    step = 0.018 * max(ordered.max() - ordered.min(), 1)
    aside = clusters.cumcount() - (clusters.transform("size") - 1) / 2
    return clusters.transform("mean") + step * aside
