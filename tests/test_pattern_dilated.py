"""`dilated(w, step)`: its definition, for the generic tests, and what is its own."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st
from reference import naive, pairs

from sparsebert.errors import InputError
from sparsebert.patterns import Dilated, parse_pattern
from sparsebert.patterns.batches import Batch


@naive(Dilated, st.integers(0, 3), st.integers(1, 4))
def dilated(pattern, sentence):
    steps = [number * pattern.step for number in range(pattern.w + 1)]
    return pairs(sentence, lambda i, j: any(abs(i - j) == distance for distance in steps))


def test_a_step_of_one_is_neighbour_and_a_longer_one_has_the_same_degrees_within_a_text():
    batch = Batch.of_lengths([30])
    assert Dilated(2, 1).allowed(batch).equal(parse_pattern("neighbour(2)").allowed(batch))
    assert Dilated(2, 5).allowed(batch)[0, 0, 15].nonzero().flatten().tolist() == [5, 10, 15, 20, 25]


def test_steps_that_lead_nowhere_are_refused_and_wide_ones_need_no_table():
    with pytest.raises(InputError, match="from 1 up"):
        parse_pattern("dilated(2, 0)")
    assert parse_pattern("dilated(2000000000, 2000000000)").layout() is None
