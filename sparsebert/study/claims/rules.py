"""The rule of each claim and the verdicts that it gives: constants, then C1 to C6, then all together.

A function of a claim takes the runs of one setting and yields estimates, and sentences that say what is
missing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd

from sparsebert.study.claims.runs import (
    CLS_ALONE,
    MATCHED,
    Setting,
    at_density,
    dense_scores,
    labelled,
    runs_with,
    scores_by_seed,
    single_width_at,
)
from sparsebert.study.intervals import mean_interval
from sparsebert.training.runs import RunRecord

SPARSE = 0.78  # least sparsity of the layers that a pattern is applied at, over pairs of real tokens
C1_LOSS, C1_EXCLUDED = 1.0, 2.0  # points: the largest loss, and what its interval has to exclude
C2_LOSS, C2_TIMES = 2.0, 2.0  # points: the least loss, and how many times the loss at the later half
C5_MISS = 0.5  # points of density
C6_DENSITY, C6_MARGIN = 0.10, 1.0  # and the points that the interval may reach below 0
SLACK = 0.005  # by which a density may exceed another and still count as at most that
SEEDS = 3  # of fewer a rule decides nothing, whatever their interval

Word = Literal["holds", "does not hold", "undecided"]
State = Literal["met", "refuted", "open"]


@dataclass(frozen=True)
class Estimate:
    """One thing that a rule asks about, in points: its mean over `seeds` seeds and its interval.

    `wanted` says in words what meets the rule and `bound` is where it lies on the scale. `state` is "met",
    "refuted" or "open". `low` and `high` are NaN for one seed, and for densities, which have no interval.
    """

    what: str
    wanted: str
    bound: float
    mean: float
    low: float
    high: float
    seeds: int
    state: State

    def __str__(self) -> str:
        between = "" if math.isnan(self.low) else f" ({self.low:.1f} to {self.high:.1f})"
        alone = {1: ", one seed", 2: ", two seeds"}.get(self.seeds, "")
        digits = 1 if self.seeds else 2
        return f"{self.what}: {round(self.mean, digits) + 0.0:.{digits}f} points{between}{alone}"


@dataclass(frozen=True)
class Verdict:
    """A claim's verdict on a task, with the numbers behind it and the reason in a sentence.

    `label` is the task and, where one task was run in several settings, what tells them apart.
    """

    claim: str
    task: str
    label: str
    verdict: Word
    numbers: tuple[Estimate, ...]
    reason: str


@dataclass(frozen=True)
class Claim:
    """A claim in the paper's sense, the rule for its verdict, and the function that applies it."""

    says: str
    holds: str
    fails: str
    judge: Callable[..., Iterator[Estimate | str]]


@dataclass(frozen=True)
class Rule:
    """What is asked of an estimate: in words, as tests of its mean, low and high, and on the scale."""

    wanted: str
    met: Callable[[float, float, float], bool]
    refuted: Callable[[float, float, float], bool] = lambda mean, low, high: high < 0
    bound: float = 0

    def estimate(self, what: str, points: Iterable[float], otherwise: str) -> Estimate | str:
        """The estimate from points by seed; without any, what is said `otherwise`."""
        points = list(points)
        if not points:
            return otherwise
        # A difference of accuracies such as 0.85 - 0.84 is not exactly a point.
        numbers = tuple(round(number, 9) for number in mean_interval(points))
        state: State = "open"
        if len(points) >= SEEDS:
            state = "met" if self.met(*numbers) else "refuted" if self.refuted(*numbers) else "open"
        return Estimate(what, self.wanted, self.bound, *numbers, len(points), state)


_LITTLE_LOST = Rule(
    f"at most {C1_LOSS:g}, the interval below {C1_EXCLUDED:g}",
    met=lambda mean, low, high: mean <= C1_LOSS and high < C1_EXCLUDED,
    refuted=lambda mean, low, high: low > C1_LOSS,
    bound=C1_LOSS,
)
_MUCH_LOST = Rule(
    f"at least {C2_LOSS:g}, the interval above 0",
    met=lambda mean, low, high: mean >= C2_LOSS and low > 0,
    refuted=lambda mean, low, high: high < C2_LOSS,
    bound=C2_LOSS,
)
_MEAN_FROM_0 = Rule("a mean of at least 0", met=lambda mean, low, high: mean >= 0)
_MEAN_ABOVE_0 = Rule("a mean above 0", met=lambda mean, low, high: mean > 0)
_ABOVE_0 = Rule("the interval above 0", met=lambda mean, low, high: low > 0)
_NOT_BELOW_0 = Rule(
    f"at least 0, the interval above −{C6_MARGIN:g}",
    met=lambda mean, low, high: mean >= 0 and low > -C6_MARGIN,
)


# ---- C1 and C2: where connections are missing ---------------------------------------------------

_NO_PAIR = "no seed has a dense run and all patterns"


def sparse_patterns(runs: pd.DataFrame) -> list[str]:
    """Patterns that leave the later half sparse enough."""
    sparsity = _late(runs)["sparsity"]
    return sparsity.index[sparsity.round(9) >= SPARSE].tolist()


def _late(runs: pd.DataFrame) -> pd.DataFrame:
    """Mean sparsities of the patterns at the later half."""
    late = runs_with(runs, kind="pattern", placement="late")
    return late.groupby("pattern")[["sparsity", "padded_sparsity"]].mean()


def _none_sparse(runs: pd.DataFrame) -> str:
    """Why no pattern is sparse enough."""
    sparsity = _late(runs)
    if sparsity.empty:
        return "no recorded runs with a pattern at the later half"
    best = sparsity["sparsity"].idxmax()
    said = (
        f"no pattern leaves the later half {100 * SPARSE:.0f} % sparse: {best}, the sparsest, leaves it "
        f"{100 * sparsity['sparsity'][best]:.1f} % sparse (over the padded square it would be "
        f"{100 * sparsity['padded_sparsity'][best]:.1f} %)"
    )
    itself = 1 - runs_with(runs, pattern=CLS_ALONE)["density"].mean()
    length = runs["length"].mean()
    if not math.isnan(itself):
        said += (
            f"; {100 * SPARSE:.0f} % is {'within' if itself >= SPARSE else 'out of'} reach here, since with "
            f"nothing but the token itself and [CLS] it is {100 * itself:.1f} %"
        )
    elif not math.isnan(length):
        said += (
            f"; with texts of about {length:.0f} tokens the token itself and [CLS] alone take about "
            f"{100 * min(1, 3 / length):.0f} % of the pairs"
        )
    return said


def _losses(runs: pd.DataFrame, placement: str, patterns: Iterable[str]) -> pd.Series:
    """Dense minus sparse, in points: the median over the patterns, for each seed that has all of them."""
    dense, own = dense_scores(runs), runs_with(runs, kind="pattern", placement=placement)
    return _medians({name: dense - scores_by_seed(runs_with(own, pattern=name)) for name in patterns})


def _medians(points: Mapping[Any, pd.Series]) -> pd.Series:
    """The median of several numbers, for each seed that has all of them."""
    return pd.DataFrame(points).dropna().median(axis=1)


def _named(patterns: Sequence[str], runs: pd.DataFrame) -> str:
    """Which patterns a median is of, and how sparse they leave the later half."""
    sparsity = 100 * _late(runs)["sparsity"][patterns]
    low, high = f"{sparsity.min():.0f}", f"{sparsity.max():.0f}"
    between = low if low == high else f"{low} to {high}"
    names = f"median of {len(patterns)} patterns" if len(patterns) > 1 else patterns[0]
    return f"{names}, {between} % sparse"


def _judge_c1(runs: pd.DataFrame) -> Iterator[Estimate | str]:
    patterns = sparse_patterns(runs)
    if not patterns:
        yield _none_sparse(runs)
        return
    what = f"loss at the later half ({_named(patterns, runs)})"
    yield _LITTLE_LOST.estimate(what, _losses(runs, "late", patterns), _NO_PAIR)


def _judge_c2(runs: pd.DataFrame) -> Iterator[Estimate | str]:
    patterns = sparse_patterns(runs)
    everywhere = set(runs_with(runs, kind="pattern", placement="all")["pattern"])
    both = [name for name in patterns if name in everywhere]
    if not both:
        yield "no recorded runs with the same patterns at all layers" if patterns else _none_sparse(runs)
        return
    at_all, late = _losses(runs, "all", both), _losses(runs, "late", both)
    yield _MUCH_LOST.estimate(f"loss at all layers ({_named(both, runs)})", at_all, _NO_PAIR)
    apart = "no seed has the patterns both at all layers and at the later half"
    yield _MEAN_FROM_0.estimate(
        f"loss at all layers minus {C2_TIMES:g} times that at the later half",
        (at_all - C2_TIMES * late).dropna(),
        apart if len(at_all) and len(late) else _NO_PAIR,
    )


# ---- C3: which connections ----------------------------------------------------------------------


def _judge_c3(runs: pd.DataFrame) -> Iterator[Estimate | str]:
    own = runs_with(runs, kind="pattern", placement="all")
    controls = runs_with(runs, kind="control", placement="all")
    of = {name: runs_with(own, family=name) for name in ("neighbour", "random")}
    for family in dict.fromkeys(("syntax", "lexical", *own.loc[own["by_content"], "family"].sort_values())):
        members = runs_with(own, family=family)
        if members.empty:
            yield f"no recorded runs of {family} at all layers"
        for pattern, part in members.groupby("pattern"):
            score, density = scores_by_seed(part), part["density"].mean()
            control = scores_by_seed(runs_with(controls, controls=pattern))
            rivals = {"random": control if len(control) else at_density(of["random"], density)}
            rivals["neighbour"] = at_density(of["neighbour"], density)
            if rivals["neighbour"] is None:
                rivals["neighbour"] = _by_gain(of["neighbour"], controls, control, density)
            for name, rival in rivals.items():
                yield _ABOVE_0.estimate(
                    f"loss of {pattern} minus that of {name}",
                    () if rival is None else (rival - score).dropna(),
                    f"no recorded runs of {name} at the density of {pattern} ({density:.2f})",
                )


def _by_gain(
    near: pd.DataFrame, controls: pd.DataFrame, control: pd.Series, density: float
) -> pd.Series | None:
    """What a neighbour pattern of another density would score here: the control's score plus its own gain.

    The gain is over its own control, random connections of the same degrees.
    """
    means = near[near["pattern"].isin(controls["controls"])].groupby("pattern")["density"].mean()
    if means.empty or control.empty:
        return None
    nearest = (means - density).abs().idxmin()
    own = scores_by_seed(runs_with(near, pattern=nearest))
    return (control + (own - scores_by_seed(runs_with(controls, controls=nearest)))).dropna()


# ---- C4: how many of each kind ------------------------------------------------------------------

PARTS = ("global", "random", "neighbour")  # of a mixture (g, r, w)


def _judge_c4(runs: pd.DataFrame) -> Iterator[Estimate | str]:
    mixtures = mixtures_of(runs)
    replaced = stand_ins(mixtures)
    if not replaced:
        yield (
            "no recorded runs, at all layers, of a mixture with neighbours, random keys and global tokens "
            "besides [CLS]"
        )
        return
    whole = [point for point, others in replaced.items() if len(others) == len(PARTS)]
    if not whole:
        point = max(replaced, key=lambda point: len(replaced[point]))
        lacking = [part for part in PARTS if part not in replaced[point]]
        what = ", ".join("global but for [CLS]" if part == "global" else part for part in lacking)
        yield (
            f"no recorded runs of what matches {mixture_text(point)} in density (within {MATCHED:g}) "
            f"without one part: {what}"
        )
        return
    score = {point: scores_by_seed(part) for point, part in mixtures.groupby(["g", "r", "w"])}
    without = {part: {point: score[replaced[point][part]] for point in whole} for part in PARTS}
    several = f"median of {len(whole)} mixtures" if len(whole) > 1 else mixture_text(whole[0])
    for what, rule, better in (
        ("loss without neighbours", _MEAN_ABOVE_0, score),
        ("loss without neighbours minus that without random", _ABOVE_0, without["random"]),
        ("loss without neighbours minus that without global", _ABOVE_0, without["global"]),
    ):
        points = _medians({point: better[point] - without["neighbour"][point] for point in whole})
        yield rule.estimate(f"{what} ({several})", points, "no seed has all mixtures")


def mixtures_of(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs of global tokens, random keys and neighbours, or some of these, at all layers."""
    return runs[(runs["placement"] == "all") & runs["g"].notna()]


def stand_ins(mixtures: pd.DataFrame) -> dict[tuple, dict[str, tuple]]:
    """For each full mixture (g, r, w), by part of it, what stands in without that part, if anything does.

    The part went and the others took its edges over; of such mixtures it is the nearest in density.
    """
    density = mixtures.groupby(["g", "r", "w"])["density"].mean()
    full = [point for point in density.index if min(point) and point[0] > 1]
    found: dict[tuple, dict[str, tuple]] = {point: {} for point in full}
    for point in full:
        apart = (density - density[point]).abs()
        for axis, part in enumerate(PARTS):
            kept = 1 if part == "global" else 0  # [CLS] stays global
            fits = [
                other
                for other in density.index
                if other[axis] == kept and all(other[a] >= point[a] for a in range(3) if a != axis)
            ]
            nearest = min(fits, key=apart.__getitem__, default=None)
            if nearest is not None and round(apart[nearest], 9) <= MATCHED:
                found[point][part] = nearest
    return found


def mixture_text(point: tuple) -> str:
    tokens, keys, width = map(int, point)
    parts = [f"neighbour({width})"] * (width > 0) + [f"random({keys})"] * (keys > 0)
    return " | ".join([*parts, "global(cls)" if tokens == 1 else f"global({tokens})"])


# ---- C5 and C6: learned degrees -----------------------------------------------------------------


def _judge_c5(runs: pd.DataFrame, gaps: Mapping[str, float] | None = None) -> Iterator[Estimate | str]:
    """`gaps`: the largest gaps in points, of "learned" and "bigbird", where they have been computed."""
    learned = runs_with(runs, kind="learned", placement="all")
    if learned.empty:
        yield "no recorded runs of degrees learned per head, with weights and a density asked for"
        return
    asked = learned["asked"].nunique()
    several = "one density" if asked == 1 else f"{asked} densities"
    miss = round(100 * (learned["density"] - learned["asked"]).abs().max(), 9)
    what = f"largest miss of {several} asked for"
    yield _of_density(what, f"at most {C5_MISS:g}", C5_MISS, miss, miss <= C5_MISS)
    if gaps is None:
        if asked < 2:
            yield "only one density was asked for, so there is no range to look for gaps in"
            return
        step = _random_key(runs)
        if step is None:
            yield "no recorded runs that tell how much density a random key adds"
            return
        gaps = {"learned": 2 * miss, "bigbird": round(100 * step, 9)}
    gap, grid = gaps["learned"], gaps["bigbird"]
    wanted = f"below that of BigBird's grid, {grid:.2f}"
    yield _of_density("largest gap between reachable densities", wanted, grid, gap, gap < grid)


def _of_density(what: str, wanted: str, bound: float, value: float, met: bool) -> Estimate:
    return Estimate(what, wanted, bound, value, math.nan, math.nan, 0, "met" if met else "refuted")


def _random_key(runs: pd.DataFrame) -> float | None:
    """The density that one random key more per token adds, of all that are recorded the least."""
    density = runs_with(runs, placement="all", g=1, w=0).groupby("r")["density"].mean()
    if len(density) < 2:
        return None
    return float(np.min(np.diff(density) / np.diff(density.index)))


def _judge_c6(runs: pd.DataFrame) -> Iterator[Estimate | str]:
    learned = runs_with(runs, kind="learned", placement="all")
    density = learned.groupby("asked")["density"].mean()
    sparse = density[density <= C6_DENSITY + SLACK]
    if sparse.empty:
        lowest = f"; the lowest is {density.min():.2f}" if len(density) else ""
        yield f"no recorded runs of learned degrees at density {C6_DENSITY:g} or below{lowest}"
    for asked, measured in sparse.items():
        own = scores_by_seed(runs_with(learned, asked=asked))
        said = f"at density {measured:.2f}, learned degrees minus"
        best = yield from _best_mixture(own, runs, measured)
        if best:
            name, points = best
            yield _NOT_BELOW_0.estimate(f"{said} BigBird's best, {name}", points, "")
        single = single_width_at(runs, measured)
        if single is None:
            yield f"no recorded widths tell how a single one does at density {measured:.2f}"
        else:
            yield _NOT_BELOW_0.estimate(
                f"{said} a single width of equal density",
                (own - single).dropna(),
                f"no seed has learned degrees at density {measured:.2f} and the widths beside it",
            )


def _best_mixture(
    own: pd.Series, runs: pd.DataFrame, density: float
) -> Generator[str, None, tuple[str, pd.Series] | None]:
    """What of BigBird's grid does best on the seeds of `own` at this density at most; `own` minus its scores.

    Patterns that lack one of these seeds are said, and not taken: a mean over other seeds would not compare.
    """
    fixed = runs[(runs["placement"] == "all") & (runs["g"] >= 1) & (runs["r"] + runs["w"] > 0)]
    mixtures = dict(list(fixed.groupby(["g", "r", "w"])))
    near = [point for point, part in mixtures.items() if part["density"].mean() <= density + SLACK]
    if not any(r > 0 and w > 0 for _, r, w in near):
        least = runs_with(runs, pattern=CLS_ALONE)["density"].mean()
        taken = "" if math.isnan(least) else f"; [CLS] and the token itself alone take {least:.3f}"
        yield (
            "no recorded mixture of neighbours and random keys is as sparse as learned degrees at density "
            f"{density:.2f}{taken}"
        )
        return None
    points = {mixture_text(point): own - scores_by_seed(mixtures[point]) for point in near}
    whole = {name: values for name, values in points.items() if values[own.index].notna().all()}
    if lacking := sorted(points.keys() - whole.keys()):
        yield f"{', '.join(lacking)}: not run with all seeds of the learned degrees"
    if not whole:
        return None
    best = min(whole, key=lambda name: whole[name].mean())
    return best, whole[best][own.index]


# ---- the claims and their rules -----------------------------------------------------------------

CLAIMS = {
    "C1": Claim(
        says=f"attention that is at least {100 * SPARSE:.0f} % sparse costs little at the later layers",
        holds=f"at the later half and at least {100 * SPARSE:.0f} % measured sparsity, the median over "
        f"patterns of the paired loss is at most {C1_LOSS:.1f} point, and its interval excludes "
        f"{C1_EXCLUDED:g}",
        fails=f"the interval lies above {C1_LOSS:.1f} point",
        judge=_judge_c1,
    ),
    "C2": Claim(
        says="the same sparsity at every layer reduces performance significantly",
        holds=f"the same patterns at all layers lose at least {C2_LOSS:g} points in the median, the interval "
        f"lying above 0, and on average at least {C2_TIMES:g} times what they lose at the later half",
        fails=f"the interval of the loss lies below {C2_LOSS:g} points, or that of the loss minus "
        f"{C2_TIMES:g} times the other one below 0",
        judge=_judge_c2,
    ),
    "C3": Claim(
        says="neighbour and random patterns damage the model least",
        holds="at all layers and at matched density, syntax and lexical each lose more than neighbours and "
        "than random connections, the intervals of all differences lying above 0",
        fails="one of these intervals lies below 0",
        judge=_judge_c3,
    ),
    "C4": Claim(
        says="neighbour connections matter most; taking them away does the most damage",
        holds=f"at matched density (within {MATCHED:g}) the mixture without neighbours loses, and loses more "
        "than the one without random keys and the one without global tokens but for [CLS], the intervals of "
        "both differences lying above 0",
        fails="one of the intervals lies below 0",
        judge=_judge_c4,
    ),
    "C5": Claim(
        says="learned degrees control the trade-off more finely than fixed patterns such as BigBird's",
        holds=f"every density asked for is met within {C5_MISS:g} points, and between the smallest and the "
        "largest of them the largest gap between reachable densities is smaller than that of BigBird's grid, "
        "over all numbers of random keys",
        fails="otherwise",
        judge=_judge_c5,
    ),
    "C6": Claim(
        says="learned degrees are at least as accurate as BigBird when attention is very sparse (the paper: "
        "more accurate)",
        holds=f"at densities of {100 * C6_DENSITY:.0f} % and below learned degrees are at least as accurate "
        "as the best of BigBird's patterns of at most their density, some mixture of neighbours and random "
        "keys among these, and as a single width of equal density: neither "
        f"difference is negative on average, and both intervals lie above −{C6_MARGIN:g} point",
        fails="one of the intervals lies below 0",
        judge=_judge_c6,
    ),
}


def judge(claim: str, records: Sequence[RunRecord], **known: Any) -> list[Verdict]:
    """One claim's verdict for each setting of the records; `known` is what else its rule can take.

    C5 takes `gaps`, the largest gaps between reachable densities in points, of "learned" and "bigbird".
    Without it, the gap of learned degrees is taken as twice their largest miss (as if any density were met
    as closely), and BigBird's as what a random key more per token adds: its grid has no finer step.
    """
    return [_judged(claim, *own, **known) for own in labelled(records)]


def verdicts(records: Sequence[RunRecord], tasks: Iterable[str] = ()) -> list[Verdict]:
    """The verdicts of all claims on all settings of the records, and on `tasks`, whether recorded or not."""
    settings = labelled(records)
    recorded = {setting.task for setting, _, _ in settings}
    missing = [task for task in dict.fromkeys(tasks) if task not in recorded]
    found = []
    for claim in CLAIMS:
        found += [_judged(claim, *own) for own in settings]
        found += [
            Verdict(claim, task, task, "undecided", (), f"no recorded runs of {task}") for task in missing
        ]
    return found


def _judged(claim: str, setting: Setting, label: str, runs: pd.DataFrame, **known: Any) -> Verdict:
    said = list(CLAIMS[claim].judge(runs, **known))
    numbers = tuple(one for one in said if isinstance(one, Estimate))
    missing = [one for one in said if isinstance(one, str)]
    states = {number.state for number in numbers}
    word: Word = "undecided" if missing or states != {"met"} else "holds"
    if "refuted" in states:
        word = "does not hold"
    return Verdict(claim, setting.task, label, word, numbers, _reason(word, numbers, missing))


def _reason(word: Word, numbers: Sequence[Estimate], missing: Sequence[str]) -> str:
    said: dict[State, list[str]] = {"met": [], "refuted": [], "open": list(missing)}
    for number in numbers:
        few = f"; fewer than {SEEDS} seeds decide nothing" if 0 < number.seeds < SEEDS else ""
        said[number.state].append(f"{number}, wanted: {number.wanted}{few}")
    met, refuted, unclear = ("; ".join(dict.fromkeys(lines)) for lines in said.values())
    if word != "does not hold":
        return met if word == "holds" else unclear
    return ". ".join([refuted, *([f"Met: {met}"] if met else []), *([f"Open: {unclear}"] if unclear else [])])
