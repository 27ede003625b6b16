"""What a recorded run is to the rules: its setting, its kind of plan, its score, and scores by density."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from sparsebert.degrees import DegreeConfig
from sparsebert.patterns import Dense, Global, Learned, Lexical, Neighbour, Pattern, Random, Syntax, parts_of
from sparsebert.patterns.plans import parse_plan
from sparsebert.study.results import without_seeds
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
    `placement` (all, late or other); `g`, `r` and `w` of a mixture of global tokens, random keys and
    neighbours, else NaN; `density`, `sparsity` and `padded_sparsity` of the layers that the plan changes;
    `asked`, the density that degrees were learned for, or read off the encoder's attention for. Runs that
    start from a file of learned degrees are left out.
    """
    rows: dict[Setting, list[dict]] = {}
    for record in each_once(records):
        if not parse_plan(record.config.plan).files:
            rows.setdefault(setting_of(record), []).append(described_run(record))
    return {setting: pd.DataFrame(own) for setting, own in sorted(rows.items(), key=str)}


def each_once(records: Sequence[RunRecord]) -> list[RunRecord]:
    """The records in order of their names; of two of one run the one that was finished last."""
    by_age = sorted(records, key=lambda record: (record.finished, str(record.metrics)))
    return [record for _, record in sorted({record.name: record for record in by_age}.items())]


def setting_of(record: RunRecord) -> Setting:
    found = {"precision": record.precision, "data_hash": record.data_hash}
    asked = {name: getattr(record.config, name) for name in Setting._fields if name not in found}
    return Setting(**asked, **found)


def described_run(record: RunRecord) -> dict[str, Any]:
    layers = len(record.density_per_layer)
    plan = parse_plan(without_seeds(record.config.plan))
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
    """Kind, text, and g, r and w of the pattern of a plan with one step."""
    parts = parts_of(pattern)
    tokens = max((_tokens(part) for part in parts if isinstance(part, Global)), default=0)
    bare = [part for part in parts if not isinstance(part, Global)]
    text = " | ".join(map(str, bare))
    alone = CLS_ALONE if tokens == 1 else "itself"
    found: dict[str, Any] = {"kind": "other", "pattern": text or alone}
    widths = [part.w for part in bare if isinstance(part, Neighbour)]
    keys = [part.k for part in bare if isinstance(part, Random) and part.like is None]
    if len(widths) + len(keys) == len(bare) and max(len(widths), len(keys)) <= 1:
        found |= {"g": tokens, "r": sum(keys), "w": sum(widths)}
    if tokens != 1 or len(bare) != 1:
        return found
    (part,) = bare
    if isinstance(part, Random) and part.like is not None:
        return found | {"kind": "control", "controls": _described(part.like)["pattern"]}
    if part == Neighbour(0):
        return found
    if isinstance(part, Neighbour | Random | Syntax | Lexical):
        return found | {"kind": "pattern"}
    return found | ({"kind": "learned"} if isinstance(part, Learned) else {})


def _tokens(part: Global) -> int:
    return 1 if part.tokens == "cls" else part.tokens


def _learned(record: RunRecord) -> dict[str, Any]:
    """Learned degrees as the rules mean them: the defaults, that is per head and with weights.

    Those of the method `mass` were not learned but read off the attention, by its defaults.
    """
    how, learning = record.config.degrees or DegreeConfig(), record.learning
    if how.target_density is None or learning is None:
        return {"kind": "other"}
    if how.model_copy(update={"target_density": None, "method": "survival"}) != DegreeConfig():
        return {"kind": "other"}
    return {"kind": how.kind, "asked": how.target_density, "density": learning.hard_density}


def labels_of(settings: Iterable[Setting]) -> dict[Setting, str]:
    """The task of each setting and, if it has several, in what they differ."""
    settings = list(settings)
    labels = {}
    for setting in settings:
        alike = [other for other in settings if other.task == setting.task]
        differing = [name for name in Setting._fields if len({getattr(other, name) for other in alike}) > 1]
        words = {"train_size": "all rows", "eval_size": "all rows", "max_length": "the task's"}
        said = [setting.task]
        for name in differing:
            value = getattr(setting, name)
            value = words[name] if value is None else str(value)[:12] if name == "data_hash" else value
            said.append(str(value) if name == "encoder" else f"{name.replace('_', ' ')} {value}")
        labels[setting] = ", ".join(said)
    return labels


# ---- scores -------------------------------------------------------------------------------------


def scores_by_seed(runs: pd.DataFrame) -> pd.Series:
    """Scores by seed; runs of one seed with several random graphs are averaged."""
    return runs.groupby("seed")["score"].mean()


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
            scores_by_seed(runs[runs["pattern"] == p]) for p in (below.idxmax(), above.idxmin())
        )
        return ((1 - share) * sparser + share * denser).dropna()
    near = (means - density).abs()
    if len(near) and round(near.min(), 9) <= MATCHED:
        return scores_by_seed(runs[runs["pattern"] == near.idxmin()])
    return None


def single_width_at(runs: pd.DataFrame, density: float) -> pd.Series | None:
    """Scores by seed of one width for all layers, with a global [CLS], at a density, or None.

    Width 0, the token itself, is one.
    """
    return at_density(runs[(runs["placement"] == "all") & (runs["g"] == 1) & (runs["r"] == 0)], density)
