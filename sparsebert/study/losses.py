"""What a plan loses against dense attention, row by row, on one part of the rows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from sparsebert.errors import InputError
from sparsebert.study.intervals import Mean, Scatter, over_seeds, over_seeds_and_rows
from sparsebert.training.predictions import Predictions
from sparsebert.training.runs import RunRecord


def loss(dense: Sequence[RunRecord], sparse: Sequence[RunRecord], part: str) -> Mean:
    """Points lost over the seeds that both have and the rows of a part together.

    `InputError` if no seed is in both, or without predictions.
    """
    lost = differences(dense, sparse, part)
    if not len(lost):
        raise InputError("a loss needs a dense and a sparse run of one seed")
    return mean_loss(lost)


def differences(
    dense: Sequence[RunRecord], sparse: Sequence[RunRecord], part: str
) -> Float[np.ndarray, "seed row"]:
    """Points lost, dense minus sparse, by the seeds that both have and the rows of a part.

    `InputError` for runs that were evaluated on different rows.
    """
    of_dense = {record.config.seed: record for record in dense}
    pairs = [(of_dense[one.config.seed], one) for one in sparse if one.config.seed in of_dense]
    if len({_predictions(record, part).rows for pair in pairs for record in pair}) > 1:
        raise InputError(
            f"the runs have different rows in their part '{part}'; compare runs of the same data"
        )
    lost = [points(dense, part) - points(one, part) for dense, one in pairs]
    return np.stack(lost) if lost else np.empty((0, 0))


def mean_loss(lost: Float[np.ndarray, "seed row"], scatter: Scatter | None = None) -> Mean:
    """The mean over seeds and rows together; with one seed only the luck of rows is known.

    `scatter` is what single runs scatter by over seeds (see `sparsebert.study.intervals.scatter_of`); a loss
    is a difference of two.
    """
    if len(lost) == 1:
        return over_seeds(lost[0])
    return over_seeds_and_rows(lost, scatter and scatter._replace(variance=2 * scatter.variance))


def gain(record: RunRecord, part: str = "validation") -> Mean:
    """Points that a run has beyond an answer that is always the same."""
    found = _predictions(record, part)
    return over_seeds(points(record, part) - found.constant.points(record.metric))


def points(record: RunRecord, part: str) -> Float[np.ndarray, " row"]:
    """What each row adds to the score of a run in points; their mean is the score."""
    return _predictions(record, part).points(record.metric)


def counted(record: RunRecord, part: str) -> int:
    """How many rows, words or entities the score of a run counts."""
    return _predictions(record, part).counted(record.metric)


def _predictions(record: RunRecord, part: str) -> Predictions:
    if found := (record.predictions or {}).get(part):
        return found
    raise InputError(f"run {record.name} has no predictions of its part '{part}'; make it again")
