"""What runs predicted: packed and unpacked, checked when read, and the metrics that follow."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from sparsebert.data.rows import Rows
from sparsebert.data.tasks.metrics import score
from sparsebert.errors import InputError
from sparsebert.training.predictions import Predictions, metrics_of


def rows_of(labels, tokens=None):
    count = len(labels)
    tokens = np.arange(2 * count) if tokens is None else tokens
    return Rows(np.full(count, 2), {"input_ids": tokens}, list(labels))


@given(
    st.integers(1, 300).flatmap(lambda k: st.tuples(st.just(k), st.lists(st.integers(0, k - 1), min_size=1)))
)
def test_classes_come_back(given_):
    classes, labels = given_
    logits = np.eye(classes)[labels[::-1]]
    found = Predictions.model_validate_json(
        Predictions.of(rows_of(labels), logits, classes).model_dump_json()
    )
    assert found.labels.tolist() == labels
    assert found.predictions.tolist() == labels[::-1]
    assert found.correct.mean() == found.metrics(["accuracy"])["accuracy"]


@given(st.lists(st.tuples(st.floats(0, 5, width=32), st.floats(-9, 9, width=32)), min_size=2))
def test_numbers_come_back(pairs):
    labels, numbers = map(list, zip(*pairs, strict=True))
    found = Predictions.of(rows_of(labels), np.array(numbers, np.float32)[:, None], 0)
    assert (found.labels.tolist(), found.predictions.tolist()) == (labels, numbers)
    expected = score(["pearson", "spearman"], np.array(numbers), np.array(labels))
    assert found.metrics(["pearson", "spearman"]) == pytest.approx(expected, abs=1e-5)


def test_points_of_matthews_add_up_to_the_score_and_tell_its_error():
    labels = np.random.default_rng(0).integers(0, 2, 400)
    guesses = np.where(np.random.default_rng(1).random(400) < 0.7, labels, 1)
    own = Predictions.of(rows_of(labels), np.eye(2)[guesses], 2).points("matthews")

    def whole(chosen):
        return 100 * score(["matthews"], guesses[chosen], labels[chosen])["matthews"]

    every = np.arange(400)
    assert own.mean() == pytest.approx(whole(every))
    for row in range(20):  # what it adds is what the score loses without it
        assert own[row] - own.mean() == pytest.approx(399 * (own.mean() - whole(every != row)), abs=1)


def test_a_bit_for_each_row_of_two_classes():
    found = Predictions.of(rows_of([0, 1] * 2732), np.eye(2)[[0, 1] * 2732], 2)
    assert len(found.predicted) == 4 * -(-5464 // 24)


def test_the_hash_is_that_of_rows_and_labels_in_their_order():
    logits = np.eye(2)[[0, 0, 0]]
    kept = Predictions.of(rows_of([0, 1, 0]), logits, 2).rows
    assert Predictions.of(rows_of([0, 1, 0]), logits[:, ::-1], 2).rows == kept
    others = [rows_of([1, 0, 0]), rows_of([0, 1, 0], np.arange(6)[::-1].copy())]
    assert kept not in {Predictions.of(rows, logits, 2).rows for rows in others}


def test_numbers_that_are_none_are_refused():
    with pytest.raises(InputError, match="training diverged"):
        Predictions.of(rows_of([0, 1]), np.array([[0, np.nan], [0, 1]]), 2)


@pytest.mark.parametrize(
    "changes", [{"label": "%"}, {"predicted": ""}, {"count": 9}, {"classes": 5}, {"rows": "0"}, {"more": 1}]
)
def test_what_is_not_whole_is_refused(changes):
    whole = Predictions.of(rows_of([0, 1, 0, 1]), np.eye(2)[[0, 1, 1, 1]], 2).model_dump()
    with pytest.raises(ValidationError):
        Predictions(**whole | changes)


def test_parts_besides_validation_have_metrics_of_their_name():
    half, whole = (Predictions.of(rows_of([0, 1]), np.eye(2)[guess], 2) for guess in ([0, 0], [0, 1]))
    parts = {"validation": half, "test": whole, "validation_mismatched": half}
    assert metrics_of(parts, ["accuracy"]) == {
        "accuracy": 0.5,
        "test_accuracy": 1.0,
        "mismatched_accuracy": 0.5,
    }
