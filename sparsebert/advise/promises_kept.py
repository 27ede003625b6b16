"""Is the promise kept? A pool of runs is judged on rows and seeds left over.

The rule stands on the page of rules (`book/rules.md`), and the pool's grids in `book/grids/promises/`. Whole
searches are judged by `book/studies/whole_runs.py`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float, Int, Num
from scipy import stats

from sparsebert.advise.halving import Judged, best_first, finalists
from sparsebert.advise.promising import LEAST_SEEDS, recommended, tested
from sparsebert.advise.search_log import DENSE, Candidate
from sparsebert.advise.searching import NOTHING_LEARNED
from sparsebert.data.tasks.task import CONFIRMED
from sparsebert.study.intervals import LEVEL, Mean, over_seeds
from sparsebert.study.losses import mean_loss, points
from sparsebert.training.runs import RunRecord

DRAWS = 200
GOAL = 0.9  # of the promises

Use = tuple[Int[np.ndarray, " seed"], Int[np.ndarray, " row"]]
"""The seeds and rows that one step of a draw looks at."""


@dataclass(frozen=True)
class Pool:
    """Runs of one task that differ in plan and seed alone: what each evaluation row adds to the score.

    The first of the `candidates` is dense attention. Rows of all parts stand together.
    """

    candidates: list[Candidate]
    points: Float[np.ndarray, "plan seed row"]
    labels: Num[np.ndarray, " row"]
    densities: Float[np.ndarray, "plan seed"]

    @classmethod
    def of(cls, records: Iterable[RunRecord]) -> Pool | None:
        """The runs of the seeds that all plans have; None if these are too few for a draw."""
        runs: dict[Candidate, dict[int, RunRecord]] = defaultdict(dict)
        for record in records:
            how = record.config.degrees
            runs[Candidate(record.config.plan, how and how.target_density)][record.config.seed] = record
        candidates = [DENSE, *(candidate for candidate in runs if candidate != DENSE)]
        seeds = sorted(set.intersection(*(set(own) for own in runs.values())))
        if len(candidates) < 2 or len(seeds) < LEAST_SEEDS + 2:
            return None
        table = [[runs[candidate][seed] for seed in seeds] for candidate in candidates]
        parts = table[0][0].predictions or {}
        return cls(
            candidates,
            np.array([[_points(record) for record in row] for row in table]),
            np.concatenate([parts[part].labels for part in sorted(parts)]),
            np.array([[record.density for record in row] for row in table]),
        )

    def lost(self, candidate: Candidate, use: Use) -> Float[np.ndarray, "seed row"]:
        """Points lost by a candidate, by the seeds and rows of a use."""
        own = self.points[self.candidates.index(candidate)]
        return self.points[0][np.ix_(*use)] - own[np.ix_(*use)]


class Told(NamedTuple):
    """What a draw recommends: a plan, the bound that is told, and the plan's loss on fresh rows and seeds."""

    plan: str
    bound: float
    fresh: Mean


def draw(random: np.random.Generator, seeds: int, rows: int) -> tuple[Use, Use, Use]:
    """Seeds and rows for choosing, for confirming, and fresh ones; no seed and no row is in two of them."""
    held = rows - rows // 2
    of_seeds = np.split(random.permutation(seeds), [1, 1 + max(LEAST_SEEDS, seeds // 2)])
    of_rows = np.split(random.permutation(rows), [held - round(CONFIRMED * held), held])
    choosing, confirming, fresh = zip(of_seeds, of_rows, strict=True)
    return choosing, confirming, fresh


def told(pool: Pool, uses: Sequence[Use], max_loss: float) -> Told | None:
    """What advice from these rows and seeds would say; None where it recommends dense attention."""
    choosing, confirming, fresh = uses
    (seed,), rows = choosing
    labels, counts = np.unique(pool.labels[rows], return_counts=True)
    constant = 100.0 * (pool.labels[rows] == labels[counts.argmax()])  # an answer that is always the same
    if over_seeds(pool.points[0, seed, rows] - constant).chance(0.0) > NOTHING_LEARNED:
        return None
    ranking = best_first(
        [
            Judged.of(candidate, mean_loss(pool.lost(candidate, choosing)), density, max_loss)
            for candidate, density in zip(pool.candidates, pool.densities[:, seed], strict=True)
            if candidate != DENSE
        ]
    )
    final = {str(one.candidate): one.candidate for one in finalists(ranking)}
    lost = {plan: pool.lost(candidate, confirming) for plan, candidate in final.items()}
    if best := recommended(tested(lost, max_loss)):
        return Told(best.plan, best.bound, mean_loss(pool.lost(final[best.plan], fresh)))
    return None


def kept(
    records: Iterable[RunRecord], max_loss: float = 2.0, draws: int = DRAWS, seed: int = 0
) -> pd.DataFrame:
    """How often promises are kept, a row for each task that has enough seeds for a draw.

    `sparse` is the share of the draws that recommend a sparse plan; the other shares are of these draws.
    `kept`: the loss on fresh rows is at most `max_loss`, with its 95 % interval from `low` to `high` (Clopper
    and Pearson, 1934). `within`: it is at most the bound that was told. `above`: it lies above `max_loss`
    with 95 % confidence. `bound` and `lost` are medians, in points. Intervals take draws as independent;
    as the draws of a task share its pool, they are too narrow. Chapter 09 shows the table.
    """
    by_task: dict[str, list[RunRecord]] = defaultdict(list)
    for record in records:
        by_task[record.config.task].append(record)
    found = []
    for task, own in by_task.items():
        if (pool := Pool.of(own)) is None:
            continue
        random, (_, seeds, rows) = np.random.default_rng(seed), pool.points.shape
        answers = [told(pool, draw(random, seeds, rows), max_loss) for _ in range(draws)]
        sizes = {"task": task, "seeds": seeds, "rows": rows, "draws": draws}
        found.append(sizes | _counted([answer for answer in answers if answer], draws, max_loss))
    columns = "task seeds rows draws sparse kept low high within above bound lost"
    return pd.DataFrame(found, columns=columns.split())


def _counted(answers: Sequence[Told], draws: int, max_loss: float) -> dict[str, float]:
    if not answers:
        return {"sparse": 0.0}
    fresh = np.array([answer.fresh.value for answer in answers])
    bounds = np.array([answer.bound for answer in answers])
    surely = np.array([answer.fresh.interval(LEVEL)[0] for answer in answers])
    count = stats.binomtest(int((fresh <= max_loss).sum()), len(answers))
    low, high = count.proportion_ci()
    return {
        "sparse": len(answers) / draws,
        "kept": count.statistic,
        "low": low,
        "high": high,
        "within": float((fresh <= bounds).mean()),
        "above": float((surely > max_loss).mean()),
        "bound": float(np.median(bounds)),
        "lost": float(np.median(fresh)),
    }


def _points(record: RunRecord) -> Float[np.ndarray, " row"]:
    return np.concatenate([points(record, part) for part in sorted(record.predictions or {})])
