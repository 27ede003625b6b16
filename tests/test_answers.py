"""Answers of students: the blank, what is right, and what a wrong one is told."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sparsebert.study.answers import check

MASK = torch.tensor([[True, False], [False, True]])


@pytest.mark.parametrize(
    ("answer", "right", "found"),
    [
        (..., 3, None),
        ([1, ...], [1, 2], None),
        ({"a": ...}, {"a": 2}, None),
        (3, 3, True),
        (0.12345, 0.1234, True),
        (0.125, 0.1234, False),
        (np.float64(2), 2, True),
        (torch.tensor(2.0), 2, True),
        ("2", "2", True),
        ("two", 2, False),
        (None, 2, False),
        (True, "holds", False),
        (MASK, MASK, True),
        (~MASK, MASK, False),
        (MASK[0], MASK, False),
        (MASK.tolist(), MASK, False),
        (["holds", "undecided"], ["holds", "undecided"], True),
        (["holds"], ["holds", "undecided"], False),
        ({"a": 1.0}, {"a": 1}, True),
        ({"b": 1}, {"a": 1}, False),
        (5, [5], False),
        (["b", "a"], {"a", "b"}, True),
        (["b", "b"], {"a", "b"}, False),
        ({"b", "a"}, {"a", "b"}, True),
        ({"b", "c"}, {"a", "b"}, False),
        ({"b", ...}, {"a", "b"}, None),
        ([["b"], "a"], {"a", "b"}, False),
        ({0.3333}, {1 / 3}, True),
        (["b", ...], {"a", "b"}, None),
    ],
)
def test_an_answer_is_right_wrong_or_not_there(answer, right, found, capsys):
    assert check(answer, right, "A hint.") is found
    said = capsys.readouterr().out
    assert said.startswith({None: "Nothing is filled in", True: "Right.", False: "Not yet:"}[found])
    assert said.rstrip().endswith("A hint.") == (found is False)
