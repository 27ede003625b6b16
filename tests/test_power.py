"""The chance that runs decide, before they are made."""

import numpy as np
import pandas as pd
import pytest

from sparsebert.study import power
from sparsebert.study.intervals import Scatter, over_seeds_and_rows


@pytest.mark.parametrize("freedom", [0, 20])
@pytest.mark.parametrize(("scatter", "disagreement"), [(1.5, 0.0), (0.5, 0.04)])
def test_a_chance_is_what_simulated_runs_give(scatter, disagreement, freedom):
    effect, seeds, rows, many = 1.5, 4, 400, 500
    random, decided = np.random.default_rng(0), 0
    for _ in range(many):
        hard = 100 * disagreement**0.5 * random.normal(size=rows)
        points = effect + scatter * random.normal(size=(seeds, 1)) + hard
        # A variance that is as good as known from further seeds.
        drawn = scatter**2 * random.chisquare(freedom) / freedom if freedom else 0.0
        decided += over_seeds_and_rows(points, Scatter(drawn, freedom)).interval()[0] > 0
    expected = power.chance(effect, scatter, disagreement, seeds, rows, freedom)
    assert decided / many == pytest.approx(expected, abs=0.08)


def test_a_chance_grows_with_all_that_is_more():
    less = power.chance(1.0, 1.2, 0.09, 3, 1000)
    more = [
        (2.0, 1.2, 0.09, 3, 1000),
        (1.0, 0.6, 0.09, 3, 1000),
        (1.0, 1.2, 0.03, 3, 1000),
        (1.0, 1.2, 0.09, 5, 1000),
    ]
    assert all(power.chance(*one) > less for one in [*more, (1.0, 1.2, 0.09, 3, 4000)])
    assert power.chance(-1.0, 1.2, 0.09, 3, 1000) == less
    assert power.chance(0.0, 1.2, 0.09, 3, 1000) == pytest.approx(0.05)
    assert power.chance(0.3, 0.0, 0.0, 3, 1000) == 1 and power.chance(0.0, 0.0, 0.0, 3, 1000) == 0


def test_the_fewest_seeds_and_rows_are_the_first_that_suffice():
    known = {"effect": 1.0, "scatter": 0.7, "disagreement": 0.02}
    seeds = power.seeds_needed(0.8, rows=2000, **known)
    chances = [power.chance(seeds=n, rows=2000, **known) for n in (seeds - 1, seeds)]
    assert chances[0] < 0.8 <= chances[1]
    rows = power.rows_needed(0.5, seeds=10, **known)
    chances = [power.chance(seeds=10, rows=n, **known) for n in (rows - 1, rows)]
    assert chances[0] < 0.5 <= chances[1]
    assert power.seeds_needed(0.8, 0.1, 1.2, 0.02, rows=2000) is None
    assert power.rows_needed(0.8, 1.0, 3.0, 0.02, seeds=3) is None


def test_the_table_has_the_open_numbers_of_undecided_verdicts():
    row = {
        "claim": "C1",
        "label": "reviews",
        "what": "loss",
        "verdict": "undecided",
        "state": "open",
        "mean": 0.0,
    }
    row |= {"bound": 1.0, "seeds": 3, "rows": 1000, "scatter": 0.7, "disagreement": 0.01, "freedom": 6.0}
    others = [{"state": "met"}, {"verdict": "does not hold"}, {"seeds": 2}]
    alone = {"rows": 0, "disagreement": 0.0, "what": "seeds alone"}
    table = power.table(pd.DataFrame([row, *(row | other for other in others), row | alone]))
    first, second = table.to_dict("records")
    assert first["chance"] == power.chance(-1.0, 0.7, 0.01, 5, 1000, 6.0)
    assert first["seeds needed"] > 5 and first["rows needed"] > 1000
    assert second["chance"] > first["chance"] and pd.isna(second["rows needed"])
    read = power.to_read(table)
    assert read["rows needed"].tolist()[0] == "no rows on record"  # the one that is decided more probably
    assert read["claim"].tolist() == ["C1 on reviews"] * 2 and read["points, and bound"][0] == "0.0, 1"
    assert read["chance with 5 seeds"].tolist() == [f"{one['chance']:.2f}" for one in (second, first)]
    unknown = power.to_read(power.table(pd.DataFrame([row | alone])))
    assert list(unknown) == [name for name in read if name != "rows needed"]
    nothing = power.table(pd.DataFrame([row | {"state": "met"}]))
    assert nothing.empty and power.to_read(nothing).empty
