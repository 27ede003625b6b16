"""Ways to spend less: costs, losses, and which way is best, on runs whose numbers are known."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from test_runs import record_of

from sparsebert.patterns.batches import Rows
from sparsebert.study.spending import judged_at, spent, way_of
from sparsebert.training.predictions import Predictions
from sparsebert.training.runs import RunConfig

ROWS = 400


def run(wrong: float, cost: float, seed: int, **asked) -> object:
    """A run that has this share of the rows wrong, the first ones, and this cost in multiply-adds."""
    rows = Rows(np.full(ROWS, 2), {"input_ids": np.arange(2 * ROWS)}, [0] * ROWS)
    found = Predictions.of(rows, np.eye(2)[(np.arange(ROWS) < round(wrong * ROWS)).astype(int)], 2)
    config = RunConfig(task="glue/qnli+test", seed=seed, **asked)
    return record_of(
        config,
        metrics={"accuracy": 1 - wrong, "test_accuracy": 1 - wrong},
        predictions={"validation": found, "test": found},
        multiply_adds=cost,
    )


def runs(wrong, cost, **asked):
    return [run(wrong + 0.005 * seed, cost, seed, **asked) for seed in range(3)]


DENSE = runs(0.10, 1000.0)
LAYERS = runs(0.105, 800.0, layers=5) + runs(0.14, 600.0, layers=4)
SHORT = runs(0.10, 700.0, reduce="lat(keep=0.9)")
NEAR = runs(0.10, 990.0, plan="neighbour(2) | global(cls)")


@pytest.mark.parametrize(
    ("asked", "way"),
    [
        ({}, "dense"),
        ({"layers": 4}, "fewer layers"),
        ({"reduce": "ltp"}, "ltp"),
        ({"plan": "learned", "degrees": {"target_density": 0.25}}, "learned degrees"),
        ({"plan": "neighbour(2) | global(cls) @ late"}, "fixed patterns"),
        ({"plan": "neighbour(2) | segments(second sees first)"}, "segments"),
        ({"plan": "predicted | global(cls)"}, "predicted"),
    ],
)
def test_a_run_says_by_which_way_it_spends_less(asked, way):
    assert way_of(RunConfig(**asked))[0] == way


def test_costs_and_losses_are_beside_dense_attention_of_the_same_seed():
    found = spent(DENSE + LAYERS + SHORT).set_index("setting")
    assert found["cost"].to_dict() == pytest.approx({"5 layers": 0.8, "4 layers": 0.6, "lat(keep=0.9)": 0.7})
    assert found["lost"].to_dict() == pytest.approx({"5 layers": 0.5, "4 layers": 4.0, "lat(keep=0.9)": 0.0})
    assert found.loc["5 layers", "chosen"] == pytest.approx(0.5)
    assert found.loc["4 layers", "low"] < 4 < found.loc["4 layers", "high"]
    assert (found["seeds"] == 3).all()


def test_seeds_that_dense_attention_lacks_and_old_runs_are_left_out():
    assert spent(DENSE[:2] + SHORT)["seeds"].tolist() == [2]
    assert spent(SHORT).empty
    assert spent(DENSE + [one.model_copy(update={"multiply_adds": None}) for one in SHORT]).empty


def test_the_cheapest_setting_within_the_points_is_judged():
    at_three = judged_at(spent(DENSE + LAYERS + SHORT + NEAR), 3.0).set_index("way")
    assert at_three.loc["fewer layers", "setting"] == "5 layers"
    assert at_three["keeps"].all()
    assert at_three.index[at_three["best"]].tolist() == ["lat"]
    at_five = judged_at(spent(DENSE + LAYERS + SHORT), 5.0).set_index("way")
    assert at_five.loc["fewer layers", "setting"] == "4 layers"


def test_costs_that_hardly_differ_share_the_place_and_what_breaks_the_points_has_none():
    near = runs(0.10, 710.0, reduce="ltp")
    both = judged_at(spent(DENSE + SHORT + near), 1.0)
    assert both["best"].tolist() == [True, True]
    table = pd.DataFrame(
        {"task": "t", "way": ["a", "b"], "setting": ["1", "2"], "cost": [0.5, 0.6], "chosen": [0.1, 0.2]}
        | {"lost": [0.9, 0.2], "high": [1.4, 0.7]}
    )
    found = judged_at(table, 1.0)
    assert found["keeps"].tolist() == [False, True] and found["best"].tolist() == [False, True]
    assert judged_at(table, 0.05).empty
