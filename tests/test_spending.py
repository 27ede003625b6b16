"""Ways to spend less: costs, losses, and which way is best, on runs whose numbers are known."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from studies import study
from test_runs import record_of

from sparsebert.data.rows import Rows
from sparsebert.data.tasks import get_task
from sparsebert.data.tokenizing import prepare
from sparsebert.errors import InputError
from sparsebert.paths import Folders
from sparsebert.study.spending import DENSE as DENSE_WAY
from sparsebert.study.spending import by_setting, gained_over, judged_at, lost_beyond, to_compare, way_of
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


def test_a_plan_that_is_not_known_here_is_not_dense_attention():
    elsewhere = RunConfig.model_validate_json('{"plan": "mine(3, seed=1) | global(cls)"}')
    assert way_of(elsewhere) == ("fixed patterns", "mine(3) | global(cls)")


def test_degrees_that_aim_at_no_density_are_told_by_how_they_were_learned():
    asked = [{"price": 0.1}, {"price": 0.2}, {"method": "span"}, {"target_density": 0.25}]
    assert [way_of(RunConfig(plan="learned", degrees=how))[1] for how in asked] == [
        "survival, price 0.1",
        "survival, price 0.2",
        "span, price 0.03",
        "density 0.25",
    ]


def test_costs_and_losses_are_beside_dense_attention_of_the_same_seed():
    found = by_setting(DENSE + LAYERS + SHORT).set_index("setting")
    assert found["cost"].to_dict() == pytest.approx({"5 layers": 0.8, "4 layers": 0.6, "lat(keep=0.9)": 0.7})
    assert found["lost"].to_dict() == pytest.approx({"5 layers": 0.5, "4 layers": 4.0, "lat(keep=0.9)": 0.0})
    assert found.loc["5 layers", "chosen"] == pytest.approx(0.5)
    assert found.loc["4 layers", "low"] < 4 < found.loc["4 layers", "high"]
    assert (found["seeds"] == 3).all()


def test_a_setting_whose_seeds_agree_by_luck_has_no_shorter_interval_for_it():
    noisy = [run(0.15 + 0.02 * seed, 500.0, seed, layers=2) for seed in (1, 0, 2)]
    alone, among = (
        by_setting(DENSE + own).set_index("setting").loc["lat(keep=0.9)"] for own in (SHORT, SHORT + noisy)
    )
    assert alone["lost"] == among["lost"] and among["high"] - among["low"] > alone["high"] - alone["low"]


def test_seeds_that_dense_attention_lacks_and_old_runs_are_left_out():
    assert by_setting(DENSE[:2] + SHORT)["seeds"].tolist() == [2]
    assert by_setting(SHORT).empty
    assert by_setting(DENSE + [one.model_copy(update={"multiply_adds": None}) for one in SHORT]).empty


def test_runs_that_can_not_be_compared_are_refused():
    with pytest.raises(InputError, match=r"runs of glue/qnli\+test have several encoders or trainings"):
        by_setting(DENSE + SHORT + runs(0.10, 700.0, reduce="lat(keep=0.9)", encoder="tiny"))
    other = SHORT[0].predictions["test"].model_copy(update={"rows": "0" * 16})
    parts = SHORT[0].predictions | {"test": other}
    with pytest.raises(InputError, match="different rows in their part 'test'"):
        by_setting([*DENSE, SHORT[0].model_copy(update={"predictions": parts})])


def test_only_tasks_and_seeds_for_which_something_besides_pairs_was_left_out_are_compared():
    def of_mrpc(one):
        return one.model_copy(update={"config": one.config.model_copy(update={"task": "glue/mrpc+test"})})

    more = [run(0.12, cost, 8, plan=plan) for plan, cost in (("dense", 1000.0), ("neighbour(2)", 980.0))]
    ours = DENSE + NEAR + SHORT
    records = [*ours, *more, *map(of_mrpc, DENSE + NEAR)]
    asked = [record.config for record in records]
    assert to_compare(records, asked) == ours
    assert to_compare(DENSE + NEAR, asked) == []
    assert to_compare(records, [record.config for record in DENSE + SHORT]) == DENSE + SHORT


def test_the_cheapest_setting_within_the_points_is_judged():
    at_three = judged_at(by_setting(DENSE + LAYERS + SHORT + NEAR), 3.0).set_index("way")
    assert at_three.loc["fewer layers", "setting"] == "5 layers"
    assert at_three["keeps"].all()
    assert at_three.index[at_three["best"]].tolist() == ["lat"]
    at_five = judged_at(by_setting(DENSE + LAYERS + SHORT), 5.0).set_index("way")
    assert at_five.loc["fewer layers", "setting"] == "4 layers"


def test_costs_that_hardly_differ_share_the_place_and_what_breaks_the_points_has_none():
    near = runs(0.10, 710.0, reduce="ltp")
    both = judged_at(by_setting(DENSE + SHORT + near), 1.0)
    assert both["best"].tolist() == [True, True]
    table = pd.DataFrame(
        {
            "task": "t",
            "seeds": 3,
            "way": ["a", "b"],
            "setting": ["1", "2"],
            "cost": [0.5, 0.6],
            "chosen": [0.1, 0.2],
        }
        | {"lost": [0.9, 0.2], "high": [1.4, 0.7]}
    )
    found = judged_at(table, 1.0)
    assert found["keeps"].tolist() == [False, True] and found["best"].tolist() == [False, True]
    assert judged_at(table, 0.05).empty


def test_a_setting_is_compared_with_a_way_at_the_same_cost():
    dearer = runs(0.11, 900.0, reduce="ltp(price=0.02)")
    cheaper = runs(0.13, 700.0, reduce="ltp(price=0.15)")
    records = DENSE + LAYERS + dearer + cheaper
    settings = by_setting(records)
    found = lost_beyond("ltp", "5 layers", records, settings)
    assert found.value == pytest.approx(100 * (0.105 - (0.11 + 0.13) / 2))
    assert lost_beyond("ltp", "4 layers", records, settings) is None  # it is cheaper than both
    others = [run(0.105, 800.0, seed, layers=5) for seed in (3, 4)]  # no seed of ltp's
    assert lost_beyond("ltp", "5 layers", dearer + cheaper + others, settings) is None
    at_an_end = runs(0.15, 700.0, layers=3)
    settings = by_setting(records + at_an_end)
    assert lost_beyond("ltp", "3 layers", records + at_an_end, settings).value == pytest.approx(2.0)


def test_a_way_that_is_compared_at_a_cost_is_no_surer_for_seeds_that_agree_by_luck():
    records = DENSE + LAYERS + runs(0.11, 900.0, reduce="ltp(price=0.02)") + runs(0.13, 700.0, reduce="ltp")
    noisy = [run(0.15 + 0.02 * seed, 500.0, seed, layers=2) for seed in (1, 0, 2)]
    settings = by_setting(records)
    alone, among = (lost_beyond("ltp", "5 layers", own, settings) for own in (records, records + noisy))
    assert alone.value == among.value and among.error > alone.error


def test_a_setting_gains_over_another_what_their_scores_differ_by():
    found = gained_over("4 layers", "5 layers", DENSE + LAYERS)
    assert found.value == pytest.approx(3.5) and found.interval()[0] < 3.5 < found.interval()[1]
    assert gained_over("4 layers", "3 layers", DENSE + LAYERS) is None


def test_a_setting_with_fewer_than_three_seeds_is_not_judged():
    found = by_setting(DENSE + SHORT + LAYERS[:2])
    assert set(judged_at(found, 5.0)["way"]) == {"lat"}


# ---- the time of a text


def test_a_text_is_timed_under_each_setting_of_a_grid(workspace, capsys):
    script = study("time_per_text")
    grid = workspace / "small.yaml"
    grid.write_text(
        f"task: 'file:{workspace / 'classes.csv'}'\nencoder: tiny\ntrain_size: 32\nmax_length: 32\n"
        "seed: [6, 5]\ngrids:\n  - plan: [dense, neighbour(1) | global(cls)]\n  - layers: 1\n"
        "  - reduce: ltp\n  - plan: learned | global(cls)\n    degrees: {target_density: 0.5}\n"
    )
    configs = script.first_seed(str(grid))
    assert {config.seed for config in configs} == {5} and len(configs) == 5
    folders = Folders.named(runs=workspace / "runs")
    places = script.models_of(configs, workspace / "models", folders)
    made = {place: (place / "model.safetensors").stat().st_mtime_ns for place in places}
    assert script.models_of(configs, workspace / "models", folders) == places  # nothing is trained again
    assert made == {place: (place / "model.safetensors").stat().st_mtime_ns for place in places}
    rows = script.spread_out(prepare(get_task(configs[0].task), "tiny", 32, 32)["validation"], 9)
    assert rows.lengths == sorted(rows.lengths) and len(rows) == 9
    found = script.times(configs, places, rows, 3)
    assert list(found) == script.COLUMNS and len(found) == 2 * len(configs)
    assert (found["seconds"] > 0).all() and (found.loc[found["way"] == DENSE_WAY, "over_dense"] == 1).all()
    assert found.set_index("batch").loc[1, "padding"].eq(0).all()


def test_a_grid_without_dense_attention_is_not_timed(workspace):
    (workspace / "small.yaml").write_text("task: reviews\nlayers: [1, 2]\n")
    with pytest.raises(InputError, match="no run of its first seed is dense attention"):
        study("time_per_text").first_seed(str(workspace / "small.yaml"))
