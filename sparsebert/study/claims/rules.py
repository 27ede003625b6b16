"""The rule of each claim and the verdicts that it gives: constants, then C1 to C6, then all together.

A function of a claim takes the runs of one setting and yields estimates, and sentences that say what is
missing. The page "The rules, written before the runs" has the rules in words.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import pandas as pd

from sparsebert.study import power
from sparsebert.study.claims.runs import (
    CLS_ALONE,
    MATCHED,
    Judged,
    Score,
    at_density,
    each_once,
    judged,
    mean_of,
    runs_with,
    score_of,
    single_width_at,
)
from sparsebert.study.results import known_plan
from sparsebert.training.runs import RunConfig, RunRecord

LEVELS = (0.78, 0.85, 0.95, 1.0)  # of sparsity, over pairs of real tokens of the layers that are changed
MARGIN = 1.0  # points: what is lost or gained beyond it is no longer little
TIMES = 2.0  # what is lost at all layers is at least so many times that at the later half
MISS = 0.5  # points of density
VERY_SPARSE = 0.10  # density
SLACK = 0.005  # by which a density may exceed another and still count as at most that
SEEDS = 3  # of fewer a rule decides nothing, whatever their interval
DECIDING_SEEDS = range(5, 10)  # those below explored, before the rules were what they are
DECIDING_ENCODER = "minilm"
MAY_DIFFER = {"plan", "degrees", "seed", "kernel", "precision", "labels"}  # fields of runs that decide
DECIDING_SETTINGS: dict[str, dict[str, str | float | None]] = {
    task: {
        "encoder": DECIDING_ENCODER,
        "train_size": size,
        "epochs": epochs,
        "batch_size": batch,
        "max_length": length,
        "learning_rate": 1e-4,
    }
    for task, size, epochs, batch, length in (
        ("glue/sst2+test", None, 1, 32, 128),
        ("glue/mrpc+test", None, 3, 16, 128),
        ("glue/qnli+test", None, 1, 16, 128),
        ("imdb+test", 4000, 2, 8, 256),
    )
}

Word = Literal["holds", "does not hold", "at the floor", "undecided", "by construction"]
State = Literal["met", "refuted", "floor", "open"]


@dataclass(frozen=True)
class Estimate:
    """One thing that a rule asks about, in points: its mean over `seeds` seeds and its 90 % interval.

    `bound` is what the rule compares with. `state` is "met", "refuted", "floor" or "open". `chance` is the
    one-sided p-value of the side of the bound that the mean lies on. `rows` is the number of evaluation rows
    whose luck the interval holds; 0 if it is that of seeds alone. `low`, `high` and `chance` are NaN for one
    seed, and for densities, which have no interval.

    The last three are what `sparsebert.study.power` needs: the standard deviation over seeds in points, how
    many further seeds it is as good as known from, and the share of the rows that the two sides disagree on
    with all seeds.
    """

    what: str
    bound: float
    mean: float
    low: float
    high: float
    chance: float
    seeds: int
    rows: int
    state: State
    scatter: float = math.nan
    freedom: float = 0.0
    disagreement: float = 0.0


@dataclass(frozen=True)
class Verdict:
    """A claim's verdict on a task, with the numbers behind it.

    `label` is the task and, where one task was run in several settings, what tells them apart. `missing` says
    what the rule asks for and no run tells.
    """

    claim: str
    task: str
    label: str
    verdict: Word
    numbers: tuple[Estimate, ...]
    missing: tuple[str, ...] = ()


@dataclass(frozen=True)
class Claim:
    """A claim in short and in the paper's sense, its rule in words, and the function that applies it."""

    short: str
    says: str
    holds: str
    fails: str
    judge: Callable[[Judged], Iterator[Estimate | str]]
    decides: bool = True


@dataclass(frozen=True)
class Rule:
    """That an interval lies above a bound, or below it; it is refuted by one on the other side."""

    bound: float
    above: bool = True

    def estimate(
        self, runs: Judged, what: str, score: Score | None, otherwise: str, floor: bool = False
    ) -> Estimate | str:
        """The estimate of a score; without one for any seed, what is said `otherwise`.

        `floor`: what is compared is at the floor, so that the comparison decides nothing.
        """
        points = score.points if score else pd.DataFrame()
        if score is None or points.empty:
            return otherwise
        mean = runs.mean(score)
        # A difference of accuracies such as 0.85 - 0.84 is not exactly a point.
        value, low, high = (round(number, 9) for number in (mean.value, *mean.interval()))
        state: State = "open"
        beyond, short = low > self.bound, high < self.bound
        if len(points) >= SEEDS and floor:
            state = "floor"
        elif len(points) >= SEEDS and (beyond or short):
            state = "met" if beyond == self.above else "refuted"
        chance = mean.chance(self.bound)
        rows = points.shape[1] if points.shape[1] > 1 else 0
        return Estimate(
            what,
            self.bound,
            value,
            low,
            high,
            min(chance, 1 - chance),
            len(points),
            rows,
            state,
            freedom=runs.scatter.freedom if runs.scatter else 0.0,
            **power.known_of(mean, len(points), rows),
        )


_LITTLE, _MORE, _POSITIVE, _NOT_WORSE = Rule(MARGIN, above=False), Rule(MARGIN), Rule(0), Rule(-MARGIN)


# ---- C1 and C2: where connections are missing ---------------------------------------------------

_NO_PAIR = "no seed has a dense run and all patterns"


def sparse_patterns(runs: Judged) -> dict[tuple[float, float], list[str]]:
    """By level of sparsity, the patterns that leave the later half so sparse."""
    sparsity = _late(runs).round(9)
    levels = sparsity[sparsity >= LEVELS[0]].groupby(pd.cut(sparsity, LEVELS, right=False), observed=True)
    return {(level.left, level.right): own.index.tolist() for level, own in levels}


def _late(runs: Judged) -> pd.Series:
    """The mean sparsity of each pattern at the later half."""
    return runs.where(kind="pattern", placement="late").groupby("pattern")["sparsity"].mean()


def _none_sparse(runs: Judged) -> str:
    """Why no pattern is sparse enough."""
    late = _late(runs)
    if late.empty:
        return "no recorded runs with a pattern at the later half"
    least, most = 100 * LEVELS[0], 100 * late.max()
    return f"no pattern leaves the later half {least:.0f} % sparse, but at most {most:.1f} %"


def _placed(runs: Judged, placement: str, patterns: Sequence[str]) -> Score:
    """The mean score of some patterns at a placement."""
    own = runs.where(kind="pattern", placement=placement)
    return mean_of([score_of(runs_with(own, pattern=name)) for name in patterns])


def _named(patterns: Sequence[str], runs: Judged) -> str:
    """Which patterns a mean is of, and how sparse they leave the later half."""
    sparsity = 100 * _late(runs)[patterns]
    low, high = f"{sparsity.min():.0f}", f"{sparsity.max():.0f}"
    between = low if low == high else f"{low} to {high}"
    names = f"mean of {len(patterns)} patterns" if len(patterns) > 1 else patterns[0]
    return f"{names}, {between} % sparse"


def _judge_c1(runs: Judged) -> Iterator[Estimate | str]:
    levels = sparse_patterns(runs)
    if not levels:
        yield _none_sparse(runs)
    for patterns in levels.values():
        what = f"loss at the later half ({_named(patterns, runs)})"
        lost = runs.dense and runs.dense - _placed(runs, "late", patterns)
        yield _LITTLE.estimate(runs, what, lost, _NO_PAIR)


def _judge_c2(runs: Judged) -> Iterator[Estimate | str]:
    everywhere = set(runs.where(kind="pattern", placement="all")["pattern"])
    levels = sparse_patterns(runs)
    if not levels:
        yield _none_sparse(runs)
    for names in levels.values():
        patterns = [name for name in names if name in everywhere]
        if not patterns:
            yield f"no recorded runs with the same patterns at all layers ({_named(names, runs)})"
            continue
        at_all, late = (_placed(runs, place, patterns) for place in ("all", "late"))
        named, dense = _named(patterns, runs), runs.dense
        yield _MORE.estimate(runs, f"loss at all layers ({named})", dense and dense - at_all, _NO_PAIR)
        yield _POSITIVE.estimate(
            runs,
            f"loss at all layers minus {TIMES:g} times that at the later half ({named})",
            dense and (dense - at_all) - TIMES * (dense - late),
            _NO_PAIR,
        )


# ---- C3: which connections ----------------------------------------------------------------------


def _judge_c3(runs: Judged) -> Iterator[Estimate | str]:
    own, controls = runs.where(kind="pattern", placement="all"), runs.where(kind="control", placement="all")
    of = {name: runs_with(own, family=name) for name in ("neighbour", "random")}
    for family in ("syntax", "lexical"):
        members = runs_with(own, family=family)
        if members.empty:
            yield f"no recorded runs of {family} at all layers"
        for pattern, part in members.groupby("pattern"):
            score, density = score_of(part), part["density"].mean()
            control = score_of(runs_with(controls, controls=pattern))
            rivals = {"random": control or at_density(of["random"], density)}
            rivals["neighbour"] = at_density(of["neighbour"], density)
            for name, rival in rivals.items():
                yield _POSITIVE.estimate(
                    runs,
                    f"loss of {pattern} minus that of {name}",
                    rival and rival - score,
                    f"no recorded runs of {name} at the density of {pattern} ({density:.2f})",
                    floor=rival is not None and runs.at_floor(rival) and runs.at_floor(score),
                )


# ---- C4: how many of each kind ------------------------------------------------------------------

PARTS = ("global", "random", "neighbour")  # of a mixture (g, r, w)


def _judge_c4(runs: Judged) -> Iterator[Estimate | str]:
    mixtures = mixtures_of(runs.runs)
    replaced = stand_ins(mixtures)
    whole = [point for point, others in replaced.items() if len(others) == len(PARTS)]
    if not whole:
        yield "no recorded runs of a mixture and of what stands in for each of its parts"
        return
    score = {point: score_of(part) for point, part in mixtures.groupby(["g", "r", "w"])}
    full = mean_of([score[point] for point in whole])
    without = {part: mean_of([score[replaced[point][part]] for point in whole]) for part in PARTS}
    several = f"mean of {len(whole)} mixtures" if len(whole) > 1 else mixture_text(whole[0])
    for what, better in (
        ("loss without neighbours", full),
        ("loss without neighbours minus that without random", without["random"]),
        ("loss without neighbours minus that without global", without["global"]),
    ):
        yield _POSITIVE.estimate(
            runs,
            f"{what} ({several})",
            better - without["neighbour"],
            "no seed has all mixtures",
            floor=runs.at_floor(better) and runs.at_floor(without["neighbour"]),
        )


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


def _judge_c5(runs: Judged) -> Iterator[Estimate | str]:
    learned = runs.where(kind="learned", placement="all")
    if learned.empty:
        yield "no recorded runs of degrees learned per head, with weights and a density asked for"
        return
    asked = learned["asked"].nunique()
    several = "one density" if asked == 1 else f"{asked} densities"
    miss = round(100 * (learned["density"] - learned["asked"]).abs().max(), 9)
    state: State = "met" if miss <= MISS else "refuted"
    what, unknown = f"largest miss of {several} asked for", (math.nan,) * 3
    yield Estimate(what, MISS, miss, *unknown, 0, 0, state)


def _judge_c6(runs: Judged) -> Iterator[Estimate | str]:
    learned = runs.where(kind="learned", placement="all")
    density = learned.groupby("asked")["density"].mean()
    mixed = mixtures_of(runs.runs).query("g >= 1 and r > 0 and w > 0").groupby(["g", "r", "w"])["density"]
    most = max(VERY_SPARSE, mixed.mean().min()) if len(mixed) else VERY_SPARSE
    sparse = density[density <= most + SLACK]
    if sparse.empty:
        lowest = f"; the lowest is {density.min():.2f}" if len(density) else ""
        yield f"no recorded runs of learned degrees at density {most:.2g} or below{lowest}"
    for asked, measured in sparse.items():
        own = score_of(runs_with(learned, asked=asked))
        said = f"at density {measured:.2f}, learned degrees minus"
        rivals = []
        if best := (yield from _best_mixture(own, runs, measured)):
            rivals.append((_POSITIVE, f"BigBird's best, {best}", score_of(_mixtures(runs)[best])))
        single = single_width_at(runs.runs, measured)
        rivals.append((_NOT_WORSE, "a single width of equal density", single))
        for rule, name, rival in rivals:
            yield rule.estimate(
                runs,
                f"{said} {name}",
                rival and own - rival,
                f"no recorded widths tell how a single one does at density {measured:.2f}",
                floor=rival is not None and runs.at_floor(rival) and runs.at_floor(own),
            )


def _mixtures(runs: Judged) -> dict[str, pd.DataFrame]:
    """By its text, the runs of each mixture of BigBird's: [CLS] alone is none."""
    fixed = runs.where(placement="all").query("g >= 1 and r + w > 0")
    return {mixture_text(point): part for point, part in fixed.groupby(["g", "r", "w"])}


def _best_mixture(own: Score, runs: Judged, density: float) -> Generator[str, None, str | None]:
    """What of BigBird's grid does best, at this density at most, on the validation rows and seeds of `own`.

    Patterns that lack one of these seeds are said, and not taken: a mean over other seeds would not compare.
    """
    near = {name: part for name, part in _mixtures(runs).items() if part["density"].mean() <= density + SLACK}
    if not any((part["r"] > 0).all() and (part["w"] > 0).all() for part in near.values()):
        least = runs.where(pattern=CLS_ALONE)["density"].mean()
        taken = "" if math.isnan(least) else f"; [CLS] and the token itself alone take {least:.3f}"
        yield (
            "no recorded mixture of neighbours and random keys is as sparse as learned degrees at density "
            f"{density:.2f}{taken}"
        )
        return None
    seeds = set(own.points.index)
    whole = {name: part for name, part in near.items() if seeds <= set(part["seed"])}
    if lacking := sorted(near.keys() - whole.keys()):
        yield f"{', '.join(lacking)}: not run with all seeds of the learned degrees"
    on_validation = {
        name: part[part["seed"].isin(seeds)].groupby("seed")["validation"].mean().mean()
        for name, part in whole.items()
    }
    return max(on_validation, key=on_validation.__getitem__, default=None)


# ---- the claims and their rules -----------------------------------------------------------------

_LEVELS = ", ".join(f"{100 * low:.0f} to {100 * high:.0f} %" for low, high in pairwise(LEVELS))
CLAIMS = {
    "C1": Claim(
        short="sparse attention costs little at the later layers",
        says=f"attention that is at least {100 * LEVELS[0]:.0f} % sparse costs little at the later layers",
        holds=f"at each level of sparsity that was run at the later half ({_LEVELS}), the mean loss of the "
        f"patterns lies below {MARGIN:g} point",
        fails=f"at one level it lies above {MARGIN:g} point",
        judge=_judge_c1,
    ),
    "C2": Claim(
        short="sparse attention costs a lot at all layers",
        says="the same sparsity at every layer reduces performance significantly",
        holds=f"at each level, the mean loss of the same patterns at all layers lies above {MARGIN:g} point, "
        f"and that loss minus {TIMES:g} times the loss at the later half lies above 0",
        fails=f"at one level the loss lies below {MARGIN:g} point, or the difference below 0",
        judge=_judge_c2,
    ),
    "C3": Claim(
        short="neighbours and random keys do the least damage",
        says="neighbour and random patterns damage the model least",
        holds="at all layers and at matched density, syntax and lexical each lose more than neighbours and "
        "than random connections: all differences lie above 0",
        fails="one difference lies below 0",
        judge=_judge_c3,
    ),
    "C4": Claim(
        short="neighbours matter most",
        says="neighbour connections matter most; taking them away does the most damage",
        holds=f"at matched density (within {MATCHED:g}), the mixture without neighbours loses against the "
        "full one, and loses more than the one without random keys and the one whose only global token is "
        "[CLS]: all three lie above 0",
        fails="one of them lies below 0",
        judge=_judge_c4,
    ),
    "C5": Claim(
        short="learned degrees control the trade-off finely",
        says="learned degrees control the trade-off more finely than fixed patterns such as BigBird's",
        holds="by construction: degrees are hardened to the density that is asked for, to within "
        f"{MISS:g} points of it",
        fails="there is no verdict",
        judge=_judge_c5,
        decides=False,
    ),
    "C6": Claim(
        short="learned degrees beat BigBird when very sparse",
        says="learned degrees come close to other methods, and are more accurate than BigBird when attention "
        "is very sparse",
        holds=f"at densities of {100 * VERY_SPARSE:.0f} % and below (or that of BigBird's sparsest mixture, "
        "where that is denser), learned degrees minus the best of BigBird's patterns of at most their "
        "density lies above 0, and learned degrees minus a single width of equal density lies above "
        f"−{MARGIN:g} point",
        fails=f"the first lies below 0, or the second below −{MARGIN:g} point",
        judge=_judge_c6,
    ),
}


def deciding(records: Sequence[RunRecord]) -> list[RunRecord]:
    """The runs that the claims are decided by: new seeds, in the settings that were fixed beforehand."""
    usual = {name: field.default for name, field in RunConfig.model_fields.items() if name not in MAY_DIFFER}
    return [
        record
        for record in records
        if (fixed := DECIDING_SETTINGS.get(task := record.config.task))
        and record.config.seed in DECIDING_SEEDS
        and record.config.model_dump(exclude=MAY_DIFFER) == usual | fixed | {"task": task}
    ]


def exploratory(records: Sequence[RunRecord]) -> list[RunRecord]:
    """The runs without a test part; rules were changed while they came in."""
    return [record for record in records if not record.config.task.endswith(("+test", "+confirm"))]


def best_known(names: Iterable[str], records: Sequence[RunRecord]) -> list[RunRecord]:
    """The runs that say most about some claims: those that decide on a task, or else those that explored it.

    The deciding runs of a task are taken once they have given a verdict on each of these claims, or all the
    numbers behind it rest on three seeds. The task's name tells which runs they are: those that decide are
    of a task with a test part. Runs of another encoder than the rules' are left out, and so are runs that
    start from a file of learned degrees.
    """
    ours = [record for record in each_once(records) if record.config.encoder == DECIDING_ENCODER]
    ours = [record for record in ours if not known_plan(record.config.plan).files]
    decided, explored = deciding(ours), exploratory(ours)
    ready = set(DECIDING_SETTINGS)
    for name in names:
        ready &= {verdict.task for verdict in judge(name, decided) if speaks(verdict)}
    tasks = {task if task in ready else task.removesuffix("+test") for task in DECIDING_SETTINGS}
    return [record for record in decided + explored if record.config.task in tasks]


def speaks(verdict: Verdict) -> bool:
    """Whether deciding runs say so much that no exploratory run need stand in: a verdict, or three seeds."""
    enough = [number.seeds >= SEEDS for number in verdict.numbers]
    return verdict.verdict != "undecided" or (bool(enough) and all(enough))


def judge(claim: str, records: Sequence[RunRecord]) -> list[Verdict]:
    """One claim's verdict for each setting of the records."""
    return [_judged(claim, own) for own in judged(records)]


def verdicts(records: Sequence[RunRecord], tasks: Iterable[str] = ()) -> list[Verdict]:
    """The verdicts of all claims on all settings of the records, and on `tasks`, whether recorded or not."""
    settings = judged(records)
    recorded = {own.setting.task for own in settings}
    missing = [task for task in dict.fromkeys(tasks) if task not in recorded]
    found = []
    for claim in CLAIMS:
        found += [_judged(claim, own) for own in settings]
        found += [
            Verdict(claim, task, task, "undecided", (), (f"no recorded runs of {task}",)) for task in missing
        ]
    return found


def after_holm(found: Sequence[Verdict], error: float = 0.05) -> dict[tuple[str, str], bool]:
    """Whether each verdict that was decided is so still if the error of all tests together is bounded.

    By claim and label. Holm's step-down procedure (1979) over all estimates of at least three seeds, decided
    or not; a verdict that holds needs all of its own, one that does not hold any that is refuted.
    """
    tests = sorted(
        (number.chance, place, number.state)
        for place, verdict in enumerate(found)
        for number in verdict.numbers
        if number.seeds >= SEEDS
    )
    small = [chance <= error / (len(tests) - rank) for rank, (chance, _, _) in enumerate(tests)]
    passed = tests[: small.index(False)] if False in small else tests
    stays: dict[tuple[str, str], bool] = {}
    for place, verdict in enumerate(found):
        states = [state for _, own, state in passed if own == place]
        if verdict.verdict == "holds":
            stays[verdict.claim, verdict.label] = len(states) == len(verdict.numbers)
        elif verdict.verdict == "does not hold":
            stays[verdict.claim, verdict.label] = "refuted" in states
    return stays


def _judged(claim: str, runs: Judged) -> Verdict:
    said = list(CLAIMS[claim].judge(runs))
    numbers = tuple(one for one in said if isinstance(one, Estimate))
    missing = tuple(one for one in said if isinstance(one, str))
    states = {number.state for number in numbers}
    word: Word = "undecided"
    if numbers and not CLAIMS[claim].decides:
        word = "by construction"
    elif "refuted" in states:
        word = "does not hold"
    elif numbers and not missing and "open" not in states:
        word = "at the floor" if "floor" in states else "holds"
    return Verdict(claim, runs.setting.task, runs.label, word, numbers, missing)
