"""What a recorded run is to the rules: its setting, its kind of plan, its score, and scores by density."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from sparsebert.degrees import DegreeConfig
from sparsebert.patterns import Dense, Global, Neighbour, Pattern, parts_of
from sparsebert.study.results import known_plan, without_seeds
from sparsebert.training.runs import RunRecord

CLS_ALONE = "[CLS] alone"  # the pattern global(cls): what is lost if there is nothing else
MATCHED = 0.01  # densities that differ by no more count as equal


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

    Columns: `seed`; `score` in points; `kind` (dense, pattern, control, learned, read off or other);
    `pattern`, without its global tokens and seeds, and `controls`, the pattern whose degrees a control has;
    `family` of a single pattern and whether it goes `by_content`; `placement` (all, late or other); `g`, `r`
    and `w` of a mixture of global tokens, random keys and neighbours, else NaN; `density`, `sparsity` and
    `padded_sparsity` of the layers that the plan changes; `asked`, the density that degrees were learned for,
    or read off the encoder's attention for.
    """
    return {
        setting: pd.DataFrame([described_run(record) for record in own])
        for setting, own in records_by_setting(records).items()
    }


def records_by_setting(records: Sequence[RunRecord]) -> dict[Setting, list[RunRecord]]:
    """The records of each setting, without runs that start from a file of learned degrees."""
    found: dict[Setting, list[RunRecord]] = {}
    for record in each_once(records):
        if not known_plan(record.config.plan).files:
            found.setdefault(setting_of(record), []).append(record)
    return {setting: found[setting] for setting in sorted(found, key=str)}


def labelled(records: Sequence[RunRecord]) -> list[tuple[Setting, str, pd.DataFrame]]:
    """Each setting with its label and its runs, as `runs_by_setting` gives them."""
    settings = runs_by_setting(records)
    labels = labels_of(settings)
    return [(setting, labels[setting], runs) for setting, runs in settings.items()]


def each_once(records: Sequence[RunRecord]) -> list[RunRecord]:
    """The records in order of their names, of those whose plan is known; of two of one run the later one."""
    records = [record for record in records if known_plan(record.config.plan)]
    by_age = sorted(records, key=lambda record: (record.finished, str(record.metrics)))
    return [record for _, record in sorted({record.name: record for record in by_age}.items())]


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
    return {
        "controls": None,
        "family": None,
        "by_content": False,
        "asked": math.nan,
        **dict.fromkeys("grw", math.nan),
        "seed": record.config.seed,
        "score": 100 * next(iter(record.metrics.values())),
        "placement": named.get(tuple(placed), "other"),
        "density": density,
        "sparsity": 1 - density,
        "padded_sparsity": 1 - padded,
        "length": math.sqrt(padded / density) * (record.config.max_length or math.nan),
        **described,
    }


def _described(pattern: Pattern) -> dict[str, Any]:
    """Kind, text, family, and g, r and w of the pattern of a plan with one step."""
    bare, globals_ = apart(pattern)
    tokens = max((part.count for part in globals_), default=0)
    alone = CLS_ALONE if tokens == 1 else "itself"
    found: dict[str, Any] = {"kind": "other", "pattern": " | ".join(map(str, bare)) or alone}
    sizes = [part.mixture() for part in bare]
    if None not in sizes and len(dict(sizes)) == len(sizes):
        found |= {"g": tokens, "r": 0, "w": 0} | dict(sizes)
    if tokens != 1 or len(bare) != 1 or bare == [Neighbour(0)]:
        return found
    (part,) = bare
    if part.controls is not None:
        return found | {"kind": "control", "controls": _described(part.controls)["pattern"]}
    return found | {"kind": part.family.kind, "family": part.name, "by_content": part.family.by_content}


def apart(pattern: Pattern) -> tuple[list[Pattern], list[Global]]:
    """The parts of a pattern that are no global tokens, and those that are."""
    parts = parts_of(pattern)
    globals_ = [part for part in parts if isinstance(part, Global)]
    return [part for part in parts if part not in globals_], globals_


def _learned(record: RunRecord) -> dict[str, Any]:
    """Learned degrees as the rules mean them: the defaults, that is per head and with weights.

    Those of the method `mass` were not learned but read off the attention, by its defaults.
    """
    how, learning = record.config.degrees or DegreeConfig(), record.learning
    if how.target_density is None or learning is None:
        return {"kind": "other"}
    if how.model_copy(update={"target_density": None, "method": "survival"}) != DegreeConfig():
        return {"kind": "other"}
    return {"kind": how.method_class.kind, "asked": how.target_density, "density": learning.hard_density}


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


def runs_with(runs: pd.DataFrame, **values: object) -> pd.DataFrame:
    """The runs whose columns have these values."""
    for column, value in values.items():
        runs = runs[runs[column] == value]
    return runs


def scores_by_seed(runs: pd.DataFrame) -> pd.Series:
    """Scores by seed; runs of one seed with several random graphs are averaged."""
    return runs.groupby("seed")["score"].mean()


def dense_scores(runs: pd.DataFrame) -> pd.Series:
    return scores_by_seed(runs_with(runs, kind="dense"))


def at_density(runs: pd.DataFrame, density: float) -> pd.Series | None:
    """Scores by seed that patterns of one kind have at a density, or None where it can't be told.

    They lie on the straight line, seed by seed, between the pattern that is next sparser and the one that is
    next denser; if one of these is missing, they are those of a pattern within `MATCHED` of the density.
    """
    means = runs.groupby("pattern")["density"].mean()
    below, above = means[means <= density], means[means > density]
    if len(below) and len(above):
        share = (density - below.max()) / (above.min() - below.max())
        sparser, denser = (
            scores_by_seed(runs_with(runs, pattern=p)) for p in (below.idxmax(), above.idxmin())
        )
        return ((1 - share) * sparser + share * denser).dropna()
    near = (means - density).abs()
    if len(near) and round(near.min(), 9) <= MATCHED:
        return scores_by_seed(runs_with(runs, pattern=near.idxmin()))
    return None


def single_width_at(runs: pd.DataFrame, density: float) -> pd.Series | None:
    """Scores by seed of one width for all layers, with a global [CLS], at a density, or None.

    Width 0, the token itself, is one.
    """
    return at_density(runs_with(runs, placement="all", g=1, r=0), density)
