"""The rule of each claim and the verdicts that it gives: constants, then C1 to C6, then all together."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pandas as pd

from sparsebert.study.claims.runs import (
    CLS_ALONE,
    MATCHED,
    Setting,
    at_density,
    labels_of,
    runs_by_setting,
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
    state: Literal["met", "refuted", "open"]

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
    """A claim in the paper's sense, the rule for its verdict, and the function that applies it.

    `judge` takes the runs of one setting and gives the estimates and what is missing, in sentences.
    """

    says: str
    holds: str
    fails: str
    judge: Callable[..., Judgement]


@dataclass
class Judgement:
    estimates: list[Estimate] = field(default_factory=list)
    gaps: list[str] = field(default_factory=list)

    def add(
        self,
        what: str,
        wanted: str,
        bound: float,
        points: Iterable[float],
        met: Callable[[float, float, float], bool],
        refuted: Callable[[float, float, float], bool],
    ) -> None:
        """An estimate from points by seed; `met` and `refuted` take its mean, low and high."""
        points = list(points)
        # A difference of accuracies such as 0.85 - 0.84 is not exactly a point.
        numbers = tuple(round(number, 9) for number in mean_interval(points))
        decided = len(points) >= SEEDS
        state = "met" if decided and met(*numbers) else "refuted" if decided and refuted(*numbers) else "open"
        self.estimates.append(Estimate(what, wanted, bound, *numbers, len(points), state))

    @property
    def verdict(self) -> Word:
        states = {estimate.state for estimate in self.estimates}
        if "refuted" in states:
            return "does not hold"
        return "undecided" if self.gaps or states != {"met"} else "holds"

    @property
    def reason(self) -> str:
        said: dict[str, list[str]] = {"met": [], "refuted": [], "open": []}
        for e in self.estimates:
            few = f"; fewer than {SEEDS} seeds decide nothing" if 0 < e.seeds < SEEDS else ""
            said[e.state].append(f"{e}, wanted: {e.wanted}{few}")
        if self.verdict == "holds":
            return "; ".join(said["met"])
        unclear = list(dict.fromkeys(self.gaps + said["open"]))
        if self.verdict == "undecided":
            return "; ".join(unclear)
        others = [f"{word}: {'; '.join(lines)}" for word, lines in (("Met", said["met"]), ("Open", unclear))]
        return ". ".join(["; ".join(said["refuted"]), *(line for line in others if not line.endswith(": "))])


def _losses(runs: pd.DataFrame, placement: str, patterns: Iterable[str], judged: Judgement) -> pd.DataFrame:
    """Dense minus sparse, in points: a row for each seed that has all patterns, a column per pattern."""
    dense = scores_by_seed(runs[runs["kind"] == "dense"])
    own = runs[(runs["kind"] == "pattern") & (runs["placement"] == placement)]
    table = pd.DataFrame({name: dense - scores_by_seed(own[own["pattern"] == name]) for name in patterns})
    return _complete(table, "a dense run and all patterns", judged)


def _complete(table: pd.DataFrame, needs: str, judged: Judgement) -> pd.DataFrame:
    """The rows without gaps; if none is left, that is said."""
    whole = table.dropna()
    if whole.empty:
        judged.gaps.append(f"no seed has {needs}")
    return whole


# ---- C1 and C2: where connections are missing ---------------------------------------------------


def sparse_patterns(runs: pd.DataFrame, judged: Judgement) -> list[str]:
    """Patterns that leave the later half sparse enough."""
    late = runs[(runs["kind"] == "pattern") & (runs["placement"] == "late")]
    if late.empty:
        judged.gaps.append("no recorded runs with a pattern at the later half")
        return []
    sparsity = late.groupby("pattern")[["sparsity", "padded_sparsity"]].mean()
    enough = sparsity.index[sparsity["sparsity"].round(9) >= SPARSE].tolist()
    if not enough:
        judged.gaps.append(_out_of_reach(runs, sparsity))
    return enough


def _out_of_reach(runs: pd.DataFrame, sparsity: pd.DataFrame) -> str:
    best = sparsity["sparsity"].idxmax()
    said = (
        f"no pattern leaves the later half {100 * SPARSE:.0f} % sparse: {best}, the sparsest, leaves it "
        f"{100 * sparsity['sparsity'][best]:.1f} % sparse (over the padded square it would be "
        f"{100 * sparsity['padded_sparsity'][best]:.1f} %)"
    )
    itself = 1 - runs.loc[runs["pattern"] == CLS_ALONE, "density"].mean()
    length = runs["length"].mean()
    if not math.isnan(itself):
        possible = "within" if itself >= SPARSE else "out of"
        return (
            f"{said}; {100 * SPARSE:.0f} % is {possible} reach here, since with nothing but the token itself "
            f"and [CLS] it is {100 * itself:.1f} %"
        )
    if not math.isnan(length):
        return (
            f"{said}; with texts of about {length:.0f} tokens the token itself and [CLS] alone take about "
            f"{100 * min(1, 3 / length):.0f} % of the pairs"
        )
    return said


def _median(table: pd.DataFrame) -> pd.Series:
    return table.median(axis=1)


def _of(table: pd.DataFrame, runs: pd.DataFrame) -> str:
    """Which patterns a median is of, and how sparse they leave the later half."""
    late = runs[(runs["placement"] == "late") & runs["pattern"].isin(table.columns)]
    sparsity = 100 * late.groupby("pattern")["sparsity"].mean()
    low, high = f"{sparsity.min():.0f}", f"{sparsity.max():.0f}"
    between = low if low == high else f"{low} to {high}"
    names = f"median of {table.shape[1]} patterns" if table.shape[1] > 1 else table.columns[0]
    return f"{names}, {between} % sparse"


def _judge_c1(runs: pd.DataFrame) -> Judgement:
    judged = Judgement()
    if patterns := sparse_patterns(runs, judged):
        late = _losses(runs, "late", patterns, judged)
        if len(late):
            judged.add(
                f"loss at the later half ({_of(late, runs)})",
                f"at most {C1_LOSS:g}, the interval below {C1_EXCLUDED:g}",
                C1_LOSS,
                _median(late),
                met=lambda mean, low, high: mean <= C1_LOSS and high < C1_EXCLUDED,
                refuted=lambda mean, low, high: low > C1_LOSS,
            )
    return judged


def _judge_c2(runs: pd.DataFrame) -> Judgement:
    judged = Judgement()
    patterns = sparse_patterns(runs, judged)
    everywhere = set(runs.loc[(runs["kind"] == "pattern") & (runs["placement"] == "all"), "pattern"])
    both = [name for name in patterns if name in everywhere]
    if patterns and not both:
        judged.gaps.append("no recorded runs with the same patterns at all layers")
    if not both:
        return judged
    at_all, late = _losses(runs, "all", both, judged), _losses(runs, "late", both, judged)
    if len(at_all):
        judged.add(
            f"loss at all layers ({_of(at_all, runs)})",
            f"at least {C2_LOSS:g}, the interval above 0",
            C2_LOSS,
            _median(at_all),
            met=lambda mean, low, high: mean >= C2_LOSS and low > 0,
            refuted=lambda mean, low, high: high < C2_LOSS,
        )
    times = (_median(at_all) - C2_TIMES * _median(late)).dropna()
    if len(times):
        judged.add(
            f"loss at all layers minus {C2_TIMES:g} times that at the later half",
            "a mean of at least 0",
            0,
            times,
            met=lambda mean, low, high: mean >= 0,
            refuted=lambda mean, low, high: high < 0,
        )
    elif len(at_all) and len(late):
        judged.gaps.append("no seed has the patterns both at all layers and at the later half")
    return judged


# ---- C3: which connections ----------------------------------------------------------------------


def _judge_c3(runs: pd.DataFrame) -> Judgement:
    judged = Judgement()
    runs = runs[runs["placement"] == "all"]
    own, controls = runs[runs["kind"] == "pattern"], runs[runs["kind"] == "control"]
    positions = {name: own[own["pattern"].str.startswith(name)] for name in ("neighbour", "random")}
    for family in ("syntax", "lexical"):
        members = own[own["pattern"].str.startswith(family)]
        if members.empty:
            judged.gaps.append(f"no recorded runs of {family} at all layers")
        for pattern, part in members.groupby("pattern"):
            score, density = scores_by_seed(part), part["density"].mean()
            control = scores_by_seed(controls[controls["controls"] == pattern])
            rivals = {"random": control if len(control) else at_density(positions["random"], density)}
            rivals["neighbour"] = at_density(positions["neighbour"], density)
            if rivals["neighbour"] is None:
                rivals["neighbour"] = _by_gain(positions["neighbour"], controls, control, density)
            for name, rival in rivals.items():
                points = pd.Series(dtype=float) if rival is None else (rival - score).dropna()
                if points.empty:
                    at = f"at the density of {pattern} ({density:.2f})"
                    judged.gaps.append(f"no recorded runs of {name} {at}")
                else:
                    judged.add(
                        f"loss of {pattern} minus that of {name}",
                        "the interval above 0",
                        0,
                        points,
                        met=lambda mean, low, high: low > 0,
                        refuted=lambda mean, low, high: high < 0,
                    )
    return judged


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
    gain = scores_by_seed(near[near["pattern"] == nearest]) - scores_by_seed(
        controls[controls["controls"] == nearest]
    )
    return (control + gain).dropna()


# ---- C4: how many of each kind ------------------------------------------------------------------


def _judge_c4(runs: pd.DataFrame) -> Judgement:
    judged = Judgement()
    mixtures = mixtures_of(runs)
    replaced = stand_ins(mixtures)
    if not replaced:
        judged.gaps.append(
            "no recorded runs, at all layers, of a mixture with neighbours, random keys and global tokens "
            "besides [CLS]"
        )
        return judged
    score = {point: scores_by_seed(part) for point, part in mixtures.groupby(["g", "r", "w"])}
    lost, more, lacking = {}, {"random": {}, "global": {}}, {}
    for point, left_out in replaced.items():
        lacking[point] = [part for part, other in left_out.items() if other is None]
        if not lacking[point]:
            without = score[left_out["neighbour"]]
            lost[point] = score[point] - without
            for part, points in more.items():
                points[point] = score[left_out[part]] - without
    if not lost:
        point, parts = min(lacking.items(), key=lambda item: len(item[1]))
        what = ", ".join("global but for [CLS]" if part == "global" else part for part in parts)
        judged.gaps.append(
            f"no recorded runs of what matches {mixture_text(point)} in density (within {MATCHED:g}) "
            f"without one part: {what}"
        )
        return judged
    above = {"met": lambda mean, low, high: low > 0, "refuted": lambda mean, low, high: high < 0}
    several = f"median of {len(lost)} mixtures" if len(lost) > 1 else mixture_text(next(iter(lost)))
    tables = [("loss without neighbours", "a mean above 0", lost)]
    for part, points in more.items():
        tables.append((f"loss without neighbours minus that without {part}", "the interval above 0", points))
    for what, wanted, points in tables:
        table = _complete(pd.DataFrame(points), "all mixtures", judged)
        if len(table):
            rule = above | ({"met": lambda mean, low, high: mean > 0} if points is lost else {})
            judged.add(f"{what} ({several})", wanted, 0, _median(table), **rule)
    return judged


def mixtures_of(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs of global tokens, random keys and neighbours, or some of these, at all layers."""
    return runs[(runs["placement"] == "all") & runs["g"].notna()]


def stand_ins(mixtures: pd.DataFrame) -> dict[tuple, dict[str, tuple | None]]:
    """For each full mixture (g, r, w) and part of it, what stands in without it; None if nothing does."""
    density = mixtures.groupby(["g", "r", "w"])["density"].mean()
    return {
        point: {
            part: _left_out(point, axis, 1.0 if part == "global" else 0.0, density)
            for axis, part in enumerate(("global", "random", "neighbour"))
        }
        for point in density.index
        if min(point) and point[0] > 1
    }


def _left_out(point: tuple, axis: int, keep: float, density: pd.Series) -> tuple | None:
    """The mixture in which a part went and the others took its edges over: the nearest in density."""
    fits = [
        other
        for other in density.index
        if other[axis] == keep and all(other[a] >= point[a] for a in range(3) if a != axis)
    ]
    nearest = min(fits, key=lambda other: abs(density[other] - density[point]), default=None)
    if nearest is None or round(abs(density[nearest] - density[point]), 9) > MATCHED:
        return None
    return nearest


def mixture_text(point: tuple) -> str:
    tokens, keys, width = map(int, point)
    parts = [f"neighbour({width})"] * (width > 0) + [f"random({keys})"] * (keys > 0)
    return " | ".join([*parts, "global(cls)" if tokens == 1 else f"global({tokens})"])


# ---- C5 and C6: learned degrees -----------------------------------------------------------------


def _judge_c5(runs: pd.DataFrame, gaps: Mapping[str, float] | None = None) -> Judgement:
    """`gaps`: the largest gaps in points, of "learned" and "bigbird", where they have been computed."""
    judged = Judgement()
    learned = runs[(runs["kind"] == "learned") & (runs["placement"] == "all")]
    if learned.empty:
        judged.gaps.append(
            "no recorded runs of degrees learned per head, with weights and a density asked for"
        )
        return judged
    asked = sorted(learned["asked"].unique())
    miss = round(100 * (learned["density"] - learned["asked"]).abs().max(), 9)
    judged.estimates.append(
        _density_estimate(
            "largest miss of "
            + ("one density" if len(asked) == 1 else f"{len(asked)} densities")
            + " asked for",
            f"at most {C5_MISS:g}",
            C5_MISS,
            miss,
            miss <= C5_MISS,
        )
    )
    if len(asked) < 2 and gaps is None:
        judged.gaps.append("only one density was asked for, so there is no range to look for gaps in")
        return judged
    if gaps is None:
        step = _random_key(runs)
        if step is None:
            judged.gaps.append("no recorded runs that tell how much density a random key adds")
            return judged
        gaps = {"learned": 2 * miss, "bigbird": round(100 * step, 9)}
    learned_gap, grid_gap = gaps["learned"], gaps["bigbird"]
    judged.estimates.append(
        _density_estimate(
            "largest gap between reachable densities",
            f"below that of BigBird's grid, {grid_gap:.2f}",
            grid_gap,
            learned_gap,
            learned_gap < grid_gap,
        )
    )
    return judged


def _density_estimate(what: str, wanted: str, bound: float, value: float, met: bool) -> Estimate:
    return Estimate(what, wanted, bound, value, math.nan, math.nan, 0, "met" if met else "refuted")


def _random_key(runs: pd.DataFrame) -> float | None:
    """The density that one random key more per token adds, of all that are recorded the least."""
    alone = runs[(runs["placement"] == "all") & (runs["g"] == 1) & (runs["w"] == 0)]
    density = alone.groupby("r")["density"].mean()
    if len(density) < 2:
        return None
    return float(np.min(np.diff(density) / np.diff(density.index)))


def _bigbird(runs: pd.DataFrame) -> pd.DataFrame:
    """Density and mean score of the fixed mixtures at all layers, by g, r and w; [CLS] alone is none."""
    fixed = runs[(runs["placement"] == "all") & (runs["g"] >= 1) & (runs["r"] + runs["w"] > 0)]
    return fixed.groupby(["g", "r", "w"])[["density", "score"]].mean()


def _judge_c6(runs: pd.DataFrame) -> Judgement:
    judged = Judgement()
    learned = runs[(runs["kind"] == "learned") & (runs["placement"] == "all")]
    density = learned.groupby("asked")["density"].mean()
    sparse = density[density <= C6_DENSITY + SLACK]
    if sparse.empty:
        lowest = f"; the lowest is {density.min():.2f}" if len(density) else ""
        judged.gaps.append(f"no recorded runs of learned degrees at density {C6_DENSITY:g} or below{lowest}")
        return judged
    for asked, measured in sparse.items():
        own = scores_by_seed(learned[learned["asked"] == asked])
        rivals = {
            "BigBird's best": _best_mixture(own, runs, measured, judged),
            "a single width of equal density": _single_width(own, runs, measured, judged),
        }
        for name, (rival, points) in rivals.items():
            if len(points):
                judged.add(
                    f"at density {measured:.2f}, learned degrees minus {name}{rival}",
                    f"at least 0, the interval above −{C6_MARGIN:g}",
                    0,
                    points,
                    met=lambda mean, low, high: mean >= 0 and low > -C6_MARGIN,
                    refuted=lambda mean, low, high: high < 0,
                )
    return judged


def _best_mixture(
    own: pd.Series, runs: pd.DataFrame, density: float, judged: Judgement
) -> tuple[str, pd.Series]:
    """What of BigBird's grid does best on the seeds of `own` at this density at most; `own` minus its scores.

    Patterns that lack one of these seeds are said, and not taken: a mean over other seeds would not compare.
    """
    fixed = _bigbird(runs)
    near = fixed.index[fixed["density"] <= density + SLACK]
    if not any(r > 0 and w > 0 for _, r, w in near):
        least = runs.loc[runs["pattern"] == CLS_ALONE, "density"].mean()
        taken = "" if math.isnan(least) else f"; [CLS] and the token itself alone take {least:.3f}"
        judged.gaps.append(
            "no recorded mixture of neighbours and random keys is as sparse as learned degrees at density "
            f"{density:.2f}{taken}"
        )
        return "", pd.Series(dtype=float)
    everywhere = runs[runs["placement"] == "all"].set_index(["g", "r", "w"]).sort_index()
    points = {mixture_text(point): own - scores_by_seed(everywhere.loc[[point]]) for point in near}
    whole = {name: values for name, values in points.items() if values[own.index].notna().all()}
    if lacking := sorted(points.keys() - whole.keys()):
        judged.gaps.append(f"{', '.join(lacking)}: not run with all seeds of the learned degrees")
    best = min(whole, key=lambda name: whole[name].mean(), default=None)
    return (f", {best}", whole[best][own.index]) if best else ("", pd.Series(dtype=float))


def _single_width(
    own: pd.Series, runs: pd.DataFrame, density: float, judged: Judgement
) -> tuple[str, pd.Series]:
    """`own` minus the scores of a single width at this density, on the seeds that have both."""
    scores = single_width_at(runs, density)
    if scores is None:
        judged.gaps.append(f"no recorded widths tell how a single one does at density {density:.2f}")
        return "", pd.Series(dtype=float)
    points = (own - scores).dropna()
    if points.empty:
        judged.gaps.append(f"no seed has learned degrees at density {density:.2f} and the widths beside it")
    return "", points


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
    return _judged(claim, runs_by_setting(records), known)


def verdicts(records: Sequence[RunRecord], tasks: Iterable[str] = ()) -> list[Verdict]:
    """The verdicts of all claims on all settings of the records, and on `tasks`, whether recorded or not."""
    settings = runs_by_setting(records)
    missing = [task for task in dict.fromkeys(tasks) if all(task != setting.task for setting in settings)]
    found = []
    for claim in CLAIMS:
        found += _judged(claim, settings, {})
        for task in missing:
            found.append(Verdict(claim, task, task, "undecided", (), f"no recorded runs of {task}"))
    return found


def _judged(claim: str, settings: Mapping[Setting, pd.DataFrame], known: dict) -> list[Verdict]:
    labels = labels_of(settings)
    found = []
    for setting, runs in settings.items():
        judged = CLAIMS[claim].judge(runs, **known)
        numbers = tuple(judged.estimates)
        found.append(Verdict(claim, setting.task, labels[setting], judged.verdict, numbers, judged.reason))
    return found
