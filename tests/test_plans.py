from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_patterns import patterns

from sparsebert.errors import InputError
from sparsebert.patterns import PATTERNS, Dense, parse_pattern
from sparsebert.patterns.plans import Placement, Plan, parse_plan

placements = st.one_of(
    st.sampled_from(["all", "early", "late", "0", "3", "2-", "1-4"]).map(Placement),
)


@given(st.lists(st.tuples(patterns, placements), min_size=1, max_size=3).map(tuple).map(Plan))
def test_a_plan_prints_the_text_that_parses_back(plan):
    assert parse_plan(str(plan)) == plan


_pieces = st.sampled_from(
    [
        *PATTERNS,
        *'()|-,=;@ "',
        "cls",
        "0",
        "010",
        "-1",
        "9" * 30,
        "late",
        "2-",
        "like=",
        "path=",
        "٣",
        "\n",
        "é",
    ]
)


@settings(max_examples=500)
@given(st.text() | st.lists(_pieces, max_size=30).map("".join))
def test_any_text_is_a_plan_or_is_refused_in_one_short_sentence(text):
    try:
        plan = parse_plan(text)
        assert parse_plan(str(plan)) == plan
    except InputError as error:
        assert "\n" not in str(error) and len(str(error)) < 400


@pytest.mark.parametrize(
    ("placement", "canonical"),
    [("03", "3"), ("3-3", "3"), ("3 - 03", "3"), ("00", "0"), ("0-0", "0"), ("02-", "2-"), ("0 -05", "0-5")],
)
def test_a_placement_has_one_text(placement, canonical):
    assert str(Placement(placement)) == canonical and Placement(placement) == Placement(canonical)


@pytest.mark.parametrize(
    ("placement", "count", "layers"),
    [
        ("all", 3, [0, 1, 2]),
        ("early", 6, [0, 1, 2]),
        ("late", 6, [3, 4, 5]),
        ("early", 5, [0, 1]),
        ("late", 5, [2, 3, 4]),
        ("2", 4, [2]),
        ("2-3", 4, [2, 3]),
        ("2-", 5, [2, 3, 4]),
        (" 2 - 3 ", 4, [2, 3]),
    ],
)
def test_a_placement_names_layers(placement, count, layers):
    assert list(Placement(placement.strip()).layers(count)) == layers


def test_layers_without_a_pattern_stay_dense():
    near = parse_pattern("neighbour(1)")
    assert parse_plan("neighbour(1) @ late").layers(4) == [Dense(), Dense(), near, near]
    assert parse_plan("dense").layers(2) == [Dense(), Dense()]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("neighbour(1) @ lat", "did you mean 'late'"),
        ("neighbour(1) @ 6", "its layers are 0-5"),
        ("neighbour(1) @ 3-9", "its layers are 0-5"),
        ("neighbour(1) @ 5-3", "write '3-5'"),
        ("neighbour(1) @ late; syntax @ 4", "layer 4 two patterns"),
        ("neighbour(1) @ late @ early", "two '@'"),
        ("neighbour(1) @ late;", "the end"),
        ("dense @ 3 4", "unknown placement '3 4'"),
        ("dense @ " + "9" * 5000, "unknown placement '999"),
        ("dense @ ٣", "unknown placement"),
        ("dense @ 1-" + "9" * 5000, "unknown placement"),
        ("dense; " * 5000 + "dense", "two patterns"),
        ("dense" + " @ 1" * 5000, "two '@'"),
    ],
)
def test_a_wrong_plan_says_what_is_wrong(text, said):
    with pytest.raises(InputError) as error:
        parse_plan(text).layers(6)
    assert said in str(error.value)
    assert len(str(error.value)) < 400
