"""Ways to spend less, side by side: what each setting costs and loses, and which way is best.

The page of rules (`book/rules.md`) says what is meant by cost, by the setting of a way, and by best.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from statistics import fmean

import pandas as pd

from sparsebert.reductions import reduction_name
from sparsebert.study.intervals import LEVEL
from sparsebert.study.losses import differences, mean_loss
from sparsebert.study.results import known_plan, without_seeds
from sparsebert.training.predictions import prefix_of
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
        return "learned degrees", f"density {config.degrees.target_density:g}"
    plan = known_plan(config.plan)
    parts = list(plan.walk()) if plan else []
    if all(part.name == DENSE for part in parts):
        return DENSE, DENSE
    named = [part.family.label for part in parts if part.reads or part.learns == "masks"]
    return named[0] if named else "fixed patterns", without_seeds(config.plan)


def spent(records: Iterable[RunRecord]) -> pd.DataFrame:
    """A row per task and setting, of the seeds that dense attention has, too.

    `way` and `setting`; `seeds`; `cost`, the multiply-adds over dense attention's; `chosen`, the points lost
    on the validation rows, by which settings are chosen; `lost`, with its interval from `low` to `high` over
    seeds and rows together, the points lost on the test rows. Runs without a test part, or from before
    multiply-adds were counted, are left out. Chapter 10 explains it.
    """
    runs: dict[str, dict[tuple[str, str], list[RunRecord]]] = defaultdict(lambda: defaultdict(list))
    for record in records:
        if record.multiply_adds and JUDGED in (record.predictions or {}):
            runs[record.config.task][way_of(record.config)].append(record)
    rows = []
    for task, settings in sorted(runs.items()):
        dense = {record.config.seed: record for record in settings.pop((DENSE, DENSE), [])}
        for (way, setting), own in settings.items():
            both = [record for record in own if record.config.seed in dense]
            if not both:
                continue
            pairs = [(dense[record.config.seed], record) for record in both]
            lost = mean_loss(differences(list(dense.values()), both, JUDGED))
            cost = fmean(one.multiply_adds / whole.multiply_adds for whole, one in pairs)
            chosen = fmean(_points(whole) - _points(one) for whole, one in pairs)
            numbers = cost, chosen, lost.value, *lost.interval(LEVEL)
            rows.append((task, way, setting, len(both), *numbers))
    return pd.DataFrame(rows, columns=_COLUMNS)


def judged_at(settings: pd.DataFrame, points: float) -> pd.DataFrame:
    """The setting of each way at so many points, a row per task and way, from a frame of `spent`.

    `keeps` says whether its loss on the test rows lies below the points with its whole interval, and `best`
    whether its way is (one of) the cheapest that do. A way none of whose settings was within the points on
    the validation rows has no row. Chapter 10 explains it.
    """
    allowed = settings[settings["chosen"] <= points]
    found = allowed.loc[allowed.groupby(["task", "way"])["cost"].idxmin()].copy()
    found["keeps"] = found["high"] < points
    cheapest = found["cost"].where(found["keeps"]).groupby(found["task"]).transform("min")
    found["best"] = found["keeps"] & (found["cost"] < cheapest + TIED)
    return found.sort_values(["task", "cost"]).reset_index(drop=True)


def _points(record: RunRecord) -> float:
    """The score on the validation rows."""
    metric = next(iter(record.metrics))
    return 100 * record.metrics[prefix_of("validation") + metric]
