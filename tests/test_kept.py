"""Is the promise kept: draws from a pool of runs, and whole searches with rows that were left over."""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import special
from studies import study
from test_advise import LOST, Fake, no_measure, part
from test_runs import record_of

from sparsebert.advise import promising
from sparsebert.advise.halving import candidates
from sparsebert.advise.promises_kept import Pool, draw, kept, told
from sparsebert.advise.search_log import DENSE, Candidate, Request
from sparsebert.data.tasks import Task, get_task
from sparsebert.paths import Folders
from sparsebert.study.results import recorded
from sparsebert.sweeps.grids import load_grid
from sparsebert.training.runs import RunConfig

BOOK = Path(__file__).resolve().parents[1] / "book"
GRIDS = sorted((BOOK / "grids" / "promises").glob("*.yaml"))
PARTS = ("train", "validation", "test")


@pytest.mark.parametrize(("seeds", "rows"), [(5, 30), (6, 2001), (8, 2014)])
def test_a_seed_or_row_is_used_for_one_thing_and_all_are_used(seeds, rows):
    uses = draw(np.random.default_rng(0), seeds, rows)
    for number, count in enumerate((seeds, rows)):
        assert sorted(np.concatenate([use[number] for use in uses])) == list(range(count))
    (one, choosing), (confirming_seeds, confirming), (fresh_seeds, fresh) = uses
    assert len(one) == 1 and len(confirming_seeds) >= 3 and len(fresh_seeds) >= 1
    assert len(fresh) == rows // 2 and len(confirming) == pytest.approx(2 * len(choosing), abs=2)


# ---- a known truth


def simulated(
    random: np.random.Generator, truths: tuple[float, ...], seeds: int = 8, rows: int = 2400
) -> Pool:
    """Rows that are easy or hard for all plans, for one plan or for one run; `truths` are what plans lose."""
    easy = random.normal(size=rows)
    correct = []
    for plan, lost in enumerate((0.0, *truths)):
        own = easy + 0.15 * random.normal(size=rows) * (plan > 0)
        runs = own + 0.2 * random.normal(size=(seeds, rows))
        spread = np.sqrt(1 + 0.2**2 + 0.15**2 * (plan > 0))
        # 13 of 100 rows are wrong, and more by what is lost; a run has the luck of its seed.
        wrong = np.array([0.13 + lost / 100]) + random.normal(0, 0.005, size=(seeds, 1))
        correct.append(runs > spread * np.sqrt(2) * special.erfinv(2 * wrong - 1))
    densities = np.linspace(0.6, 0.2, len(truths))
    return Pool(
        [DENSE, *(Candidate(f"loses {lost}, plan {number}") for number, lost in enumerate(truths))],
        100.0 * np.array(correct),
        np.arange(rows) % 2,
        np.tile(np.array([1.0, *densities])[:, None], seeds),
    )


def answers(truths: tuple[float, ...], pools: int = 60, draws: int = 4) -> list[tuple]:
    """What the draws from several pools tell, with the true loss of the plan that each recommends."""
    random, found = np.random.default_rng(0), []
    for _ in range(pools):
        pool = simulated(random, truths)
        for _ in range(draws):
            if answer := told(pool, draw(random, *pool.points.shape[1:]), 2.0):
                found.append((answer, float(answer.plan.split(",")[0].removeprefix("loses "))))
    return found


def test_with_a_known_truth_promises_are_kept():
    found = answers((0.0, 0.3, 4.0))
    assert len(found) > 100, "most draws promise something"
    assert np.mean([truth <= answer.bound for answer, truth in found]) >= 0.9
    assert np.mean([answer.fresh.value <= answer.bound for answer, _ in found]) > 0.75, "fresh rows have luck"
    assert np.mean([answer.fresh.value - truth for answer, truth in found]) == pytest.approx(0, abs=0.2)


def test_a_mean_in_the_place_of_the_bound_is_no_promise(monkeypatch):
    monkeypatch.setattr(promising, "upper_bound", lambda mean, rows: mean.value)
    found = answers((0.0, 0.3, 4.0))
    assert np.mean([truth <= answer.bound for answer, truth in found]) < 0.8


# ---- records of a pool


def records(lost: dict[str, float], seeds: int = 8, dense: float = 0.88, **fields: object) -> list:
    """The runs of a pool on 900 and 600 rows, by seed; `lost` has the points that each plan loses."""
    found = []
    for seed in range(20, 20 + seeds):
        for plan, points in {"dense": 0.0, **lost}.items():
            config = RunConfig(plan=plan, seed=seed, **fields)
            predictions = {
                name: part(name, count, dense - points / 100, zlib.crc32(f"{name}{plan}{seed}".encode()))
                for name, count in (("validation", 900), ("test", 600))
            }
            density = 1.0 if plan == "dense" else 0.3 if "@" in plan else 0.1
            found.append(record_of(config, predictions=predictions, density=density))
    return found


GOOD, BAD = "neighbour(2) | global(cls) @ late", "global(cls)"


def test_a_pool_has_the_rows_of_all_parts_and_the_seeds_of_all_plans():
    runs = records({GOOD: 0.0, BAD: 9.0})
    pool = Pool.of(runs[:-1])
    assert [str(candidate) for candidate in pool.candidates] == ["dense", GOOD, BAD]
    assert pool.points.shape == (3, 7, 1500) and pool.labels.shape == (1500,)
    assert pool.densities[:, 0].tolist() == [1.0, 0.3, 0.1]
    assert pool.lost(Candidate(BAD), (np.arange(7), np.arange(1500))).mean() == pytest.approx(9, abs=1)
    assert Pool.of(records({GOOD: 0.0}, seeds=4)) is None and Pool.of(records({})) is None


def test_the_recorded_runs_of_a_task_differ_in_plan_and_seed_alone():
    settings = set()
    for record in recorded("promises"):
        same = record.config.model_copy(update={"plan": "dense", "degrees": None, "seed": 0})
        rows = tuple(sorted((part, own.rows) for part, own in record.predictions.items()))
        settings.add((record.config.task, record.metric, same, rows))
    assert {metric for _, metric, *_ in settings} == {"accuracy"}
    assert len(settings) == len({task for task, *_ in settings}) == len(GRIDS)


def test_the_frame_counts_what_the_draws_tell():
    runs = records({GOOD: 0.0, BAD: 9.0}) + records({BAD: 9.0}, task="headlines")
    found = kept(runs, draws=30).set_index("task")
    good, bad = found.loc["reviews"], found.loc["headlines"]
    assert good["sparse"] > 0.8 and good["kept"] == 1 and good["low"] < good["kept"] <= good["high"]
    assert 0.8 < good["within"] < 1 and good["above"] == 0 and good["lost"] < good["bound"] <= 2
    assert bad["sparse"] == 0 and np.isnan(bad["kept"]) and bad["rows"] == 1500
    assert kept(runs, draws=30).equals(kept(runs, draws=30))
    nothing = kept(records({GOOD: 0.0}, dense=0.5), draws=10)
    assert nothing["sparse"].tolist() == [0.0], "dense attention has learned nothing"


@pytest.mark.parametrize("grid", GRIDS, ids=lambda path: path.stem)
def test_the_grids_of_the_pool_have_plans_that_a_search_tries(grid):
    configs = load_grid(grid)
    paired = configs[0].task in ("headlines", "glue/mrpc+test", "glue/qnli+test")
    tried = {one for length in range(16, configs[0].max_length + 1) for one in candidates(paired, length)}
    plans = [Candidate(one.plan, one.degrees and one.degrees.target_density) for one in configs]
    assert plans[0] == DENSE and set(plans) <= tried | {DENSE}
    assert {one.seed for one in configs} in (set(range(20, 26)), set(range(20, 28)))
    assert [one.seed for one in configs] == sorted(one.seed for one in configs), "seed by seed"


# ---- whole searches


@pytest.fixture(scope="module")
def script():
    """The module of the script that makes whole searches."""
    return study("whole_runs")


def whole(script, folder: Path, task: str, fake: Fake):
    request = Request.checked(task=task, encoder="tiny", max_loss=3.0, budget=3000.0, max_length=32)
    folders = Folders.named(runs=folder / "runs")
    return script.whole_run(
        request, folder / "whole", folders, fake.run, measure=no_measure, clock=fake.clock
    )


def test_a_whole_search_is_judged_on_rows_and_seeds_that_it_never_saw(script, large, tmp_path):
    fake = Fake(LOST)
    record = whole(script, tmp_path, large, fake)
    assert record["request"]["task"] == large and record["plan"] != "dense" and record["bound"] <= 3
    assert record["low"] < record["lost"] < record["high"]
    assert record["seeds"] == 3 and record["rows"] == 450
    fresh = [made.config for made in fake.made.values() if made.config.task.endswith("test.jsonl")]
    others = [made.config for made in fake.made.values() if made.config not in fresh]
    assert len(fresh) == 6 and not {one.seed for one in fresh} & {one.seed for one in others}
    assert {one.train_size for one in fresh} == {one.train_size for one in others if one.seed == 2}
    texts = {name: set((tmp_path / "whole" / f"{name}.jsonl").read_text().splitlines()) for name in PARTS}
    assert [len(texts[name]) for name in PARTS] == [3600, 450, 450]
    assert len(set.union(*texts.values())) == 4500
    count = len(fake.made)
    assert whole(script, tmp_path, large, fake) == record and len(fake.made) == count


def test_a_whole_search_that_recommends_dense_attention_promises_nothing(script, large, tmp_path):
    record = whole(script, tmp_path, large, Fake({"(": 15.0, "learned": 15.0}))
    assert record["plan"] == "dense" and record["lost"] is None and record["rows"] == 0
    assert record["why"].startswith("No sparse plan can be promised.")


@pytest.mark.parametrize("after", [1, 14])
def test_a_whole_search_goes_on_where_it_was_stopped(script, large, tmp_path, after):
    fake = Fake(LOST)
    fake.stop_after = after
    with pytest.raises(KeyboardInterrupt):
        whole(script, tmp_path, large, fake)
    fake.stop_after = None
    made = set(fake.made)
    assert len(made) == after and whole(script, tmp_path, large, fake)["lost"] is not None
    assert made <= set(fake.made)


def test_the_files_of_a_glue_task_have_its_test_part(script, tmp_path):
    rows = [{"text": f"row {number}", "label": number % 2} for number in range(90)]
    parts = {name: pd.DataFrame(rows[start::3]) for start, name in enumerate(("train", "validation", "test"))}
    parts["train"]["text_pair"] = parts["validation"]["text_pair"] = parts["test"]["text_pair"] = "other"
    task = Task("a", "a", ("accuracy",), ("no", "yes"), 16, True, "here", "none", lambda: parts)
    files = script.files_of(task, tmp_path)
    assert json.loads(files[2].read_text().splitlines()[0]) == {
        "text": "row 2",
        "text_pair": "other",
        "label": "no",
    }
    again = get_task(f"file:{files[0]},{files[2]}").load()
    assert again["validation"]["text"] == list(parts["test"]["text"])
    assert again["train"]["label"] == list(parts["train"]["label"])
    assert script.with_test("imdb", Folders.named()).name == "imdb+test"
    assert script.with_test("reviews", Folders.named()).name == "reviews"
