"""Points lost, with the intervals of the rules, and verdicts on claims; see `sparsebert.study.claims`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sparsebert.figures import look, page
from sparsebert.study import claims
from sparsebert.study.captions import between, rounded, titled
from sparsebert.study.claims import Verdict
from sparsebert.study.claims.runs import CLS_ALONE
from sparsebert.training.runs import RunRecord

_NUMBERS = ["mean", "low", "high"]
_STATES = {
    "met": {"label": "met", "color": look.BLUE, "marker": "o"},
    "refuted": {"label": "refuted", "color": look.RED, "marker": "X"},
    "floor": {"label": "at the floor", "color": look.ORANGE, "marker": "v"},
    "open": {"label": "open", "color": look.GREY, "marker": "s", "fillstyle": "none"},
}
_PLACEMENTS = {
    "late": {"label": "at the later half", "color": look.BLUE, "marker": "o"},
    "all": {"label": "at all layers", "color": look.RED, "marker": "D", "fillstyle": "none"},
}
_WORDS = {  # classes of the book's style sheet
    "holds": "verdict holds",
    "does not hold": "verdict fails",
    "at the floor": "verdict floor",
    "undecided": "verdict",
}
_KINDS = {  # of connections, and of ways to spend less
    CLS_ALONE: {"color": look.INK, "marker": "s"},
    "neighbours": {"color": look.BLUE, "marker": "o"},
    "random keys": {"color": look.RED, "marker": "X"},
    "both": {"color": look.GREEN, "marker": "D"},
    "learned degrees": {"color": look.ORANGE, "marker": "^"},
    "copies": {"color": look.COLOURS[4], "marker": "P"},
    "two named heads": {"color": look.COLOURS[5], "marker": "v"},
    "fixed patterns": {"color": look.BLUE, "marker": "o"},
    "segments": {"color": look.GREEN, "marker": "D"},
    "predicted": {"color": look.RED, "marker": "s"},
    "lat": {"color": look.COLOURS[4], "marker": "v"},
    "ltp": {"color": look.COLOURS[5], "marker": "P"},
    "adaptive": {"color": look.COLOURS[6], "marker": "X"},
    "compressed": {"color": look.COLOURS[7], "marker": "<"},
    "fewer layers": {"color": look.COLOURS[9], "marker": ">"},
}
_OTHER = {"color": look.GREY, "marker": "."}
_BOUND = {"marker": "|", "color": look.INK, "linestyle": "none"}
_LETTERS = 44  # of a row's name, on a line


def grid(verdicts: pd.DataFrame, caption: str, made_from: Sequence[RunRecord] = ()) -> page.Table:
    """The verdicts of `claims.summary` as a table, in colour and in words."""
    unbroken = verdicts.rename(columns=lambda task: task.replace("-", "\N{NON-BREAKING HYPHEN}"))
    return page.table(unbroken, caption, made_from, _WORDS)


def show_claim(name: str, found: Sequence[Verdict], made_from: Sequence[RunRecord]) -> None:
    """Put on the page what the rule of a claim asks about, as a `forest` plot with the rule in its caption.

    Verdicts of other claims, and numbers without an interval, are left out; without any nothing is shown.
    """
    numbers = claims.estimates([v for v in found if v.claim == name])
    numbers = numbers[numbers["low"].notna()].assign(label=numbers["label"].map(titled))
    if numbers.empty:
        return
    claim, said = claims.CLAIMS[name], []
    for row in numbers.itertuples():
        known = f"{rounded(row.mean)} ({between(row.low, row.high)}), {_STATES[row.state]['label']}"
        said.append(f"{row.label}: {row.what} {known}")
    page.show(
        forest(numbers),
        f"fig-claims-{name.lower()}",
        f"{name} holds if {claim.holds}. It does not hold if {claim.fails}. Means in points with 90 % "
        "intervals; the tick in each row is the bound that the rule asks about.",
        f"A row for each task and number of {name}: an interval and the rule's bound. {'; '.join(said)}.",
        made_from,
    )


@look.style()
def losses_by(
    frame: pd.DataFrame,
    x: str = "density",
    xlabel: str = "density over real tokens, %",
    *,
    joined: bool = False,
) -> Figure:
    """Points lost against a share `x`, such as density or cost: a panel per task, a look per kind.

    Columns of `frame`: `label` (the task), `kind`, such as a way to spend less, `x` in [0, 1] (a density is
    drawn in percent, and nearly equal ones stand side by side), and `mean`, `low` and `high` in points. If
    they are `joined`, a line leads through those of a kind.
    """
    labels = {"xlabel": xlabel, "ylabel": "points lost"}
    figure, panels = look.panels_of(frame, "label", 3.6 if joined else 2.7, columns=2, margin=0.6, **labels)
    kinds = sorted({*frame["kind"]}, key=lambda kind: [*_KINDS, kind].index(kind))
    looks = {kind: _KINDS.get(kind, _OTHER) for kind in kinds}
    for axes, _, own in panels:
        axes.axhline(0, **look.ZERO_LINE)
        own = own.assign(place=look.beside(100 * own[x]) if x == "density" else own[x]).sort_values("place")
        for kind, part in own.groupby("kind"):
            if joined:
                axes.plot(part["place"], part["mean"], color=looks[kind]["color"], linewidth=1)
            for row in part.itertuples():
                look.draw_mean(axes, row.place, (row.mean, row.low, row.high), looks[kind])
    look.legend_above(figure, [look.mark(kind, **own) for kind, own in looks.items()])
    return figure


@look.style()
def dots(
    frame: pd.DataFrame,
    xlabel: str = "points lost against dense attention",
    looks: Mapping[str, dict] = _KINDS,
) -> Figure:
    """Points lost or gained, each in a row with its interval, and a line at zero: a panel per task.

    Columns of `frame`, as `claims.regained`, `by_connection` and `taken_apart` give them: `label` (the task),
    `what`, and `mean`, `low` and `high` in points. The numbers stand on the right. Markers show the `kind` if
    the frame has it, by its `looks`, a dotted line what [CLS] alone loses, and a tick a rule's `bound`.
    """
    if "kind" not in frame:
        frame, looks = frame.assign(kind=""), {"": {"color": look.BLUE, "marker": "o"}}
    lines = frame["what"].map(lambda what: look.wrapped(what, _LETTERS).count("\n") + 1).astype(int)
    heights = (0.2 * lines + 0.16).groupby(frame["label"], sort=False).sum() + 0.5
    options = {"columns": 1, "margin": 0.4, "share": "x"}
    figure, panels = look.panels_of(frame, "label", heights.tolist(), **options)
    panels[-1][0].set_xlabel(xlabel)
    for axes, label, part in panels:
        axes.set_title(titled(str(label)))
        part = part.reset_index(drop=True)
        for place, row in part.iterrows():
            look.draw_mean(axes, tuple(row[_NUMBERS]), place, looks.get(row["kind"], _OTHER))
        for alone in part.loc[part["kind"] == CLS_ALONE, "mean"]:
            axes.axvline(alone, color=look.PALE, linestyle=":", zorder=0)
        if "bound" in part:
            axes.plot(part["bound"], part.index, **_BOUND, markersize=16, markeredgewidth=1.6)
        look.name_rows(axes, part["what"], _LETTERS, lines=())
        _write_numbers(axes, part)
    return figure


@look.style()
def forest(frame: pd.DataFrame) -> Figure:
    """A forest plot: a row per estimate with its mean and 90 % interval, and a tick at its rule's bound.

    Columns of `frame`, as `claims.estimates` gives them: those of `dots`, the `bound` in points, and `state`,
    which the markers show. An estimate of one seed has no interval.
    """
    figure = dots(frame.assign(kind=frame["state"]), "points", _STATES)
    marks = [look.mark(**style) for style in _STATES.values()]
    look.legend_above(figure, [*marks, look.mark("what the rule asks for", **_BOUND, markersize=12)])
    return figure


def _write_numbers(axes: Axes, rows: pd.DataFrame) -> None:
    """The mean of each row and, if it has one, its interval, right of the panel."""
    numbers = [
        rounded(row.mean) + f" ({between(row.low, row.high)})" * (row.low < row.high)
        for row in rows.itertuples()
    ]
    right = axes.secondary_yaxis("right")
    right.set_yticks(range(len(rows)), numbers)
    right.tick_params(length=0)
    right.spines["right"].set_visible(False)


@look.style()
def losses_in_rows(frame: pd.DataFrame, row: str = "pattern", kind: str = "placement") -> Figure:
    """What is lost on each task, in points, with 90 % intervals: a panel per task, a row for each of `row`.

    `kind` says which markers stand in a row: a placement, or any other names. Columns of `frame`, as
    `claims.losses` and `claims.parts_left_out` give them: `label` (the task), `row`, `kind`, and `mean`,
    `low` and `high` in points. Rows and kinds come in the order of the frame.
    """
    names, kinds = list(frame[row].unique()), list(frame[kind].unique())
    free = zip(kinds, look.COLOURS, look.MARKERS, strict=False)
    styles = {name: {"label": name, "color": colour, "marker": marker} for name, colour, marker in free}
    styles |= {name: style for name, style in _PLACEMENTS.items() if name in styles}
    options = {"columns": 2, "share": "y", "margin": 0.7}
    figure, panels = look.panels_of(frame, "label", 0.36 * len(names) + 0.6, **options)
    for axes, _, own in panels:
        for _, one in own.iterrows():
            aside = 0.3 * (kinds.index(one[kind]) - (len(kinds) - 1) / 2)
            numbers = tuple(one[_NUMBERS])
            look.draw_mean(axes, numbers, names.index(one[row]) + aside, styles[one[kind]])
        look.name_rows(axes, names)
    figure.supxlabel("points lost", fontsize=10)
    look.legend_above(figure, [look.mark(**style) for style in styles.values()])
    return figure
