"""Ways to spend less, side by side: what each setting costs and loses, and which way is best.

The page of rules (`book/rules.md`) says what is meant by cost, by the setting of a way, and by best.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any

import numpy as np
import pandas as pd

from sparsebert.errors import InputError
from sparsebert.reductions import reduction_name
from sparsebert.study.claims.rules import SEEDS
from sparsebert.study.claims.runs import setting_of
from sparsebert.study.intervals import LEVEL, Mean, over_seeds_and_rows, scatter_of
from sparsebert.study.losses import differences, mean_loss, points
from sparsebert.study.results import known_plan, without_seeds
from sparsebert.training.runs import RunConfig, RunRecord

DENSE = "dense"
TIED = 0.02  # costs that differ by less share the first place
JUDGED = "test"  # the part of the rows that settings are judged on

_COLUMNS = ["task", "way", "setting", "seeds", "cost", "chosen", "lost", "low", "high"]


def way_of(config: RunConfig) -> tuple[str, str]:
    """The way by which a run spends less than the dense encoder, and its setting."""
    if config.layers:
        return "fewer layers", f"{config.layers} layers"
    if config.reduce:
        return reduction_name(config.reduce), config.reduce
    if config.degrees:
        how = config.degrees
        density = how.target_density
        return "learned degrees", f"density {density:g}" if density else f"{how.method}, price {how.price:g}"
    plan = known_plan(config.plan)
    parts = list(plan.walk()) if plan else []
    if plan and all(part.name == DENSE for part in parts):
        return DENSE, DENSE
    named = [part.family.label for part in parts if part.reads or part.learns == "masks"]
    return named[0] if named else "fixed patterns", without_seeds(config.plan)


def to_compare(records: Iterable[RunRecord], asked: Iterable[RunConfig]) -> list[RunRecord]:
    """The runs that grids ask for, with whatever encoder, of tasks and seeds with more than patterns.

    Other runs of these tasks were made to compare patterns with each other. Chapter 10 explains it.
    """
    names = {_but_for_encoder(config) for config in asked}
    found = [record for record in records if _but_for_encoder(record.config) in names]
    configs = [record.config for record in found]
    more = {(config.task, config.seed) for config in configs if config.layers or config.reduce}
    return [record for record in found if (record.config.task, record.config.seed) in more]


def _but_for_encoder(config: RunConfig) -> str:
    return config.model_copy(update={"encoder": "any"}).name


def by_setting(records: Iterable[RunRecord]) -> pd.DataFrame:
    """A row per task and setting, of the seeds that dense attention has, too.

    `way` and `setting`; `seeds`; `cost`, the multiply-adds over dense attention's; `chosen`, the points lost
    on the validation rows, by which settings are chosen; `lost`, with its interval from `low` to `high` over
    seeds and rows together, the points lost on the test rows. The variance over seeds is moderated over all
    settings of the task. Runs without a test part, or from before multiply-adds were counted, are left out.
    Raises `InputError` for runs of a task that can't be compared, such as runs of two encoders. Chapter 10
    explains it.
    """
    runs: dict[str, dict[tuple[str, str], list[RunRecord]]] = defaultdict(lambda: defaultdict(list))
    for record in records:
        if record.multiply_adds and JUDGED in (record.predictions or {}):
            runs[record.config.task][way_of(record.config)].append(record)
    rows = []
    for task, settings in sorted(runs.items()):
        if len({setting_of(one)._replace(data_hash="") for own in settings.values() for one in own}) > 1:
            raise InputError(f"runs of {task} have several encoders or trainings; give those of one")
        scatter = scatter_of(_scores(settings))
        dense = {record.config.seed: record for record in settings.pop((DENSE, DENSE), [])}
        for (way, setting), own in settings.items():
            both = [record for record in own if record.config.seed in dense]
            if not both:
                continue
            pairs = [(dense[record.config.seed], record) for record in both]
            lost = mean_loss(differences(list(dense.values()), both, JUDGED), scatter)
            cost = fmean(one.multiply_adds / whole.multiply_adds for whole, one in pairs)
            chosen = differences(list(dense.values()), both, "validation").mean()
            numbers = cost, chosen, lost.value, *lost.interval(LEVEL)
            rows.append((task, way, setting, len(both), *numbers))
    return pd.DataFrame(rows, columns=_COLUMNS)


def judged_at(settings: pd.DataFrame, points: float) -> pd.DataFrame:
    """The setting of each way at so many points, a row per task and way, from a frame of `by_setting`.

    `keeps` says whether its loss on the test rows lies below the points with its whole interval, and `best`
    whether its way is (one of) the cheapest that do. A way none of whose settings was within the points on
    the validation rows has no row, nor one with fewer than three seeds. Chapter 10 explains it.
    """
    allowed = settings[(settings["chosen"] <= points) & (settings["seeds"] >= SEEDS)]
    found = allowed.loc[allowed.groupby(["task", "way"])["cost"].idxmin()].copy()
    found["keeps"] = found["high"] < points
    cheapest = found["cost"].where(found["keeps"]).groupby(found["task"]).transform("min")
    found["best"] = found["keeps"] & (found["cost"] < cheapest + TIED)
    return found.sort_values(["task", "cost"]).reset_index(drop=True)


def lost_beyond(way: str, setting: str, records: Iterable[RunRecord], settings: pd.DataFrame) -> Mean | None:
    """Points on the test rows that a setting loses beyond a way of the same cost.

    None without such a cost, and without two seeds that were run with all settings that are compared.
    `records` are runs of one task, and `settings` their frame of `by_setting`. The way's score at that cost
    lies on the line between its next cheaper and its next dearer setting. Chapter 10 explains it.
    """
    cost = settings.set_index("setting").loc[setting, "cost"]
    steps = settings[settings["way"] == way].sort_values("cost")
    cheaper, dearer = steps[steps["cost"] <= cost], steps[steps["cost"] >= cost]
    if cheaper.empty or dearer.empty:
        return None
    ends = cheaper["setting"].iloc[-1], dearer["setting"].iloc[0]
    share = np.interp(cost, [cheaper["cost"].iloc[-1], dearer["cost"].iloc[0]], [0.0, 1.0])
    return _sum([(-1, setting), (1 - share, ends[0]), (share, ends[1])], records)


def gained_over(other: str, setting: str, records: Iterable[RunRecord]) -> Mean | None:
    """Points on the test rows that a setting gains over another; None without two seeds of both.

    `records` are runs of one task. Chapter 10 explains it.
    """
    return _sum([(1, setting), (-1, other)], records)


def _sum(weighted: Sequence[tuple[float, str]], records: Iterable[RunRecord]) -> Mean | None:
    """The weighted sum of settings' scores over the seeds that all have, moderated as the rules say."""
    settings: dict[str, list[RunRecord]] = defaultdict(list)
    for record in records:
        settings[way_of(record.config)[1]].append(record)
    rows = {name: {one.config.seed: points(one, JUDGED) for one in settings[name]} for _, name in weighted}
    seeds = sorted(set.intersection(*map(set, rows.values())))
    if len(seeds) < 2:
        return None
    scatter = scatter_of(_scores(settings))
    squared = sum(weight**2 for weight, _ in weighted)
    scatter = scatter and scatter._replace(variance=squared * scatter.variance)
    total = sum(weight * np.stack([rows[name][seed] for seed in seeds]) for weight, name in weighted)
    return over_seeds_and_rows(total, scatter)


def _scores(settings: Mapping[Any, Sequence[RunRecord]]) -> pd.DataFrame:
    """The scores on the test rows, a row per seed and a column per setting."""
    return pd.DataFrame(
        {
            setting: {record.config.seed: points(record, JUDGED).mean() for record in own}
            for setting, own in settings.items()
        }
    )
