"""The metrics that GLUE reports, from scikit-learn and SciPy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import stats
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

from sparsebert.errors import InputError


def _correlation(correlate, labels: np.ndarray, predictions: np.ndarray) -> float:
    """0 where one side is constant: undefined by the formula, but such predictions say nothing of labels."""
    if np.ptp(labels) == 0 or np.ptp(predictions) == 0:
        return 0.0
    return correlate(labels, predictions).statistic


METRICS = {
    "accuracy": accuracy_score,
    "f1": lambda labels, predictions: f1_score(labels, predictions, zero_division=0),
    "macro_f1": lambda labels, predictions: f1_score(labels, predictions, average="macro", zero_division=0),
    "matthews": matthews_corrcoef,
    "pearson": lambda labels, predictions: _correlation(stats.pearsonr, labels, predictions),
    "spearman": lambda labels, predictions: _correlation(stats.spearmanr, labels, predictions),
}
"""By name, called with (labels, predictions); f1 is class 1's, macro_f1 the mean over the classes."""

REGRESSION = ("pearson", "spearman")


def score(metrics: Sequence[str], predictions: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """The named metrics of `predictions` against `labels` [rows].

    `predictions`: [rows] classes or numbers, [rows, labels] logits, or [rows, 1] numbers. Raises `InputError`
    if one of them is not finite, `ValueError` if the shapes do not fit.

    >>> score(["accuracy", "f1"], np.array([[2.0, 1.0], [0.0, 3.0], [0.0, 1.0]]), np.array([0, 1, 0]))
    {'accuracy': 0.6666666666666666, 'f1': 0.6666666666666666}
    """
    predictions, labels = np.asarray(predictions), np.asarray(labels)
    if not np.isfinite(predictions).all():
        raise InputError("the model's predictions are not finite: training diverged; lower the learning rate")
    if predictions.ndim == 2:
        regression = metrics[0] in REGRESSION
        predictions = predictions.squeeze(axis=1) if regression else predictions.argmax(axis=1)
    if predictions.shape != labels.shape:
        raise ValueError(f"predictions of shape {predictions.shape} for labels of shape {labels.shape}")
    return {name: float(METRICS[name](labels, predictions)) for name in metrics}
