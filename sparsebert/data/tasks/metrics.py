"""The metrics that GLUE reports, and F1 of entities.

NumPy, which is wherever torch and transformers are, is enough for all but the last.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Int

if TYPE_CHECKING:
    from seqscore.scoring import ClassificationScore


def _accuracy(labels: np.ndarray, predictions: np.ndarray) -> float:
    return np.mean(labels == predictions)


def _f1(labels: np.ndarray, predictions: np.ndarray, of: int = 1) -> float:
    """Of one class; 0 where nobody names it."""
    true, guessed = labels == of, predictions == of
    return 2 * np.sum(true & guessed) / max(np.sum(true) + np.sum(guessed), 1)


def _macro_f1(labels: np.ndarray, predictions: np.ndarray) -> float:
    return np.mean([_f1(labels, predictions, of) for of in np.union1d(labels, predictions)])


def _pearson(labels: np.ndarray, predictions: np.ndarray) -> float:
    """0 where one side is constant: undefined by the formula, but such predictions say nothing of labels."""
    if np.ptp(labels) == 0 or np.ptp(predictions) == 0:
        return 0.0
    return np.corrcoef(labels.astype(float), predictions.astype(float))[0, 1]


def _ranks(values: np.ndarray) -> np.ndarray:
    """Equal values share the mean of their ranks."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[place]


def _entity_f1(labels: Sequence[Sequence[str]], predictions: Sequence[Sequence[str]]) -> float:
    """Of whole entities in the tags of sentences, all types together, as conlleval counts them.

    An entity begins at B-, and at I- behind O or another type: so IOB1 and IOB2 are both read as they are
    meant. It is found if its first word, its last word and its type are. NaN for labels without entities.
    """
    from seqscore.encoding import EncodingError

    try:
        return _entities(labels, predictions).f1 if labels else math.nan
    except EncodingError:
        return math.nan


def _entities(labels: Sequence[Sequence[str]], predictions: Sequence[Sequence[str]]) -> ClassificationScore:
    from seqscore.scoring import score_label_sequences

    rows = [[list(map(str, tags)) for tags in side] for side in (predictions, labels)]
    return score_label_sequences(*rows, "BIO", repair="conlleval")[0]


def entity_counts(
    labels: Sequence[Sequence[str]], predictions: Sequence[Sequence[str]]
) -> Int[np.ndarray, "sentence 2"]:
    """How many entities of each sentence are found, and how many it has and is said to have together.

    F1 is twice the sum of the first over the sum of the second.
    """
    scores = [_entities([own], [guessed]) for own, guessed in zip(labels, predictions, strict=True)]
    return np.array([(score.true_pos, score.total_pos + score.total_ref) for score in scores])


METRICS = {
    "accuracy": _accuracy,
    "f1": _f1,
    "macro_f1": _macro_f1,
    "matthews": _pearson,  # which it is, for two classes
    "pearson": _pearson,
    "spearman": lambda labels, predictions: _pearson(_ranks(labels), _ranks(predictions)),
    "entity_f1": _entity_f1,
}
"""By name, called with (labels, predictions); f1 is class 1's, macro_f1 the mean over the classes."""

OF_SENTENCES = {"entity_f1": "seqscore"}
"""Those that are called with the tags of each sentence, as texts; and the package that they need."""

OF_ROWS = ("accuracy", "matthews", "pearson", *OF_SENTENCES)
"""Those that a task can be judged by: what each row adds to them is known (`Predictions.points`)."""

REGRESSION = ("pearson", "spearman")


def score(
    metrics: Sequence[str], predictions: np.ndarray, labels: np.ndarray, tags: Sequence[Sequence] = ((), ())
) -> dict[str, float]:
    """The named metrics of `predictions`, classes or numbers, against `labels`: both of shape [rows].

    `tags` are labels and predictions once more, as the texts of each sentence, for those `OF_SENTENCES`.
    Raises `ValueError` if the shapes do not fit.

    >>> score(["accuracy", "f1"], np.array([0, 1, 1]), np.array([0, 1, 0]))
    {'accuracy': 0.6666666666666666, 'f1': 0.6666666666666666}
    """
    if predictions.shape != labels.shape:
        raise ValueError(f"predictions of shape {predictions.shape} for labels of shape {labels.shape}")
    given = {name: tags if name in OF_SENTENCES else (labels, predictions) for name in metrics}
    return {name: float(METRICS[name](*both)) for name, both in given.items()}
