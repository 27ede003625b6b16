"""What counting shared words tells, on pairs that were made for it."""

import pandas as pd
import pytest

from sparsebert.data.tasks import Task, get_task
from sparsebert.errors import InputError
from sparsebert.study.words import by_shared_words


def task_of(train, validation):
    frames = [pd.DataFrame(rows, columns=["text", "text_pair", "label"]) for rows in (train, validation)]
    splits = dict(zip(("train", "validation"), frames, strict=True))
    return Task("made", "s", ("accuracy",), ("no", "yes"), 32, True, "s", "l", read=lambda: splits)


ALIKE = [("A dog.", "a DOG barks", 1), ("one two", "two, one!", 1), ("one two", "three", 0), ("x", "y", 0)]


@pytest.mark.parametrize("turned", [False, True])
def test_a_threshold_from_the_training_rows_judges_the_others(turned):
    train = [(text, other, 1 - label if turned else label) for text, other, label in ALIKE]
    others = [("dog", "the dog", 1), ("the dog", "a dog", 1), ("cat", "dog", 1)]
    table = by_shared_words(task_of(train, others)).set_index("what")
    assert table.loc["train"].tolist() == [4, 1.0, 0.5]
    shares = [1.0, 0.5, 0.0]
    cut = 1.0  # the least share of the pairs that are alike in training
    right = [(share >= cut) != turned for share in shares]
    assert table.loc["validation", "accuracy"] == pytest.approx(sum(right) / 3)


def test_tasks_of_another_kind_are_refused():
    with pytest.raises(InputError, match="'reviews' is not one of pairs"):
        by_shared_words(get_task("reviews"))
