"""Answers that students fill in, compared with what is right."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

BLANK = ...  # what stands where an answer belongs


def check(answer: Any, right: Any, hint: str = "") -> bool | None:
    """Prints whether an answer is right, and returns it; None while the answer is still the blank `...`.

    Answers are numbers, texts, tensors, or lists, sets and dictionaries of these; a set may also be answered
    by a list in any order. Numbers may differ by a thousandth, so that rounding is no mistake. A
    wrong answer is shown with the `hint`.

    >>> check(..., 4), check(4.0001, 4), check([1, "no"], [1, "yes"], "Read the rule again.")
    Nothing is filled in yet: put your answer in the place of the three dots.
    Right.
    Not yet: your answer is [1, 'no']. Read the rule again.
    (None, True, False)
    """
    if _blank(answer):
        print("Nothing is filled in yet: put your answer in the place of the three dots.")
        return None
    same = _same(answer, right)
    print("Right." if same else f"Not yet: your answer is {_said(answer)}. {hint}".rstrip())
    return same


def _blank(answer: Any) -> bool:
    inside = answer.values() if isinstance(answer, Mapping) else answer
    return answer is BLANK or (isinstance(answer, list | tuple | set | Mapping) and any(map(_blank, inside)))


def _same(answer: Any, right: Any) -> bool:
    if isinstance(right, torch.Tensor) and right.shape:
        return isinstance(answer, torch.Tensor) and torch.equal(answer, right)
    if isinstance(right, str):
        return answer == right
    if isinstance(right, Mapping):
        alike = isinstance(answer, Mapping) and answer.keys() == right.keys()
        return alike and _same([answer[name] for name in right], [*right.values()])
    if isinstance(right, set):
        alike = isinstance(answer, list | tuple | set) and len(answer) == len(right)
        return alike and all(any(_same(one, member) for one in answer) for member in right)
    if isinstance(right, Sequence):
        alike = isinstance(answer, Sequence) and len(answer) == len(right)
        return alike and all(map(_same, answer, right))
    try:
        return math.isclose(float(answer), float(right), rel_tol=1e-3, abs_tol=1e-9)
    except (TypeError, ValueError):
        return False


def _said(answer: Any) -> str:
    if isinstance(answer, torch.Tensor) and answer.shape:
        return f"a tensor of shape {list(answer.shape)} whose sum is {answer.sum().item():g}"
    return repr(answer.item() if isinstance(answer, torch.Tensor) else answer)
