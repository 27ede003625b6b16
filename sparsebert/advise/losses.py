"""What a plan loses against dense attention, row by row, on one part of the rows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from sparsebert.errors import InputError
from sparsebert.study.intervals import Mean, over_seeds, over_seeds_and_rows
from sparsebert.training.predictions import Predictions
from sparsebert.training.runs import RunRecord


def loss(dense: Sequence[RunRecord], sparse: Sequence[RunRecord], part: str) -> Mean:
    """Points lost, dense minus sparse, over the seeds that both have and the rows of a part together.

    With one seed only the luck of rows is known. `InputError` if no seed is in both, or without predictions.
    """
    of_dense = {record.config.seed: points(record, part) for record in dense}
    pairs = [(of_dense[r.config.seed], points(r, part)) for r in sparse if r.config.seed in of_dense]
    if not pairs:
        raise InputError("a loss needs a dense and a sparse run of one seed")
    lost = np.stack([theirs - own for theirs, own in pairs])
    return over_seeds_and_rows(lost) if len(lost) > 1 else over_seeds(lost[0])


def gain(record: RunRecord, part: str = "validation") -> Mean:
    """Points that a run has beyond an answer that is always the same."""
    found = _predictions(record, part)
    return over_seeds(points(record, part) - found.constant.points(_metric(record)))


def points(record: RunRecord, part: str) -> Float[np.ndarray, " row"]:
    """What each row adds to the score of a run in points; their mean is the score."""
    return _predictions(record, part).points(_metric(record))


def counted(record: RunRecord, part: str) -> int:
    """How many rows, words or entities the score of a run counts."""
    return _predictions(record, part).counted(_metric(record))


def _predictions(record: RunRecord, part: str) -> Predictions:
    if found := (record.predictions or {}).get(part):
        return found
    raise InputError(f"run {record.name} has no predictions of its part '{part}'; make it again")


def _metric(record: RunRecord) -> str:
    return next(iter(record.metrics))
