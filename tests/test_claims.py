"""The verdicts on C1 to C6, each reached by runs that were made up for it."""

from __future__ import annotations

import json
import random
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_predictions import rows_of
from test_runs import record_of
from verdicts_again import Again

from sparsebert import figures
from sparsebert.data.tasks import task_names
from sparsebert.degrees import DegreeConfig
from sparsebert.degrees.methods import Survival
from sparsebert.errors import InputError
from sparsebert.paths import project_root
from sparsebert.patterns.hard_degrees import HardDegrees, load_degrees
from sparsebert.registry import METHODS
from sparsebert.study import claims
from sparsebert.study.captions import between
from sparsebert.study.claims.rules import MAY_DIFFER
from sparsebert.study.claims.runs import Setting, each_once, judged, records_by_setting, score_of
from sparsebert.study.intervals import over_seeds, over_seeds_and_rows
from sparsebert.study.results import as_line, evidence, recorded
from sparsebert.sweeps.grids import load_grid
from sparsebert.training.predictions import Predictions, metrics_of
from sparsebert.training.runs import RunConfig

SEEDS = range(5)
NOISE = (-0.2, 0.1, 0.0, 0.2, -0.1)  # points; they add up to nothing
CLS = " | global(cls)"
DENSE = 80.0


def run(plan, seed=0, score=DENSE, density=0.2, layers=6, **changes):
    """A run with a score in points, its sparse layers having this density."""
    config = RunConfig(
        plan=plan, seed=seed, **{n: changes.pop(n) for n in list(changes) if n in RunConfig.model_fields}
    )
    late = config.plan.endswith("@ late")
    if config.plan == "dense":
        density = 1.0
    per_layer = [1.0 if late and layer < layers // 2 else density for layer in range(layers)]
    return record_of(
        config,
        metrics={"accuracy": score / 100},
        density=sum(per_layer) / layers,
        density_per_layer=per_layer,
        padded_density=sum(per_layer) / layers / 4,
        padded_density_per_layer=[value / 4 for value in per_layer],
        **changes,
    )


def several(plan, loss, seeds=SEEDS, spread=1.0, **changes):
    """Runs of a plan that lose so many points against DENSE on average, a bit more or less by seed."""
    return [run(plan, s, DENSE - loss + spread * NOISE[s % 5], **changes) for s in seeds]


def dense(seeds=SEEDS, **changes):
    return [run("dense", seed, **changes) for seed in seeds]


def verdict(claim, records, **known):
    (found,) = claims.judge(claim, records, **known)
    assert found.claim == claim and found.task == "reviews"
    return found


def lacking(claim, records):
    return "; ".join(verdict(claim, records).missing)


# ---- C1


def late(*losses, **changes):
    names = ["neighbour(1)", "syntax", "lexical(2)"]
    return [
        record
        for name, loss in zip(names, losses, strict=False)
        for record in several(f"{name}{CLS} @ late", loss, **changes)
    ]


@pytest.mark.parametrize(
    ("losses", "spread", "expected"),
    [
        ((0.0, 0.0, 1.8), 1, "holds"),  # the mean of the patterns counts
        ((0.0, 0.0, 4.2), 1, "does not hold"),
        ((1.0, 1.0, 1.0), 1, "undecided"),
        ((0.9, 0.9, 0.9), 6, "undecided"),  # the interval reaches beyond 1 point
        ((-3.0, -3.0, -3.0), 1, "holds"),
    ],
)
def test_c1_asks_for_a_mean_loss_below_a_point(losses, spread, expected):
    found = verdict("C1", dense() + late(*losses, spread=spread))
    assert found.verdict == expected
    (number,) = found.numbers
    assert number.mean == pytest.approx(sum(losses) / 3) and number.seeds == 5 and number.rows == 0
    assert number.low < number.mean < number.high


def test_c1_asks_at_each_level_of_sparsity():
    lexical = f"lexical(2){CLS} @ late"
    records = dense() + late(0.5, 0.5) + several(lexical, 0.2, density=0.1)
    found = verdict("C1", records + several(f"neighbour(2){CLS} @ late", 0.2, density=0.01))
    assert found.verdict == "holds"
    assert [number.mean for number in found.numbers] == pytest.approx([0.5, 0.2, 0.2])
    assert "mean of 2 patterns, 80 % sparse" in found.numbers[0].what
    records = dense() + late(0.5, 0.5) + several(lexical, 3.0, density=0.1)
    assert verdict("C1", records).verdict == "does not hold"


def test_c1_counts_a_sparsity_of_exactly_78_percent():
    assert verdict("C1", dense() + late(0.5, density=0.22)).verdict == "holds"
    assert verdict("C1", dense() + late(0.5, density=0.2201)).verdict == "undecided"


def test_c1_is_undecided_where_no_pattern_is_78_percent_sparse_and_says_so():
    assert lacking("C1", dense() + late(0.0, density=0.25)).endswith("78 % sparse, but at most 75.0 %")


def test_c1_leaves_out_patterns_that_are_not_sparse_enough_and_other_plans():
    others = several(f"neighbour(5){CLS} @ late", 9, density=0.4)
    others += several("neighbour(1) @ late", 9)  # [CLS] is not global
    others += several(f"neighbour(0){CLS} @ late", 9)  # the token itself
    others += several(f"random(like=syntax, besides=global(cls)){CLS} @ late", 9)  # a control
    others += several(f"neighbour(1) | random(2){CLS} @ late", 9)  # a mixture
    others += several(f"neighbour(1){CLS} @ 4-", 9) + several(f"neighbour(1){CLS} @ early", 9)
    found = verdict("C1", dense() + late(0.5) + others)
    assert found.verdict == "holds" and "(neighbour(1), 80 % sparse)" in found.numbers[0].what


def test_the_later_half_may_be_written_in_numbers():
    records = [
        record.model_copy(
            update={"name": f"{record.name}+", "config": RunConfig(plan=f"syntax{CLS} @ 3-5", seed=s)}
        )
        for s, record in enumerate(late(0.5))
    ]
    assert verdict("C1", dense() + records).verdict == "holds"


def test_random_graphs_of_each_seed_are_one_pattern():
    records = [run(f"random(2, seed={seed}){CLS} @ late", seed, DENSE - 0.5) for seed in SEEDS]
    assert verdict("C1", dense() + records).numbers[0].seeds == 5


# ---- what is missing


@pytest.mark.parametrize("seeds", [[0], [0, 1]])
def test_fewer_than_three_seeds_decide_nothing(seeds):
    found = verdict("C1", dense(seeds) + late(0.0, seeds=seeds, spread=0))  # equal losses: no width at all
    assert found.verdict == "undecided" and [number.state for number in found.numbers] == ["open"]
    assert verdict("C1", dense(seeds) + late(9.0, seeds=seeds, spread=0)).verdict == "undecided"
    assert verdict("C1", dense([0, 1, 2]) + late(0.0, seeds=[0, 1, 2], spread=0)).verdict == "holds"


@pytest.mark.parametrize(
    "partners",
    [
        [],
        dense([7, 8]),
        dense(train_size=100),
        dense(encoder="tiny"),
        dense(learning_rate=5e-5),
        [record.model_copy(update={"precision": "bf16"}) for record in dense()],
        [record.model_copy(update={"data_hash": "others"}) for record in dense()],
    ],
)
def test_runs_are_paired_with_dense_ones_of_the_same_seed_and_setting_only(partners):
    found = claims.judge("C1", partners + late(0.0))
    found = [v for v in found if v.missing == ("no seed has a dense run and all patterns",)]
    assert [v.verdict for v in found] == ["undecided"]


def test_pairing_takes_out_what_seeds_share():
    luck = [5.0, -5.0, 3.0, -3.0, 0.0]
    records = [run("dense", s, DENSE + luck[s]) for s in SEEDS]
    records += [run(f"syntax{CLS} @ late", s, DENSE + luck[s] - 0.5 + NOISE[s]) for s in SEEDS]
    assert verdict("C1", records).verdict == "holds"


def test_a_seed_counts_only_if_it_has_all_patterns():
    records = dense() + late(0.5, 0.5)
    (lacking,) = [r for r in records if r.config.seed == 0 and "syntax" in r.config.plan]
    records.remove(lacking)
    assert verdict("C1", records).numbers[0].seeds == 4


def test_tasks_without_runs_are_undecided_in_one_sentence():
    found = claims.verdicts(dense() + late(0.5), ["reviews", "topics"])
    missing = [v for v in found if v.task == "topics"]
    assert [v.claim for v in missing] == list(claims.CLAIMS)
    assert {(v.verdict, v.missing) for v in missing} == {("undecided", ("no recorded runs of topics",))}
    (row,) = (row for name, row in claims.summary(found).iterrows() if name.startswith("C1: "))
    assert row.to_dict() == {"reviews": "holds", "topics": "–"}
    assert {v.verdict for v in claims.verdicts([], task_names()[:2])} == {"undecided"}


def test_settings_of_one_task_are_judged_apart_and_told_apart():
    small = {"train_size": 100}
    records = dense() + late(0.5) + dense(**small) + late(9.0, **small)
    found = {v.label: v.verdict for v in claims.judge("C1", records)}
    assert found == {"reviews, train size all rows": "holds", "reviews, train size 100": "does not hold"}


# ---- C2


def everywhere(loss, **changes):
    return several(f"neighbour(1){CLS}", loss, **changes)


@pytest.mark.parametrize(
    ("at_late", "at_all", "spread", "expected"),
    [
        (0.5, 4.0, 1, "holds"),
        (0.2, 1.4, 1, "holds"),
        (0.2, 1.0, 1, "undecided"),  # a point, but not more
        (0.1, 0.5, 1, "does not hold"),  # less than a point
        (3.0, 4.0, 1, "does not hold"),  # less than twice as much
        (1.5, 3.0, 1, "undecided"),
        (0.5, 3.0, 20, "undecided"),
    ],
)
def test_c2_asks_for_a_loss_above_a_point_and_above_twice_the_later_one(at_late, at_all, spread, expected):
    # Seeds vary in opposite directions, so that the difference has an interval, too.
    records = dense() + late(at_late, spread=-spread) + everywhere(at_all, spread=spread)
    assert verdict("C2", records).verdict == expected


def test_c2_compares_the_same_patterns():
    records = dense() + late(0.5, 8.0) + everywhere(4.0)  # syntax was not run at all layers
    found = verdict("C2", records)
    assert found.verdict == "holds" and all("patterns" not in n.what for n in found.numbers)
    assert "same patterns at all layers" in lacking("C2", dense() + late(0.5))
    assert "later half" in lacking("C2", dense() + everywhere(4.0))
    sparser = several(f"lexical(2){CLS} @ late", 0.5, density=0.1)  # a level that was not run at all layers
    found = verdict("C2", records + sparser)
    assert found.verdict == "undecided" and "at all layers (lexical(2), 90 % sparse)" in found.missing[0]


# ---- C3


def c3_runs(neighbour=2.0, drawn=2.0, meaning=5.0, **changes):
    records = several(f"syntax{CLS}", meaning) + several(f"lexical(2){CLS}", meaning, density=0.205)
    records += several(f"neighbour(1){CLS}", neighbour, **changes)
    for name in ("syntax", "lexical(2)"):
        records += several(f"random(like={name}, besides=global(cls)){CLS}", drawn)
    return records


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        ({}, "holds"),
        ({"neighbour": 6.0}, "does not hold"),
        ({"drawn": 6.0}, "does not hold"),
        ({"neighbour": 5.0}, "undecided"),
    ],
)
def test_c3_compares_at_matched_density_with_neighbours_and_random_controls(losses, expected):
    records = c3_runs(**losses)
    # Without any spread an interval of nothing would decide.
    found = verdict("C3", noisy(records))
    assert found.verdict == expected and len(found.numbers) == 4


def shifted(record):
    """The accuracy with some luck that depends on the plan as well as on the seed."""
    luck = random.Random(f"{record.config.plan} {record.config.seed}").uniform(-0.002, 0.002)
    return record.metrics["accuracy"] + luck


def test_c3_takes_a_neighbour_at_the_same_density_from_the_line_between_two():
    records = c3_runs(neighbour=9.0, density=0.1) + several(f"neighbour(3){CLS}", 1.0, density=0.3)
    by_what = {n.what: n.mean for n in verdict("C3", records).numbers}
    assert by_what["loss of syntax minus that of neighbour"] == pytest.approx(5.0 - 5.0)
    assert by_what["loss of lexical(2) minus that of neighbour"] == pytest.approx(5.0 - 4.8 + 0.0, abs=0.01)


def test_c3_takes_random_keys_where_there_is_no_control():
    records = [record for record in c3_runs() if "like" not in record.config.plan]
    assert "no recorded runs of random at the density of syntax" in lacking("C3", records)
    assert verdict("C3", records + several(f"random(2){CLS}", 2.0)).verdict == "holds"
    assert verdict("C3", records + several(f"random(2){CLS}", 2.0, density=0.3)).verdict == "undecided"


def test_c3_is_about_syntax_and_lexical_alone():
    others = several(f"copies{CLS}", 9.0) + several(f"neighbour(1) | copies{CLS}", 9.0)
    named = [number.what for number in verdict("C3", c3_runs() + others).numbers]
    assert named == [number.what for number in verdict("C3", c3_runs()).numbers] and len(named) == 4


def test_c3_says_which_kind_of_pattern_is_missing():
    records = [record for record in c3_runs() if not record.config.plan.startswith("syntax")]
    found = verdict("C3", records)
    assert found.verdict == "undecided" and found.missing == ("no recorded runs of syntax at all layers",)


# ---- C4


def c4_runs(neighbour=3.0, drawn=1.0, tokens=1.0, density=0.2):
    return (
        several("neighbour(2) | random(4) | global(2)", 1.0)
        + several("random(6) | global(3)", 1.0 + neighbour, spread=-1, density=density)
        + several("neighbour(3) | global(3)", 1.0 + drawn, density=0.205)
        + several(f"neighbour(2) | random(6){CLS}", 1.0 + tokens, density=0.195)
        + several("random(4) | global(2)", 9.0, density=0.15)  # fewer connections: no match
    )


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        ({}, "holds"),
        ({"drawn": 5.0}, "does not hold"),
        ({"tokens": 5.0}, "does not hold"),
        ({"neighbour": -3.0, "drawn": -5.0, "tokens": -5.0}, "does not hold"),
        ({"drawn": 3.0}, "undecided"),
        ({"density": 0.2101}, "undecided"),
    ],
)
def test_c4_compares_what_is_lost_without_each_part_at_matched_density(losses, expected):
    found = verdict("C4", c4_runs(**losses))
    assert found.verdict == expected
    if expected != "undecided":
        assert [n.what.split(" (")[0] for n in found.numbers] == [
            "loss without neighbours",
            "loss without neighbours minus that without random",
            "loss without neighbours minus that without global",
        ]


def test_what_stands_in_for_each_part_is_shown_with_what_it_loses():
    table = claims.parts_left_out(c4_runs()).set_index("without")
    assert set(table["mixture"]) == {"neighbour(2) | random(4) | global(2)"}
    assert table["stand-in"].to_dict() == {
        "neighbour": "random(6) | global(3)",
        "random": "neighbour(3) | global(3)",
        "global": "neighbour(2) | random(6) | global(cls)",
    }
    assert table["mean"].to_dict() == pytest.approx({"neighbour": 3.0, "random": 1.0, "global": 1.0})
    assert set(table["seeds"]) == {5} and (table["low"] <= table["mean"]).all()
    assert table["change"].to_dict() == pytest.approx({"neighbour": 0, "random": 0.005, "global": -0.005})
    assert len(claims.parts_left_out(c4_runs(density=0.2101))) == 2
    assert claims.parts_left_out(dense()).empty


def test_c4_says_that_a_match_is_missing():
    for records in (c4_runs(density=0.22), dense()):
        assert lacking("C4", records).endswith("of what stands in for each of its parts")


# ---- C5 and C6


def learned(asked, loss=0.0, miss=0.0, seeds=SEEDS, degrees=None, spread=1.0):
    how = DegreeConfig(target_density=asked, **degrees or {})
    learning = {
        "target_density": asked,
        "hard_density": asked + miss,
        "degrees": {"max_distance": 1, "kept": [[[1.0]]] * 6},
    }
    plan = f"learned{CLS}"
    return several(plan, loss, seeds, spread, density=asked + miss, degrees=how, learning=learning)


def grid(step=0.03, loss=3.0):
    """BigBird's mixtures of up to 2 random keys and widths up to 2, a bit denser with each."""
    records = []
    for r in range(3):
        for w in range(3):
            parts = [f"neighbour({w})"] * (w > 0) + [f"random({r})"] * (r > 0) + ["global(cls)"]
            density = 0.01 + step * (r + 2 * w)
            records += several(" | ".join(parts), loss - 0.1 * (r + 2 * w), density=density)
    return records


@pytest.mark.parametrize("miss", [0.0, 0.004, -0.02])
def test_c5_holds_by_construction_and_shows_the_largest_miss(miss):
    found = verdict("C5", learned(0.1) + learned(0.2, miss=miss))
    assert found.verdict == "by construction"
    (number,) = found.numbers
    assert number.mean == pytest.approx(100 * abs(miss)) and number.bound == 0.5
    assert number.state == ("met" if abs(miss) <= 0.005 else "refuted") and "2 densities" in number.what
    assert ("C5", "reviews") not in claims.after_holm([found])


def test_c5_is_undecided_without_learned_degrees():
    others = learned(0.1, degrees={"sharing": "layer"}) + learned(0.2, degrees={"weights": False})
    found = verdict("C5", grid() + others)
    assert found.verdict == "undecided" and "no recorded runs of degrees learned per head" in found.missing[0]


@pytest.mark.parametrize(
    ("loss", "spread", "expected"),
    [
        (1.0, 1, "holds"),
        (2.0, 1, "holds"),  # neighbour(1) | random(1) loses 2.7 at that density
        (2.7, 1, "undecided"),
        (4.0, 1, "does not hold"),
        (2.0, 10, "undecided"),  # the interval reaches below 0
    ],
)
def test_c6_compares_learned_degrees_with_the_best_fixed_pattern_that_is_as_sparse(loss, spread, expected):
    found = verdict("C6", grid() + learned(0.10, loss, spread=-spread))
    assert found.verdict == expected


def test_the_degrees_that_c6_compares_are_counted_by_head():
    records = learned(0.10) + learned(0.2, degrees={"weights": False})
    far = {"max_distance": 2, "open_ended": True, "kept": [[[1.0, 1.0, 1.0], [1.0], []]] * 6}
    for place, record in enumerate(records[:3]):
        learning = record.learning.model_copy(update={"degrees": HardDegrees(**far)})
        records[place] = record.model_copy(update={"learning": learning})
    (row,) = claims.chosen_degrees(records).to_dict("records")
    assert row["label"] == "reviews" and row["asked"] == 0.1 and row["seeds"] == 5 and row["heads"] == 18
    assert row["always"] == []
    for place, record in enumerate(records[3:5], start=3):
        records[place] = record.model_copy(update={"learning": records[0].learning})
    assert claims.chosen_degrees(records).iloc[0]["always"] == [(layer, 0) for layer in range(6)]
    assert row["unbounded"] == pytest.approx(6 * 3 / 5) and row["alone"] == pytest.approx(6 * 3 / 5)
    assert claims.chosen_degrees(dense()).empty
    chosen = claims.chosen_degrees(records)
    (read,) = claims.open_heads(chosen, [(1, 0), (5, 1)]).to_dict("records")
    assert read["task"] == "reviews" and read["open with all seeds"].startswith("0.0, 1.0, 2.0")
    assert (read["1.0 open in"], read["5.1 open in"]) == ("5 of 5 seeds", "0 of 5 seeds")
    assert claims.open_heads(chosen[:0], [(0, 0), (0, 1)]).empty


def test_degrees_used_from_the_start_are_set_beside_the_runs_that_learned_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    records = learned(0.10, 1.0) + several(f"neighbour(1){CLS}", 4.0, density=0.10)
    for kind, loss in (("as learned", 2.0), ("without weights", 2.5), ("other heads", 5.0)):
        for density in ("0.1", "much"):  # which is no density: left out
            HardDegrees(max_distance=1, kept=[[[1.0]]] * 6).save(f"{kind} {density}.json")
            labels = {"treatment": kind, "density": density}
            plan = f'learned("{kind} {density}.json"){CLS}'
            records += several(plan, loss, SEEDS[:3], density=0.10, labels=labels, data_hash="with files")
    records += learned(0.10, 6.0, degrees={"method": "mass"}) + learned(0.10, 9.0, degrees={"method": "span"})
    apart = claims.taken_apart(records)
    assert set(apart["label"]) == {"reviews"} and set(apart["asked"]) == {0.1} and set(apart["seeds"]) == {3}
    assert dict(zip(apart["what"], apart["mean"], strict=True)) == pytest.approx(
        {"hard from the start": -1.0, "without weights": -0.5, "other heads": -3.0}
    )
    assert (apart["low"] <= apart["mean"]).all() and (apart["mean"] <= apart["high"]).all()
    assert claims.taken_apart(dense()).empty


def test_ways_to_choose_degrees_are_compared_with_a_single_width_of_equal_density():
    widths = several(f"neighbour(1){CLS}", 4.0, density=0.08)
    widths += several(f"neighbour(2){CLS}", 2.0, density=0.12)
    ways = learned(0.10, 1.0) + learned(0.10, 3.5, seeds=SEEDS[:3], degrees={"method": "mass"})
    ways += learned(0.10, 2.0, degrees={"weights": False}) + learned(0.10, degrees={"price": 0.1})
    found = claims.by_method(widths + ways + learned(0.30)).set_index("method")
    assert found["mean"].to_dict() == pytest.approx(
        {"learned, per head": 2.0, "attention mass": -0.5, "learned, per head, without weights": 1.0}
    )
    assert found["seeds"].to_dict()["attention mass"] == 3 and set(found["asked"]) == {0.1}
    assert (found["low"] <= found["mean"]).all() and (found["mean"] <= found["high"]).all()
    assert claims.by_method(dense()).empty


# Tables of the runs that were on record when these were written down.
PINNED = json.loads((Path(__file__).parent / "tables_of_records.json").read_text())


def plain(value):
    if isinstance(value, pd.Series):
        return {str(key): plain(item) for key, item in value.items()}
    return value.item() if hasattr(value, "item") else value


@pytest.mark.parametrize("table", ["taken_apart", "by_connection", "verdicts"])
def test_the_tables_of_recorded_runs_stay_as_they_are(table):
    records = [record for record in recorded() if record.finished < PINNED["finished before"]]
    assert len(records) == PINNED["runs"]
    if table == "verdicts":
        for found, pinned in zip(claims.verdicts(records), PINNED[table], strict=True):
            assert [found.claim, found.label, found.verdict, [*found.missing]] == pinned[:4]
            assert [number.mean for number in found.numbers] == pytest.approx(pinned[4], abs=1e-9)
        return
    rows = getattr(claims, table)(records).to_dict("records")
    assert len(rows) == len(PINNED[table])
    for row, pinned in zip(rows, PINNED[table], strict=True):
        assert row.keys() >= pinned.keys()
        for name, value in ((name, row[name]) for name in pinned):
            exact = pinned[name] if isinstance(pinned[name], str) else pytest.approx(pinned[name], abs=1e-9)
            assert plain(value) == exact, name


COPIES, OTHERS = "two heads that look at copies", "two other heads of the same layers"


def of_heads(folder, heads, loss, seeds=SEEDS, before=""):
    """Runs of a plan with a file of heads, whose data hash holds that of the file, too."""
    HardDegrees(max_distance=0, open_ended=True, kept=[[[1.0]]] * 6).save(folder / f"{heads}.json")
    return several(
        f'{before}learned("{heads}.json"){CLS}',
        loss,
        seeds,
        spread=0,
        density=0.05,
        labels={"treatment": "named heads", "heads": heads},
        data_hash="with files",
    )


def test_connections_are_compared_by_seed_with_the_best_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    losses = {"neighbour(1)": 9.0, "neighbour(2)": 7.0, "lexical(2)": 4.0, "copies": 3.0, "syntax": 1.5}
    losses |= {"lexical(2) - copies": 8.5, "neighbour(1) | copies": 2.5}
    records = [*dense(), *learned(0.1, 0.5, spread=0)]
    for pattern, loss in losses.items():
        records += several(pattern + CLS, loss, spread=0)
    records += of_heads(tmp_path, COPIES, 2.0, SEEDS[:3]) + of_heads(tmp_path, OTHERS, 8.0, SEEDS[:3])
    records += of_heads(tmp_path, COPIES, 1.0, SEEDS[:2], before="neighbour(1) | ")
    table = claims.by_connection(records)
    assert set(table["task"]) == {"reviews"} and table["score"].is_monotonic_decreasing
    expected = {pattern: (5, loss) for pattern, loss in losses.items()}
    expected |= {"dense": (5, 0.0), "degrees learned for 0.1, with weights": (5, 0.5)}
    expected |= {"two heads that look at copies": (3, 2.0), "two other heads of the same layers": (3, 8.0)}
    expected |= {"two heads that look at copies and neighbour(1) in all": (2, 1.0)}
    table = table.set_index("what")
    assert table["seeds"].to_dict() == {what: seeds for what, (seeds, _) in expected.items()}
    assert table["mean"].to_dict() == pytest.approx({what: loss for what, (_, loss) in expected.items()})
    assert (table["low"] <= table["mean"]).all() and (table["mean"] <= table["high"]).all()


def test_what_brings_back_a_loss_is_of_deciding_runs_once_all_kinds_have_three_seeds(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    losses = {"neighbour(1)": 8.0, "random(2)": 9.5, "copies": 3.0, "syntax": 1.5}

    def runs(seeds, more, **changes):
        """Each kind loses so much more."""
        found = (
            dense(seeds)
            + several("global(cls)", 9.0 + more, seeds)
            + of_heads(tmp_path, COPIES, 4.0 + more, seeds)
        )
        for pattern, loss in losses.items():
            found += several(pattern + CLS, loss + more, seeds)
        found += learned(0.1, 2.5 + more, seeds=seeds)
        return [one.model_copy(update={"config": one.config.model_copy(update=changes)}) for one in found]

    old = runs(range(3), 0.0, task="glue/qnli")
    table = claims.regained(old)
    assert table["kind"].tolist() == [
        *("[CLS] alone", "random keys", "neighbours", "two named heads", "copies", "learned degrees", "dense")
    ]
    assert table["mean"].tolist() == pytest.approx([9.0, 9.5, 8.0, 4.0, 3.0, 2.5, 0.0], abs=0.2)
    deciding = {"task": "glue/qnli+test", "train_size": None, "epochs": 1, "batch_size": 16}
    deciding |= {"learning_rate": 1e-4, "max_length": 128}
    for seeds, expected in ((range(5, 8), 10.0), (range(5, 7), 9.0)):
        found = claims.regained(old + runs(seeds, 1.0, **deciding))
        assert found["mean"][0] == pytest.approx(expected, abs=0.2)
    assert claims.regained([]).empty


def test_connections_leave_out_other_plans_and_what_has_no_pair(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    records = dense(SEEDS[:2]) + of_heads(tmp_path, COPIES, 2.0, SEEDS[:2])
    before = claims.by_connection(records)
    assert len(claims.by_connection(records + several("global(cls)", 9.0))) == 3
    others = several(f"copies{CLS} @ late", 1.0) + several("copies", 1.0)
    others += several(f"syntax | random(1){CLS}", 1.0)
    others += of_heads(tmp_path, COPIES, 1.0, before="lexical(2) | ")
    others += of_heads(tmp_path, COPIES, 9.0, SEEDS[2:])
    after, known = claims.by_connection(records + others), ["low", "high"]  # others tell how seeds scatter
    pd.testing.assert_frame_equal(after.drop(columns=known), before.drop(columns=known))
    assert len(before) == 2 and before["seeds"].tolist() == [2, 2]
    assert claims.by_connection(dense() + several(f"copies{CLS}", 1.0)).empty
    changed = [record.model_copy(update={"data_hash": "another"}) for record in several(f"syntax{CLS}", 1.0)]
    assert claims.by_connection(records + changed).empty  # it can't be told on which data the heads were run


def test_the_heads_of_the_grid_are_what_their_names_say():
    folder = project_root() / "book" / "grids" / "heads"
    names = ["copies", *(f"others-{number}" for number in range(3))]
    copies, *others = (load_degrees(str(folder / f"{name}.json")) for name in names)
    assert copies.unbounded_heads() == [(1, 1), (2, 9)]
    for degrees in (copies, *others):
        assert sum(bool(row) for layer in degrees.kept for row in layer) == 2 and degrees.weights is None
        assert [layer for layer, _ in degrees.unbounded_heads()] == [1, 2]
        assert degrees is copies or not set(degrees.unbounded_heads()) & set(copies.unbounded_heads())


def test_degrees_by_a_method_of_ones_own_are_none_that_the_rules_mean(monkeypatch):
    monkeypatch.setitem(METHODS, "own", type("Own", (Survival,), {"name": "own"}))
    records = grid() + learned(0.10, 1.0)
    others = learned(0.10, 9.0, degrees={"method": "own"}) + learned(0.06, 9.0, degrees={"method": "own"})
    for claim in ("C5", "C6"):
        before, after = verdict(claim, records), verdict(claim, records + others)
        assert (after.verdict, len(after.numbers)) == (before.verdict, len(before.numbers))
        assert [number.mean for number in after.numbers] == [number.mean for number in before.numbers]


def test_c6_has_to_hold_at_each_density_of_a_tenth_or_below():
    records = grid() + learned(0.10, 0.0)
    assert verdict("C6", records + learned(0.2, 9.0)).verdict == "holds"
    assert verdict("C6", records + learned(0.06, 9.0)).verdict == "does not hold"


def test_c6_compares_with_mixtures_and_with_a_single_width_of_equal_density():
    widths = several(f"neighbour(1){CLS}", 9.0, density=0.05) + several(
        f"neighbour(2){CLS}", 0.0, density=0.2
    )
    mixed = several(f"neighbour(1) | random(1){CLS}", 5.0, density=0.08)
    found = verdict("C6", learned(0.10, 4.0) + widths + mixed)
    assert found.verdict == "holds" and [number.mean for number in found.numbers] == pytest.approx([1.0, 2.0])
    mixture, single = (number.what for number in found.numbers)
    assert f"BigBird's best, neighbour(1) | random(1){CLS}" in mixture
    assert "a single width of equal density" in single
    assert verdict("C6", learned(0.10, 5.5) + widths + mixed).verdict == "does not hold"
    assert verdict("C6", learned(0.10, 6.5) + widths + mixed).verdict == "does not hold"


def test_runs_say_whether_a_part_beside_a_global_cls_reads_the_text():
    rivals = several(f"lexical(2){CLS}", 3.0, density=0.09) + several(
        f"neighbour(1) | copies{CLS}", 1.0, density=0.1
    )
    others = several("lexical(9)", 0.0) + several(f"random(like=lexical(2), besides=global(cls)){CLS}", 0.0)
    (runs,) = claims.runs_by_setting(learned(0.10, 2.0) + grid() + rivals + others).values()
    assert set(runs.loc[runs["reads_text"], "pattern"]) == {"neighbour(1) | copies", "lexical(2)"}


def test_c6_does_not_take_a_mixture_that_lacks_a_seed():
    strong, weak = [0, 1, 2], [3]  # in the last seed every run does badly

    def over_seeds(loss, make):
        return make(loss, strong) + make(loss + 20, weak)

    records = over_seeds(2.0, lambda loss, seeds: learned(0.10, loss, seeds=seeds))
    for plan, loss in ((f"neighbour(1) | random(1){CLS}", 0.0), (f"neighbour(2){CLS}", 0.0)):
        records += over_seeds(
            loss, lambda loss, seeds, plan=plan: several(plan, loss, seeds=seeds, density=0.10)
        )
    before = verdict("C6", records)
    assert before.verdict == "does not hold" and before.numbers[0].mean == pytest.approx(-2.0)
    half = several(f"neighbour(1) | random(2){CLS}", 3.0, seeds=strong, density=0.10)
    after = verdict("C6", records + half)
    assert after.numbers == before.numbers
    assert f"neighbour(1) | random(2){CLS}: not run with all seeds of the learned degrees" in after.missing


def test_c6_counts_the_token_itself_as_a_width_and_not_as_a_mixture():
    floor = several("global(cls)", 3.0, density=0.09)
    wider = several(f"neighbour(1){CLS}", 1.0, density=0.15)
    found = verdict("C6", floor + wider + learned(0.10, 0.0))
    assert found.verdict == "undecided"
    assert "no recorded mixture of neighbours and random keys is as sparse" in found.missing[0]
    assert found.numbers[0].mean == pytest.approx(3.0 - 2.0 / 6)
    assert verdict("C6", floor + wider + learned(0.10, 9.0)).verdict == "does not hold"


def test_c6_does_not_take_a_width_alone_for_a_mixture():
    widths = several(f"neighbour(1){CLS}", 3.0, density=0.06) + several(
        f"neighbour(2){CLS}", 2.0, density=0.12
    )
    found = verdict("C6", widths + learned(0.10, 0.0))
    assert found.verdict == "undecided" and len(found.numbers) == 1
    assert "no recorded mixture of neighbours and random keys is as sparse" in found.missing[0]


def test_c6_is_undecided_where_learned_degrees_or_rivals_are_missing():
    assert "at density 0.1 or below; the lowest is 0.15" in lacking("C6", grid() + learned(0.15))
    nothing = lacking("C6", learned(0.1))
    assert "no recorded mixture of neighbours and random keys is as sparse" in nothing
    assert "no recorded widths tell" in nothing
    listed = claims.missing(claims.verdicts(learned(0.1)), "C6")
    assert listed.startswith("- reviews: no recorded mixture") and claims.missing([], "C6") == ""
    elsewhere = lacking("C6", grid() + learned(0.1, seeds=[8, 9]))
    assert "not run with all seeds" in elsewhere and "no recorded widths tell" in elsewhere


def test_c6_takes_what_is_as_sparse_as_bigbirds_sparsest_mixture_where_that_is_denser():
    records = several("global(cls)", 5.0, density=0.10) + several(f"neighbour(2){CLS}", 3.0, density=0.25)
    records += several(f"neighbour(1) | random(1){CLS}", 3.0, density=0.19) + learned(0.19, 1.0)
    found = verdict("C6", records + learned(0.25, 9.0))
    assert found.verdict == "holds" and {number.what[:15] for number in found.numbers} == {"at density 0.19"}


# ---- at the floor


def with_ends(records):
    """With dense runs, and with [CLS] alone, which loses 5 points."""
    return records + dense() + several("global(cls)", 5.0, spread=-1, density=0.05)


def test_a_comparison_of_what_cannot_be_told_from_cls_alone_decides_nothing():
    at_five = c3_runs(neighbour=5.0, drawn=5.0, meaning=5.0)
    found = verdict("C3", with_ends(at_five))
    assert found.verdict == "at the floor" and {number.state for number in found.numbers} == {"floor"}
    above = verdict("C3", with_ends(c3_runs(neighbour=1.0, drawn=5.0, meaning=5.0)))
    assert {number.state for number in above.numbers} == {"met", "floor"}
    assert above.verdict == "at the floor"
    refuted = verdict("C3", with_ends(c3_runs(neighbour=7.0, drawn=5.0, meaning=5.0)))
    assert refuted.verdict == "does not hold" and "floor" in {number.state for number in refuted.numbers}
    assert verdict("C3", at_five).verdict == "undecided"  # no [CLS] alone


def test_what_may_gain_a_quarter_of_what_is_lost_is_not_at_the_floor():
    near, syntax = several(f"neighbour(1){CLS}", 5.0), several(f"syntax{CLS}", 5.0, spread=20)
    (runs,) = judged(with_ends(near + syntax))
    assert runs.at_floor(score_of(runs.where(pattern="neighbour(1)")))
    assert not runs.at_floor(score_of(runs.where(pattern="syntax")))
    (runs,) = judged(near + several("global(cls)", 5.0, spread=-1))  # no dense run
    assert not runs.at_floor(score_of(runs.where(pattern="neighbour(1)")))


def test_c4_and_c6_are_at_the_floor_too():
    lower = {"accuracy": DENSE / 100 - 0.05}
    mixtures = [r.model_copy(update={"metrics": lower}) for r in c4_runs()]
    assert verdict("C4", with_ends(mixtures)).verdict == "at the floor"
    rivals = [r.model_copy(update={"metrics": lower}) for r in grid() if r.config.plan != "global(cls)"]
    found = verdict("C6", with_ends(rivals + learned(0.10, 5.0)))
    assert found.verdict == "at the floor" and {number.state for number in found.numbers} == {"floor"}


# ---- with predictions


ROWS = 1000


def predicted(record, validation, test=None, rows=ROWS):
    """A record with predictions of each part, whose accuracies in points are these, to a whole row.

    Some rows are harder than others: with all runs, and with those of the plan.
    """
    parts = {}
    for part, points in {"validation": validation, "test": test}.items():
        if points is not None:
            plan, seed = record.config.plan, record.config.seed
            shared = [part, f"{part} {plan}", f"{part} {plan} {seed}"]
            hard = sum(np.random.default_rng([*text.encode()]).random(rows) for text in shared)
            right = np.ones(rows, int)
            right[hard.argsort()[: round(rows * (1 - points / 100))]] = 0
            label = np.arange(rows) % 2
            logits = np.eye(2)[np.where(right, label, 1 - label)]
            parts[part] = Predictions.of(rows_of(label.tolist()), logits, 2)
    changes = {"predictions": parts, "metrics": metrics_of(parts, ["accuracy"]), "eval_rows": rows}
    return record.model_copy(update=changes)


def on_test_rows(records, rows=ROWS):
    """The records with predictions; on the test part each is two points better than on validation."""
    scores = [100 * record.metrics["accuracy"] for record in records]
    return [predicted(r, points, points + 2, rows) for r, points in zip(records, scores, strict=True)]


def test_rules_judge_on_the_test_part_over_seeds_and_rows():
    records = dense() + late(0.4)
    (number,) = verdict("C1", on_test_rows(records)).numbers
    right = {
        kind: np.stack(
            [
                100 * r.predictions["test"].correct
                for r in on_test_rows(records)
                if (r.config.plan == "dense") == kind
            ]
        )
        for kind in (True, False)
    }
    points = right[True] - right[False]
    expected = over_seeds_and_rows(points)
    assert (number.mean, number.low, number.high) == pytest.approx((expected.value, *expected.interval()))
    assert (number.rows, number.seeds) == (ROWS, 5) and number.mean == pytest.approx(0.4)
    assert number.scatter == pytest.approx(points.mean(1).std(ddof=1))
    assert number.disagreement == pytest.approx(expected.of_rows * ROWS / 1e4) and number.disagreement > 0.01
    alone = over_seeds(points.mean(1))
    assert expected.error > alone.error


def test_accuracies_on_the_test_part_count_without_predictions_too():
    records = [
        r.model_copy(
            update={"metrics": r.metrics | {"test_accuracy": 0.7 - 0.05 * (r.config.plan != "dense")}}
        )
        for r in dense() + late(0.0)
    ]
    (number,) = verdict("C1", records).numbers
    assert number.mean == pytest.approx(5.0) and number.rows == 0


def other_rows(record):
    others = {part: known.model_copy(update={"rows": "0" * 16}) for part, known in record.predictions.items()}
    return record.model_copy(update={"predictions": others})


@pytest.mark.parametrize(
    "change", [other_rows, lambda record: record.model_copy(update={"predictions": None})]
)
def test_runs_on_other_rows_are_compared_by_seeds_alone(change):
    records = on_test_rows(dense() + late(0.4))
    (number,) = verdict("C1", [change(records[0]), *records[1:]]).numbers
    (alone,) = verdict("C1", [r.model_copy(update={"predictions": None}) for r in records]).numbers
    assert number == alone and number.rows == 0 == number.disagreement


def test_the_best_rival_is_chosen_on_validation_rows_and_judged_on_test_rows():
    best, better = f"neighbour(1) | random(1){CLS}", f"neighbour(1){CLS}"
    records = [predicted(r, 78, 79) for r in learned(0.10)]
    records += [predicted(r, 77, 75) for r in several(best, 0, density=0.10)]
    records += [predicted(r, 75, 83) for r in several(better, 0, density=0.08)]
    records += [predicted(r, 70, 81) for r in several(f"neighbour(2){CLS}", 0, density=0.12)]
    first, second = verdict("C6", records).numbers
    assert best in first.what and first.mean == pytest.approx(4.0) and first.rows == ROWS
    assert "single width" in second.what and second.mean == pytest.approx(79 - 82)


# ---- all of them


EVERYTHING = [*dense(), *late(0.5, 0.7, 1.2), *c3_runs(), *c4_runs(), *grid(), *learned(0.1), *learned(0.2)]


ENDS = "mean", "low", "high"
RECORDED = records_by_setting(evidence())  # by setting; of learned degrees those that claims speak of


@pytest.mark.parametrize("setting", [None, "tested", *RECORDED], ids=lambda s: getattr(s, "task", s))
def test_verdicts_computed_again_from_the_records_are_the_same(setting):
    if setting in RECORDED:
        records = [r for r in RECORDED[setting] if as_claims_mean_them(r.config.degrees)]
    else:
        records = with_ends(EVERYTHING) if setting is None else on_test_rows(noisy(with_ends(EVERYTHING)))
    again = Again([json.loads(as_line(record)) for record in each_once(records)]).verdicts()
    for found in claims.verdicts(records):
        if found.claim != "C5":
            word, numbers = again[found.claim]
            assert word == found.verdict, found.claim
            expected = sorted((n["state"], *(round(n[end], 6) for end in ENDS)) for n in numbers)
            said = sorted((n.state, *(round(getattr(n, end), 6) for end in ENDS)) for n in found.numbers)
            assert len(said) == len(expected)
            for mine, theirs in zip(expected, said, strict=True):
                assert mine[0] == theirs[0] and mine[1:] == pytest.approx(theirs[1:], abs=2e-6, nan_ok=True)


def as_claims_mean_them(degrees):
    return degrees is None or degrees == DegreeConfig(target_density=degrees.target_density)


def noisy(records):
    """The records with some luck of their own, without which nothing could be told from nothing."""
    return [record.model_copy(update={"metrics": {"accuracy": shifted(record)}}) for record in records]


@given(st.randoms(use_true_random=False))
@settings(max_examples=5, suppress_health_check=list(HealthCheck))
def test_the_order_of_the_records_does_not_matter(shuffling):
    mixed = list(EVERYTHING)
    shuffling.shuffle(mixed)
    assert claims.verdicts(mixed) == claims.verdicts(EVERYTHING)
    assert claims.caveats(mixed) == claims.caveats(EVERYTHING)


def test_a_run_that_stands_twice_counts_once():
    late_run = late(0.5)[0]
    again = late_run.model_copy(
        update={"metrics": {"accuracy": 0.1}, "finished": "2023-12-31T00:00:00+00:00"}
    )
    assert claims.verdicts([again, *EVERYTHING, *EVERYTHING]) == claims.verdicts(EVERYTHING)


def test_hundreds_of_runs_are_judged_in_seconds_and_their_tables_agree():
    found = claims.verdicts(EVERYTHING)
    numbers = claims.estimates(found)
    assert len(numbers) == sum(len(v.numbers) for v in found) > 8
    assert set(claims.table_of_rules().index) == {v.claim for v in found}
    lost = claims.losses(EVERYTHING).set_index(["placement", "pattern"])
    row = lost.loc["late", "neighbour(1)"]
    assert (row["mean"], row["sparsity"], row["seeds"]) == (pytest.approx(0.5), pytest.approx(0.8), 5)
    encoder, sentence = claims.caveats(EVERYTHING)
    assert "minilm has 6 layers" in encoder and "BERT-base has 6" in encoder and "5 seeds" in sentence
    assert "4 judged on" in sentence and f"{ROWS:,} judged on" in claims.caveats(on_test_rows(dense()))[1]
    (row,) = claims.counted([*dense(), *late(0.5)]).reset_index().to_dict("records")
    assert list(row.values()) == ["reviews", 10, 2, 5, 8, 4]
    assert "where that of BERT-base" not in claims.caveats([run("dense", layers=12)])[0]


def test_in_short_a_task_is_what_can_be_lost_and_what_loses_least():
    records = dense() + late(2.0, 0.5) + several(f"neighbour(1){CLS}", 3.0) + several("global(cls)", 9.0)
    records += several(f"syntax{CLS}", 2.0, density=0.1) + several(f"lexical(2){CLS}", 0.0, seeds=[0])
    records += several(f"random(like=syntax, besides=global(cls)){CLS}", 1.0)
    records += learned(0.1, 0.75, spread=0) + learned(0.3, 0.0)
    table = claims.in_short(records).set_index("what")
    assert table["pattern"].to_dict() == {
        "[CLS] alone": "[CLS] alone",
        "best at the later half": "syntax",
        "best at all layers": "syntax",
        "learned degrees": "learned degrees",
    }
    assert table["mean"].tolist() == pytest.approx([9.0, 0.5, 2.0, 0.75])
    assert table["sparsity"].tolist() == pytest.approx([0.8, 0.8, 0.9, 0.9])
    assert set(table["seeds"]) == {5} and set(table["dense"]) == {DENSE}
    read = claims.in_short_to_read(claims.in_short(records)).loc["reviews"]
    assert read["dense, %"] == "80.0" and read["[CLS] alone"].endswith("\n80 % sparse")
    assert re.fullmatch(r"0\.5 \(0\.\d to 0\.\d\)\nsyntax\n80 % sparse", read["best at the later half"])
    assert claims.in_short(dense() + several(f"syntax{CLS}", 2.0)).empty  # never at the later half
    further = [*dense([11]), *several(f"neighbour(1){CLS}", 3.0, [11])]  # a seed that others lack
    assert claims.in_short([*records, *further])["pattern"].tolist() == table["pattern"].tolist()
    assert claims.in_short(records[5:]).empty  # without dense runs


def test_fixed_patterns_and_learned_degrees_stand_by_their_density():
    mixture, random = f"neighbour(2) | random(1){CLS}", f"random(3){CLS}"
    records = dense() + several(mixture, 2.0, density=0.2) + several(random, 4.0, density=0.15)
    records += several("global(cls)", 9.0, density=0.05) + learned(0.1, 1.0)
    others = (
        several(f"syntax{CLS}", 1.0)
        + several("random(4) | global(2)", 1.0)
        + several(f"{random} @ late", 1.0)
    )
    table = claims.by_density(records + others)
    assert table[["kind", "plan"]].to_records(index=False).tolist() == [
        ("[CLS] alone", "global(cls)"),
        ("learned degrees", "learned for 0.1"),
        ("random keys", random),
        ("both", mixture),
    ]
    assert table["density"].tolist() == pytest.approx([0.05, 0.1, 0.15, 0.2])
    assert table["mean"].tolist() == pytest.approx([9.0, 1.0, 4.0, 2.0]) and set(table["seeds"]) == {5}
    assert (table["low"] < table["mean"]).all() and (table["mean"] < table["high"]).all()
    tested = table.assign(label="reviews+test", seeds=[5, 5, 2, 2])
    assert claims.preferred(pd.concat([table, tested]))["seeds"].tolist() == [5, 5]
    assert claims.preferred(pd.concat([table, tested.assign(seeds=2)]))["seeds"].tolist() == [5] * 4
    assert claims.by_density(records[:-5]).empty  # nothing was learned
    assert claims.by_density(records[5:]).empty  # without dense runs

    both = pd.concat([table, table.assign(label="other")])
    figure = figures.verdicts.losses_by(both)
    assert [axes.get_title() for axes in figure.axes] == ["reviews", "other"]
    drawn = [tuple(map(float, bars.lines[0].get_xydata()[0])) for bars in figure.axes[0].containers]
    assert sorted(drawn) == [pytest.approx((100 * row.density, row.mean)) for row in table.itertuples()]
    with pytest.raises(InputError, match="nothing to draw"):
        figures.verdicts.losses_by(table[:0])


def test_the_rules_say_the_numbers_that_are_applied():
    rules = claims.table_of_rules()
    assert "78 to 85 %" in rules.loc["C1", "holds if"] and "below 1 point" in rules.loc["C1", "holds if"]
    assert "above 1 point" in rules.loc["C2", "holds if"] and "2 times" in rules.loc["C2", "holds if"]
    assert "0.5 points" in rules.loc["C5", "holds if"] and "10 %" in rules.loc["C6", "holds if"]


def verdict_of(*chances, claim="C1", word="holds", states=("met",)):
    states = states * len(chances) if len(states) == 1 else states
    known = {"what": "loss", "bound": 1.0, "mean": 0.0, "low": -1.0, "high": 1.0}
    numbers = [
        claims.Estimate(**known, chance=chance, seeds=3, rows=0, state=state)
        for chance, state in zip(chances, states, strict=True)
    ]
    return claims.Verdict(claim, "reviews", "reviews", word, tuple(numbers))


def test_holm_counts_all_tests_decided_or_not():
    sure, weak = verdict_of(0.001, 0.024), verdict_of(0.3, claim="C2", word="undecided", states=("open",))
    assert claims.after_holm([sure]) == {("C1", "reviews"): True}
    assert claims.after_holm([sure, weak]) == {("C1", "reviews"): True}  # 0.024 of 2 that are left
    many = [verdict_of(0.3, claim=f"C{n}", word="undecided", states=("open",)) for n in (2, 3)]
    assert claims.after_holm([sure, *many]) == {("C1", "reviews"): False}
    refuted = verdict_of(0.001, 0.2, word="does not hold", states=("refuted", "open"))
    assert claims.after_holm([refuted, *many]) == {("C1", "reviews"): True}
    stopped = verdict_of(0.03, 0.04, word="does not hold", states=("refuted", "refuted"))
    assert claims.after_holm([stopped]) == {("C1", "reviews"): False}
    for corrected, expected in ((True, "holds\nnot after Holm"), (False, "holds")):
        assert expected in claims.summary([sure, *many], corrected)["reviews"].tolist()


def test_runs_that_decide_have_new_seeds_and_the_settings_of_the_grids():
    grids = project_root() / "book" / "grids" / "evidence"
    files = ["1_mrpc", "2_qnli", "3_sst2", "4_imdb", "5_mixtures"]
    configs = [config for name in files for config in load_grid(grids / f"{name}.yaml")]
    made = [record_of(config) for config in configs]
    assert claims.deciding(made) == made and not claims.exploratory(made)
    changes = (
        {"seed": 0},
        {"learning_rate": 5e-5},
        {"train_size": 100},
        {"eval_size": 9},
        {"task": "glue/mrpc"},
    )
    others = [record_of(configs[0].model_copy(update=change)) for change in changes]
    assert not claims.deciding(others)
    assert [record.config.task for record in claims.exploratory(others)] == ["glue/mrpc"]


def test_each_field_of_a_run_may_differ_or_has_to_be_equal_where_runs_are_compared():
    left_out = {"layers", "reduce"}  # by `evidence`
    assert {*RunConfig.model_fields} == {*Setting._fields} - {"data_hash"} | MAY_DIFFER | left_out


def test_the_grid_of_verdicts_has_five_tasks_at_most_and_those_that_most_claims_are_judged_on():
    rest = [
        replace(v, task=f"task {n}", label=f"task {n}") for n in range(6) for v in claims.verdicts(late(0.5))
    ]
    known = claims.verdicts(dense() + late(0.5, 0.5), ["glue/sst2+test"])
    table = claims.summary([*rest, *known])
    assert len(table.columns) == 5 and "reviews" in table
    assert list(claims.summary(known)) == ["SST-2", "reviews"]
    assert list(claims.summary(known, least=1)) == ["reviews"]
    assert table.index[0] == f"C1: {claims.CLAIMS['C1'].short}"
    shown = figures.verdicts.grid(claims.summary(known), "Verdicts")._repr_html_()
    assert '<td class="verdict holds">holds</td>' in shown and "<td>–</td>" in shown


def test_deciding_runs_speak_for_a_task_once_they_have_three_seeds():
    explored = claims.judge("C1", dense() + late(0.5, task="glue/sst2") + dense(task="glue/sst2"))
    explored = [v for v in explored if v.task == "glue/sst2"]
    few, enough = (
        claims.judge(
            "C1", dense(seeds, task="glue/sst2+test") + late(3.0, seeds=seeds, task="glue/sst2+test")
        )
        for seeds in (range(2), range(3))
    )
    assert claims.best_verdicts(few, explored) == explored
    assert claims.best_verdicts(enough, explored) == enough
    assert claims.told(explored, "C1") == "In exploratory runs, C1 holds on SST-2."
    assert claims.told(enough, "C1") == "In deciding runs, C1 does not hold on SST-2."
    other = [replace(explored[0], task="imdb", label="imdb")]
    both = claims.best_verdicts(enough, [*explored, *other])
    said = "In deciding runs on SST-2 and exploratory runs elsewhere, "
    assert claims.told(both, "C1") == f"{said}C1 holds on IMDB; does not hold on SST-2."
    assert claims.told(both, "C2") == "C2 has no runs."
    assert claims.stated(claims.estimates(enough)).startswith("3.0 on SST-2 (")


def test_the_forest_has_a_row_per_estimate_with_its_interval():
    numbers = claims.estimates(claims.judge("C3", c3_runs()))
    [axes] = figures.verdicts.forest(numbers).axes
    assert len(axes.get_yticklabels()) == len(numbers) == 4
    assert len(axes.containers) == 4  # points with error bars
    assert len({bars.lines[0].get_marker() for bars in forest_of(["met", "refuted", "floor", "open"])}) == 4
    written = [label.get_text() for label in axes.child_axes[0].get_yticklabels()]
    assert written == [f"{r.mean:.1f} ({between(r.low, r.high)})" for r in numbers.itertuples()]
    with pytest.raises(InputError, match="nothing to draw"):
        figures.verdicts.forest(numbers[:0])


def forest_of(states):
    numbers = claims.estimates(claims.judge("C3", c3_runs())).assign(state=states)
    return figures.verdicts.forest(numbers).axes[0].containers


def test_a_claim_is_shown_with_its_rule_and_its_numbers_in_words(monkeypatch):
    shown = []
    monkeypatch.setattr(figures.verdicts.page, "show", lambda *given: shown.append(given))
    figures.verdicts.show_claim("C1", claims.verdicts(dense() + late(0.5)), [])
    [(_, name, caption, alt, _)] = shown
    assert name == "fig-claims-c1" and claims.CLAIMS["C1"].holds in caption
    assert "reviews: loss at the later half" in alt and "0.5 (" in alt and "met" in alt
    figures.verdicts.show_claim("C3", claims.verdicts(dense() + late(0.5)), [])
    assert len(shown) == 1


def test_points_lost_stand_in_rows_with_their_numbers_beside_them():
    kinds = ["[CLS] alone", "copies", "of my own", "dense"]
    frame = pd.DataFrame({"what": kinds, "kind": kinds, "mean": [9.0, 2.0, 3.0, 0.0]})
    frame = frame.assign(low=frame["mean"] - [1, 1, np.nan, 0], high=frame["mean"] + [1, 1, np.nan, 0])
    both = pd.concat([frame.assign(label="glue/qnli"), frame[:2].assign(label="headlines")])
    figure = figures.verdicts.dots(both)
    assert [axes.get_title() for axes in figure.axes] == ["QNLI", "headlines"]
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == kinds
    written = [label.get_text() for label in axes.child_axes[0].get_yticklabels()]
    assert written == ["9.0 (8.0 to 10.0)", "2.0 (1.0 to 3.0)", "3.0", "0.0"]
    drawn = [float(bars.lines[0].get_xdata()[0]) for bars in axes.containers]
    assert drawn == [9.0, 2.0, 3.0, 0.0]
    [gained] = figures.verdicts.dots(frame.drop(columns="kind").assign(label=""), "points gained").axes
    assert gained.get_xlabel() == "points gained" and len(gained.containers) == len(kinds)
    with pytest.raises(InputError, match="nothing to draw"):
        figures.verdicts.dots(frame[:0].assign(label=""))


# ---- what chapters show


def decides(plan, loss, seeds, **changes):
    """Runs on MRPC in the setting that decides."""
    fixed = {"task": "glue/mrpc+test", "encoder": "minilm", "train_size": None, "epochs": 3}
    fixed |= {"batch_size": 16, "max_length": 128, "learning_rate": 1e-4}
    return several(plan, loss, seeds, **fixed | changes)


def test_the_deciding_runs_of_a_task_are_taken_once_there_are_three_seeds_of_them():
    explored = [
        record for plan in ("dense", f"syntax{CLS} @ late") for record in several(plan, 0.5, task="glue/mrpc")
    ]
    other = several("dense", 0, task="topics") + decides("dense", 0, [5, 6, 7], encoder="e5")
    for seeds, tasks in (([5, 6], {"glue/mrpc"}), ([5, 6, 7], {"glue/mrpc+test"})):
        decided = decides("dense", 0.0, seeds) + decides(f"syntax{CLS} @ late", 0.5, seeds)
        known = claims.best_known(["C1"], explored + decided + other)
        assert {record.config.task for record in known} == tasks
        assert {record.config.encoder for record in known} == {"minilm"}
        both = claims.best_known(["C1", "C2"], explored + decided)  # nothing at all layers: C2 has no number
        assert {record.config.task for record in both} == {"glue/mrpc"}


def test_verdicts_on_several_tasks_are_said_in_a_phrase():
    holds, fails = (dense() + late(loss) for loss in (0.5, 4.0))
    found = [one for records in (holds, fails, holds) for one in claims.judge("C1", records)]
    labels = [claims.Verdict(**vars(one) | {"label": label}) for one, label in zip(found, "abc", strict=True)]
    assert claims.in_words(labels) == "holds on a and c; does not hold on b"
    assert claims.in_words(claims.judge("C1", dense())) == "has no runs"


def test_losses_stand_in_rows_with_a_marker_per_placement():
    records = dense() + late(0.5, 1.0) + several(f"syntax{CLS}", 3.0) + several("global(cls)", 9.0)
    lost = claims.losses(records)
    frame = pd.concat([lost.assign(label=task) for task in ("one", "two", "three")])
    figure = figures.verdicts.losses_in_rows(frame)
    assert [axes.get_title() for axes in figure.axes] == ["one", "two", "three"]
    drawn = [bars.lines[0].get_xydata()[0] for bars in figure.axes[0].containers]
    names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    by_row = {(names[round(y)], round(x, 6)) for x, y in drawn}
    assert by_row == {(row.pattern, round(row.mean, 6)) for row in lost.itertuples()}
    [legend] = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["at all layers", "at the later half"]
    with pytest.raises(InputError, match="nothing to draw"):
        figures.verdicts.losses_in_rows(lost[:0])


def test_losses_in_rows_take_other_kinds_than_placements():
    parts = claims.parts_left_out(c4_runs())
    figure = figures.verdicts.losses_in_rows(parts, "without", "mixture")
    assert [text.get_text() for text in figure.legends[0].get_texts()] == parts["mixture"].unique().tolist()
