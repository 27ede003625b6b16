"""What a recorded run is to the rules: its setting, its kind of plan, its score, and scores by density."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from sparsebert.degrees import DegreeConfig
from sparsebert.patterns import Dense, Neighbour, Pattern, globals_apart
from sparsebert.study.intervals import Mean, Scatter, over_seeds, over_seeds_and_rows, scatter_of
from sparsebert.study.results import known_plan, without_seeds
from sparsebert.training.predictions import prefix_of
from sparsebert.training.runs import RunRecord

CLS_ALONE = "[CLS] alone"  # the pattern global(cls): what is lost if there is nothing else
NUMBERS = ("seeds", "mean", "low", "high")
MATCHED = 0.01  # densities that differ by no more count as equal
FLOOR = 0.25  # of what [CLS] alone loses: what is told to gain less is at the floor


class Setting(NamedTuple):
    """What two runs have to share to be compared."""

    task: str
    encoder: str
    train_size: int | None
    eval_size: int | None
    max_length: int | None
    epochs: float
    batch_size: int
    learning_rate: float
    precision: str
    data_hash: str


def runs_by_setting(records: Sequence[RunRecord]) -> dict[Setting, pd.DataFrame]:
    """The runs of each setting, a row per run, in an order that does not depend on that of the records.

    Columns: `condition`, the same for runs that differ in their seeds alone; `seed`; `score` in points, on
    the test part if there is one; `validation`, the score on the validation rows, which choices are made on;
    `correct`, 100 for each judged row whose class was found, else 0 (None where that is not on record; of
    a row of words 100 times what it adds to accuracy over words);
    `kind` (dense, pattern, control, learned or other); `pattern`, without its global tokens and seeds, and
    `controls`, the pattern whose degrees a control has; `family` of a single pattern; whether any part beside
    a global [CLS] `reads_text`; `placement` (all, late or other); `g`, `r` and `w` of a mixture of global
    tokens, random keys and neighbours, else NaN; `density`, `sparsity` and `padded_sparsity` of the layers
    that the plan changes; `asked`, the density that degrees were learned for.
    """
    settings = records_by_setting(records)
    return {setting: frame_of(map(described_run, own)) for setting, own in settings.items()}


def frame_of(described: Iterable[dict[str, Any]]) -> pd.DataFrame:
    """Described runs of one setting as a frame."""
    runs = pd.DataFrame(described)
    if len(set(runs.pop("rows"))) > 1:  # some have no predictions, or they are of other rows
        runs["correct"] = None
    return runs


def records_by_setting(records: Sequence[RunRecord]) -> dict[Setting, list[RunRecord]]:
    """The records of each setting, without runs that start from a file of learned degrees."""
    found: dict[Setting, list[RunRecord]] = {}
    for record in each_once(records):
        if not known_plan(record.config.plan).files:
            found.setdefault(setting_of(record), []).append(record)
    return {setting: found[setting] for setting in sorted(found, key=str)}


def judged(records: Sequence[RunRecord]) -> list[Judged]:
    """The runs of each setting, as rules and tables take them."""
    settings = runs_by_setting(records)
    labels = labels_of(settings)
    return [Judged(setting, labels[setting], runs) for setting, runs in settings.items()]


def each_once(records: Sequence[RunRecord]) -> list[RunRecord]:
    """The records in order of their names, of those whose plan is known; of two of one run the later one."""
    records = [record for record in records if known_plan(record.config.plan)]
    by_age = sorted(records, key=lambda record: (record.finished, str(record.metrics)))
    return [record for _, record in sorted({record.name: record for record in by_age}.items())]


def rows_judged(record: RunRecord) -> int:
    """How many rows the score that rules look at is over."""
    tested = (record.predictions or {}).get("test")
    return len(tested.correct) if tested else record.eval_rows


def setting_of(record: RunRecord) -> Setting:
    found = {"precision": record.precision, "data_hash": record.data_hash}
    asked = {name: getattr(record.config, name) for name in Setting._fields if name not in found}
    return Setting(**asked, **found)


def described_run(record: RunRecord) -> dict[str, Any]:
    layers = len(record.density_per_layer)
    plan = known_plan(without_seeds(record.config.plan))
    steps = [(pattern, place.layers(layers)) for pattern, place in plan.steps if pattern != Dense()]
    placed = sorted(layer for _, where in steps for layer in where) or range(layers)
    named = {tuple(range(layers)): "all", tuple(range(layers // 2, layers)): "late"}
    density, padded = (
        float(np.mean([values[layer] for layer in placed]))
        for values in (record.density_per_layer, record.padded_density_per_layer)
    )
    described: dict[str, Any] = {"kind": "other", "pattern": str(plan)}
    if not steps:
        described["kind"] = "dense"
    elif len(steps) == 1:
        described |= _described(steps[0][0])
    if described["kind"] == "learned":
        described |= _learned(record)
    whole = {
        "controls": None,
        "family": None,
        "reads_text": False,
        "asked": math.nan,
        **dict.fromkeys("grw", math.nan),
        "seed": record.config.seed,
        **_scores(record),
        "placement": named.get(tuple(placed), "other"),
        "density": density,
        "sparsity": 1 - density,
        "padded_sparsity": 1 - padded,
        "length": math.sqrt(padded / density) * (record.config.max_length or math.nan),
        **described,
    }
    if "other" in (whole["kind"], whole["placement"]):  # which is many kinds, and many placements
        return whole | {"condition": f"{plan} {record.config.degrees}"}
    return whole | {
        "condition": " ".join(str(whole[part]) for part in ("kind", "placement", "pattern", "asked"))
    }


def _scores(record: RunRecord) -> dict[str, Any]:
    metric = record.metric
    part = "test" if f"test_{metric}" in record.metrics else "validation"
    predictions = (record.predictions or {}).get(part) if metric == "accuracy" else None
    return {
        "score": 100 * record.metrics[prefix_of(part) + metric],
        "validation": 100 * record.metrics[metric],
        "correct": predictions and 100.0 * predictions.correct,
        "rows": predictions and predictions.rows,
    }


def _described(pattern: Pattern) -> dict[str, Any]:
    """Kind, text, family, and g, r and w of the pattern of a plan with one step."""
    bare, globals_ = globals_apart(pattern)
    tokens = max((part.count for part in globals_), default=0)
    alone = CLS_ALONE if tokens == 1 else "itself"
    found: dict[str, Any] = {"kind": "other", "pattern": " | ".join(map(str, bare)) or alone}
    sizes = [part.mixture() for part in bare]
    if None not in sizes and len(dict(sizes)) == len(sizes):
        found |= {"g": tokens, "r": 0, "w": 0} | dict(sizes)
    found["reads_text"] = tokens == 1 and any(part.reads and part.controls is None for part in bare)
    if tokens != 1 or len(bare) != 1 or bare == [Neighbour(0)]:
        return found
    (part,) = bare
    if part.controls is not None:
        return found | {"kind": "control", "controls": _described(part.controls)["pattern"]}
    return found | {"kind": part.family.kind, "family": part.name}


def _learned(record: RunRecord) -> dict[str, Any]:
    """Learned degrees as the rules mean them: the defaults, that is per head and with weights."""
    how, learning = record.config.degrees or DegreeConfig(), record.learning
    if learning is None or how.target_density is None:
        return {"kind": "other"}
    if how != DegreeConfig(target_density=how.target_density):
        return {"kind": "other"}
    return {"kind": "learned", "asked": how.target_density, "density": learning.hard_density}


def labels_of(settings: Iterable[Setting]) -> dict[Setting, str]:
    """The task of each setting and, if it has several, in what they differ."""
    settings = list(settings)
    labels = {}
    for setting in settings:
        alike = [other for other in settings if other.task == setting.task]
        differing = [name for name in Setting._fields if len({getattr(other, name) for other in alike}) > 1]
        labels[setting] = ", ".join([setting.task, *(_said(setting, name) for name in differing)])
    return labels


def _said(setting: Setting, name: str) -> str:
    """A field of a setting in words."""
    value = getattr(setting, name)
    if value is None:
        value = "the task's" if name == "max_length" else "all rows"
    elif name == "data_hash":
        value = value[:12]
    return str(value) if name == "encoder" else f"{name.replace('_', ' ')} {value}"


# ---- scores -------------------------------------------------------------------------------------


class Score:
    """A sum of conditions' scores in points, with weights; scores are added, subtracted and scaled.

    Each condition has a frame with a row per seed, and a column per evaluation row (or a single one, if only
    the score is known). `points` is their sum for the seeds that all of them have.
    """

    def __init__(self, parts: dict[str, tuple[float, pd.DataFrame]]):
        self.parts = parts

    def __add__(self, other: Score) -> Score:
        weights = {name: weight for name, (weight, _) in self.parts.items()}
        return Score(
            self.parts
            | {name: (weights.get(name, 0) + weight, frame) for name, (weight, frame) in other.parts.items()}
        )

    def __mul__(self, factor: float) -> Score:
        return Score({name: (factor * weight, frame) for name, (weight, frame) in self.parts.items()})

    __rmul__ = __mul__

    def __sub__(self, other: Score) -> Score:
        return self + -1 * other

    @cached_property
    def points(self) -> pd.DataFrame:
        return sum(weight * frame for weight, frame in self.parts.values()).dropna()

    @property
    def squares(self) -> float:
        """The sum of the squared weights."""
        return sum(weight**2 for weight, _ in self.parts.values())


def mean_of(scores: Sequence[Score]) -> Score:
    """The mean of several scores."""
    total = scores[0]
    for score in scores[1:]:
        total = total + score
    return total * (1 / len(scores))


class Judged:
    """The runs of one `setting`, with its `label`: a frame `runs` as `runs_by_setting` gives it."""

    def __init__(self, setting: Setting, label: str, runs: pd.DataFrame):
        self.setting, self.label, self.runs = setting, label, runs

    def where(self, **values: object) -> pd.DataFrame:
        """The runs whose columns have these values."""
        return runs_with(self.runs, **values)

    @cached_property
    def scatter(self) -> Scatter | None:
        """What variances over seeds are shrunk towards, of the score of one condition."""
        return scatter_of(self.runs.pivot_table("score", "seed", "condition"))

    @cached_property
    def dense(self) -> Score | None:
        return score_of(self.where(kind="dense"))

    @cached_property
    def alone(self) -> Score | None:
        """[CLS] alone, at all layers."""
        return score_of(self.where(pattern=CLS_ALONE, placement="all"))

    def mean(self, score: Score) -> Mean:
        """What a score is, over seeds and, where they are known, evaluation rows; NaN without a seed."""
        points = score.points
        if points.empty:
            return Mean(math.nan, math.nan, math.nan)
        scatter = self.scatter and self.scatter._replace(variance=score.squares * self.scatter.variance)
        if points.shape[1] == 1:
            return over_seeds(points.iloc[:, 0], scatter)
        return over_seeds_and_rows(points.to_numpy(), scatter)

    def numbers(self, score: Score | None) -> dict[str, float]:
        """How many `seeds` a score has, its `mean` and the ends of its interval, `low` and `high`."""
        mean = self.mean(score) if score else Mean(math.nan, math.nan, math.nan)
        seeds = len(score.points) if score else 0
        return dict(zip(NUMBERS, (seeds, mean.value, *mean.interval()), strict=True))

    def at_floor(self, score: Score) -> bool:
        """Whether a score can't be told from that of [CLS] alone, to a quarter of what that loses."""
        if self.alone is None or self.dense is None:
            return False
        low, high = (round(end, 9) for end in self.mean(score - self.alone).interval())
        lost = self.mean(self.dense - self.alone).value
        return low <= 0 <= high < FLOOR * lost


def score_of(runs: pd.DataFrame) -> Score | None:
    """The score of runs of one condition; None without runs. Those of one seed are averaged."""
    if runs.empty:
        return None
    first = runs.iloc[0]
    rows = runs["score"].to_numpy()[:, None] if first["correct"] is None else np.stack(runs["correct"])
    seeds = runs["seed"].to_numpy()
    by_seed = {seed: rows[seeds == seed].mean(0) for seed in sorted(set(seeds))}
    frame = pd.DataFrame(np.stack(list(by_seed.values())), index=list(by_seed))
    return Score({first["condition"]: (1.0, frame)})


def runs_with(runs: pd.DataFrame, **values: object) -> pd.DataFrame:
    """The runs whose columns have these values."""
    for column, value in values.items():
        runs = runs[runs[column] == value]
    return runs


def scores_by_seed(runs: pd.DataFrame) -> pd.Series:
    """Scores by seed; runs of one seed with several random graphs are averaged."""
    return runs.groupby("seed")["score"].mean()


def at_density(runs: pd.DataFrame, density: float) -> Score | None:
    """The score that patterns of one kind have at a density, or None where it can't be told.

    It lies on the straight line between the pattern that is next sparser and the one that is next denser; if
    one of these is missing, it is that of a pattern within `MATCHED` of the density.
    """
    means = runs.groupby("pattern")["density"].mean()
    below, above = means[means <= density], means[means > density]
    if len(below) and len(above):
        share = (density - below.max()) / (above.min() - below.max())
        sparser, denser = (score_of(runs_with(runs, pattern=p)) for p in (below.idxmax(), above.idxmin()))
        return sparser * (1 - share) + denser * share
    near = (means - density).abs()
    if len(near) and round(near.min(), 9) <= MATCHED:
        return score_of(runs_with(runs, pattern=near.idxmin()))
    return None


def single_width_at(runs: pd.DataFrame, density: float) -> Score | None:
    """The score of one width for all layers, with a global [CLS], at a density, or None.

    Width 0, the token itself, is one.
    """
    return at_density(runs_with(runs, placement="all", g=1, r=0), density)
