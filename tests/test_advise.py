"""Advice: what is in the data, a search within a budget, the promise, and what is saved."""

from __future__ import annotations

import json
import re
import shlex
import zlib
from pathlib import Path

import click
import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from test_runs import record_of

from sparsebert.advise import savings, searching
from sparsebert.advise.advising import Advice, advise
from sparsebert.advise.data_findings import check, look
from sparsebert.advise.halving import Judged, candidates, finalists, survivors
from sparsebert.advise.promising import in_order, upper_bound
from sparsebert.advise.search_log import DENSE, LOG, Candidate, Log, Request
from sparsebert.chapters.reports import write_report
from sparsebert.cli import advising, main
from sparsebert.cli.options import RunCommand
from sparsebert.data.rows import Rows
from sparsebert.data.tasks import get_task
from sparsebert.data.tasks.metrics import score
from sparsebert.errors import InputError
from sparsebert.study.intervals import Mean, over_seeds_and_rows
from sparsebert.study.losses import gain, loss, points
from sparsebert.training.predictions import Predictions, metrics_of
from sparsebert.training.runs import RunConfig, RunStore

ROWS = 4500  # of which 900 are held out, 600 of them to confirm


def part(name: str, count: int, accuracy: float, luck: int, shift: float = 0.0) -> Predictions:
    """Predictions of which a row is right if it is easy enough, and two in a hundred differ by luck."""
    rows = Rows(np.full(count, 2), {"input_ids": np.arange(2 * count)}, [row % 2 for row in range(count)])
    easy = np.random.default_rng(zlib.crc32(name.encode())).permutation(count) / count
    right = (easy < accuracy + shift) ^ (np.random.default_rng(luck).random(count) < 0.02)
    labels = np.arange(count) % 2
    return Predictions.of(rows, np.eye(2)[np.where(right, labels, 1 - labels)], 2)


class Fake:
    """Runs that take time by the `clock` alone; `lost` has what plans truly lose, by a part of their text."""

    densities = (("dense", 1.0), ("learned", 0.2), ("@ late", 0.6), ("neighbour", 0.3), ("global", 0.1))

    def __init__(
        self,
        lost: dict[str, float],
        pace: float = 100.0,
        dense: float = 0.88,
        shift=lambda *_: 0.0,
        part=part,
    ):
        self.lost, self.pace, self.dense, self.shift, self.part = lost, pace, dense, shift, part
        self.now, self.made, self.stop_after = 0.0, {}, None
        self.kept: list[str] = []

    def clock(self) -> float:
        return self.now

    def run(self, config: RunConfig, save_to: Path | None):
        if save_to:
            self.kept.append(save_to.name)
        if config.name not in self.made:
            if self.stop_after == len(self.made):
                self.now += 3
                raise KeyboardInterrupt
            self.made[config.name] = self.record(config)
        return self.made[config.name]

    def record(self, config: RunConfig):
        sizes = get_task(config.task).sizes
        train = min(config.train_size or ROWS, sizes["train"])
        evaluated = {p: min(config.eval_size or ROWS, sizes[p]) for p in sizes if p != "train"}
        lost = next((points for text, points in self.lost.items() if text in config.plan), 0.0)
        learned = 1 - np.exp(-train / 400)  # accuracy grows with rows, and so does what is lost
        accuracy = 0.5 + (self.dense - 0.5 - lost / 100 * (config.plan != "dense")) * learned
        pace = self.pace / (1.5 if "learned" in config.plan else 1)
        took = {
            "prepare": 1.0,
            "train": config.epochs * train / pace,
            "evaluate": evaluated["validation"] / pace / 3,
        }
        told = config.model_dump(exclude={"task"})  # whose path differs with each call of the tests
        self.now += sum(took.values()) + evaluated.get("test", 0) / pace / 3
        found = {
            p: self.part(
                p, count, accuracy, zlib.crc32(f"{p} {train} {told}".encode()), self.shift(p, config)
            )
            for p, count in evaluated.items()
        }
        density = next(density for text, density in self.densities if text in config.plan)
        return record_of(
            config,
            metrics=metrics_of(found, get_task(config.task).metrics[:1]),
            predictions=found,
            density=density,
            train_rows=train,
            eval_rows=evaluated["validation"],
            seconds=took,
            examples_per_second={"train": pace, "evaluate": 3 * pace},
        )


def no_measure(plan, encoder, lengths, left):
    measured = {"batch": 1, "over_dense": 0.9, "saves": True}
    return pd.DataFrame([{"length": length} | measured for length in lengths])


def asked(task: str, **fields: object) -> Request:
    return Request.checked(**{"task": task, "encoder": "tiny", "max_loss": 3.0, "budget": 1500} | fields)


def advice_of(fake: Fake, request: Request, folder: Path) -> Advice:
    return advise(request, folder, run=fake.run, measure=no_measure, clock=fake.clock)


LOST = {
    "neighbour(2) | global(cls) @ late": 0.0,
    "@ late": 1.0,
    "neighbour": 1.0,
    "learned": 4.0,
    "global": 12.0,
}


# ---- confirmation rows


def test_a_task_with_confirm_behind_its_name_holds_rows_out(large):
    base, task = get_task(large), get_task(f"{large}+confirm")
    assert task is get_task(large).confirmed and "test" not in base.sizes
    assert task.sizes == {"train": 3600, "validation": 300, "test": 600}
    assert task.data_hash != base.data_hash
    texts = {name: set(rows["text"]) for name, rows in task.load().items()}
    assert not texts["validation"] & texts["test"]
    assert texts["validation"] | texts["test"] == set(base.load()["validation"]["text"])
    assert task.confirmed.load()["test"]["text"] == task.load()["test"]["text"], "a test part is kept"


def test_confirm_behind_an_unknown_name_and_of_too_few_rows(tmp_path):
    with pytest.raises(InputError, match="unknown task 'revews': did you mean 'reviews'"):
        get_task("revews+confirm")
    (tmp_path / "train.csv").write_text("text,label\na,0\nb,1\n")
    (tmp_path / "one.csv").write_text("text,label\nc,1\n")
    with pytest.raises(InputError, match="has too few different evaluation rows to hold some out"):
        get_task(f"file:{tmp_path / 'train.csv'},{tmp_path / 'one.csv'}+confirm").load()


# ---- looking


def found_in(
    tmp_path, rows: list[tuple[str, str]], evaluated: list[tuple[str, str]] | None = None, **asked_for
):
    names = []
    for name, them in (("train", rows), ("validation", evaluated)):
        if them:
            path = tmp_path / f"{name}.csv"
            path.write_text("text,label\n" + "".join(f"{text},{label}\n" for text, label in them))
            names.append(str(path))
    findings = look(get_task(f"file:{','.join(names)}").confirmed, "tiny", **{"max_loss": 2.0} | asked_for)
    return {finding.kind: finding for finding in findings}


def texts(count: int, start: int = 0) -> list[tuple[str, str]]:
    return [(f"these are words number {n}", "ab"[n % 2]) for n in range(start, start + count)]


def test_sound_data_has_facts_and_no_warnings(tmp_path):
    found = found_in(tmp_path, texts(600), texts(9000, 600))
    assert list(found) == ["rows", "classes", "lengths"]
    assert {finding.severity for finding in found.values()} == {"tells"}
    said = "There are 600 rows to train on, 3,000 to choose by, and 6,000 to confirm on."
    assert found["rows"].sentence == said
    assert "'a', has 50% of the training rows, and the smallest has 300 rows" in found["classes"].sentence
    assert (
        6 < found["lengths"].value < 20 and "0.0% of them are cut at 512 tokens" in found["lengths"].sentence
    )


LETTERS = [(chr(97 + n % 26), "ab"[n % 2]) for n in range(900)]


@pytest.mark.parametrize(
    ("kind", "severity", "said", "rows", "evaluated"),
    [
        ("too few rows", "stops", "4 confirmation rows can't show that at most 2 points", texts(30), None),
        ("few rows", "warns", r"166 confirmation rows will hardly show .*takes about \d\d\d, as in a file of",
         texts(600), texts(250, 900)),
        ("labels alike", "warns", "labels 'Pos' and 'pos' differ in case or blanks alone",
         [(text, "Pos" if n % 3 else " pos ") for n, (text, _) in enumerate(texts(900))], None),
        ("one class", "stops", "Every confirmation row has the label 'a'", texts(900),
         [(f"row {n}", "a") for n in range(900)]),
        ("labels all different", "stops", "900 training rows have 900 different labels, nearly one each",
         [(f"row {n}", f"id{n}") for n in range(900)], [(f"other {n}", f"id{n}") for n in range(900)]),
        ("classes", "warns", "always answering 'a' is right as often",
         [(text, "a" if n % 20 else "b") for n, (text, _) in enumerate(texts(900))], texts(900, 900)),
        ("one token", "stops", "of the texts have one token, where attention", LETTERS, LETTERS),
        ("one token", "warns", r"5\.\d% of the texts have one token",
         [*texts(900), *[("a", "a")] * 100], texts(900, 900)),
        ("duplicates", "warns", "100 of the 1,000 training rows repeat an earlier one",
         [*texts(900), *texts(100)], texts(900, 900)),
        ("several labels", "warns", "50 texts have several labels each",
         [*texts(900), *[(text, "a") for text, _ in texts(100)]], texts(900, 900)),
        ("leakage", "warns", "90 of the 990 evaluation rows have a text of the training rows",
         texts(900), texts(990, 810)),
        ("leakage", "stops", "500 of the 900 evaluation rows have a text of the training rows",
         texts(900), texts(900, 400)),
    ],
)  # fmt: skip
def test_what_is_wrong_with_data_has_its_sentence(tmp_path, kind, severity, said, rows, evaluated):
    found = found_in(tmp_path, rows, evaluated)[kind]
    assert found.severity == severity
    assert re.search(said, found.sentence)
    if severity == "stops":
        with pytest.raises(InputError, match=said):
            check([found])
    else:
        check([found])


def test_a_file_whose_labels_are_all_different_says_so(tmp_path):
    with pytest.raises(InputError, match="every row has a label of its own, as an id has"):
        found_in(tmp_path, [(f"row {n}", f"id{n}") for n in range(30)])


def test_texts_that_are_cut_and_letters_that_differ_in_case_alone(tmp_path):
    rows = [(f"Word {n}", label) for n, (_, label) in enumerate(texts(900))]
    found = found_in(tmp_path, rows, [(text.lower(), label) for text, label in rows], max_length=4)
    assert found["leakage"].severity == "stops" and found["lengths"].severity == "warns"
    assert found["lengths"].value == 4


def test_a_file_with_the_rows_that_were_asked_for_is_taken(tmp_path):
    for label in ("ab", "abc", ("0.5", "1.5")):
        few, enough = ([(text, label[n % len(label)]) for n, (text, _) in enumerate(texts(rows))]
                       for rows in (30, 1200))  # fmt: skip
        said = found_in(tmp_path, few)["too few rows"].sentence
        assert "150 are needed; give a file of about 1,200 labelled rows, or" in said
        assert "too few rows" not in found_in(tmp_path, enough)


def test_numbers_to_predict_have_a_range(tmp_path):
    found = found_in(tmp_path, [(f"row {n}", f"{n / 4:.2f}") for n in range(400)])
    assert found["labels"].sentence == "The labels are numbers from 0 to 99.75."


# ---- what is lost


def test_points_of_rows_add_up_to_the_score_and_to_its_derivative():
    labels, predicted = np.random.default_rng(0).normal(size=(2, 50)).astype(np.float32)
    rows = Rows(np.full(50, 2), {"input_ids": np.arange(100)}, list(labels))
    record = record_of(
        RunConfig(),
        metrics={"pearson": 0.1},
        predictions={"test": Predictions.of(rows, predicted[:, None], 0)},
    )
    own = points(record, "test")
    whole = 100 * score(["pearson"], predicted, labels)["pearson"]
    assert own.mean() == pytest.approx(whole)
    for row in range(3):  # a row's points are what the score grows by, if the row counts a little more
        count = np.ones(50)
        count[row] += 1e-4
        means = [np.average(values, weights=count) for values in (labels, predicted)]
        x, y = labels - means[0], predicted - means[1]
        weighted = (count * x * y).sum() / np.sqrt((count * x * x).sum() * (count * y * y).sum())
        growth = (100 * weighted - whole) / (1e-4 / (50 + 1e-4))
        assert own[row] - whole == pytest.approx(growth, abs=0.05)
    assert gain(record, "test").value == pytest.approx(whole)
    options = record.predictions["test"].in_pipeline("pearson")[1]
    assert options == 'truncation=True, function_to_apply="none"', "a number is no probability"


def test_a_loss_is_paired_by_seed_and_needs_predictions():
    def record(plan, seed, accuracy):
        return record_of(
            RunConfig(plan=plan, seed=seed), predictions={"test": part("test", 400, accuracy, seed)}
        )

    dense = [record("dense", seed, 0.9) for seed in (0, 1)]
    sparse = [record("global(cls)", seed, 0.8 - seed / 100) for seed in (2, 1, 0)]
    assert loss(dense, sparse, "test").value == pytest.approx(10.5, abs=1.5)
    assert loss(dense, sparse[:2], "test").freedom == 399, "one seed: over rows alone"
    with pytest.raises(InputError, match="a dense and a sparse run of one seed"):
        loss(dense, sparse[:1], "test")
    with pytest.raises(InputError, match="has no predictions of its part 'validation'; make it again"):
        loss(dense, sparse, "validation")


# ---- the promise


def simulated(random, truth: float, seeds: int = 3, rows: int = 400) -> np.ndarray:
    """Differences in points over seeds and rows, whose mean over all that could be drawn is `truth`."""
    hard = random.choice([-100, 0, 100], size=rows, p=[0.03, 0.94, 0.03])
    luck = random.choice([-100, 0, 100], size=(seeds, rows), p=[0.04, 0.92, 0.04])
    return truth + hard + luck + random.normal(0, 0.7, size=(seeds, 1))


def test_the_bound_is_kept_in_95_of_100_draws():
    random, truth = np.random.default_rng(0), 1.3
    bounds = [upper_bound(over_seeds_and_rows(simulated(random, truth)), 400) for _ in range(400)]
    assert np.mean(np.array(bounds) < truth) <= 0.05 + 1.65 * (0.05 * 0.95 / 400) ** 0.5


def test_a_bound_of_rows_that_never_differ_is_not_zero():
    assert upper_bound(over_seeds_and_rows(np.zeros((3, 300))), 300) == pytest.approx(1.0)


def finals(*accuracies: float, seeds: int = 3, count: int = 2000):
    """Runs of plans, the first of them dense, with the accuracies that are given."""
    plans = ("dense", *(f"neighbour({n}) | global(cls)" for n in range(len(accuracies) - 1)))
    return [
        [
            record_of(
                RunConfig(plan=plan, seed=seed),
                predictions={"test": part("test", count, accuracy, zlib.crc32(f"{plan}{seed}".encode()))},
            )
            for seed in range(seeds)
        ]
        for plan, accuracy in zip(plans, accuracies, strict=True)
    ]


def test_plans_are_tested_in_their_order_up_to_the_first_that_fails():
    dense, good, bad, late = finals(0.9, 0.9, 0.8, 0.9)
    found = in_order(dense, {"good": good, "bad": bad, "late": late}, max_loss=2.0)
    assert [promise.held for promise in found] == [True, False, None]
    assert found[0].bound <= 2.0 < found[1].loss.value < found[1].bound
    assert "more rows would not change that" in found[1].needed(2.0)


def test_a_promise_needs_three_seeds_and_says_what_it_needs_else():
    dense, plan = finals(0.9, 0.9, seeds=2)
    (promise,) = in_order(dense, {"plan": plan}, 2.0)
    assert promise.held is None and np.isnan(promise.bound)
    dense, plan = finals(0.9, 0.9, count=150)
    (promise,) = in_order(dense, {"plan": plan}, 2.0)
    said = "450 confirmation rows would be needed. 450 confirmation rows take a file of about 3,400 labelled"
    assert promise.held is False and said in promise.needed(2.0)


# ---- choices


def judged(plan: str, lost: float, density: float, error: float = 0.5) -> Judged:
    mean = Mean(lost, error, 300)
    return Judged(Candidate(plan), mean, mean.chance(1.0), density)


def test_the_safest_goes_on_and_finalists_are_the_safer_and_the_sparser():
    safe, good, bold = judged("safe", -0.5, 0.8), judged("good", 0.3, 0.4), judged("bold", 2.0, 0.1)
    ranking = sorted([safe, good, bold], key=lambda one: -one.expected_saving)
    assert ranking[0] is good
    assert survivors(ranking, 1) == [safe] and survivors(ranking, 2) == [good, safe]
    assert finalists(ranking) == [safe, good]
    assert finalists([good, bold]) == [good, bold], "the safest is the best: a sparser one follows"
    assert finalists([bold]) == [bold]


@pytest.mark.parametrize("paired", [False, True])
def test_candidates_are_different_plans_that_configs_take(paired):
    found = candidates(paired, 512)
    assert len(set(found)) == len(found)
    assert any("copies" in one.plan for one in found) == paired
    assert {one.plan.count("neighbour(128)") for one in found} == {0, 1}
    configs = {Request(task="reviews").config(one, 0, 1000).name for one in (DENSE, *found)}
    assert len(configs) == len(found) + 1
    assert candidates(False, 5)[0].plan == "neighbour(2) | global(cls) @ late"


# ---- the search


def test_a_search_recommends_the_plan_that_loses_nothing(large, tmp_path):
    fake = Fake(LOST | {"global(cls) @ late": 9.0, "neighbour(2) | global(cls) @ late": 0.0})
    fake.lost = {"neighbour(2) | global(cls) @ late": 0.0} | fake.lost
    advice = advice_of(fake, asked(large), tmp_path)
    assert advice.promises[0].held, advice.why
    assert "With 95 % confidence it loses at most" in advice.why and advice.gained.value > 30
    assert advice.recommended.task == f"{large}+confirm" and advice.recommended.plan != "dense"
    assert advice.recommended.name in fake.kept and fake.kept.count(advice.recommended.name) == 2
    assert set(advice.curve["rung"]) >= {"first", "final"}
    assert (advice.curve["low"] <= advice.curve["high"]).all()
    code = advice.lines(tmp_path)
    assert len(code.splitlines()) == 3 and advice.recommended.name in code
    compile(code, "lines", "exec")


@pytest.mark.parametrize(
    ("saves", "said"),
    [
        ([False, False], "Stay with dense attention: at 128 and 512 tokens nothing is saved by `PLAN`"),
        ([False, True], "At 128 tokens nothing is saved, so stay with dense attention there. At 512 "),
        ([True, True], "At 128 and 512 tokens use `PLAN`, which keeps "),
    ],
)
def test_an_answer_says_at_which_lengths_the_plan_saves(large, tmp_path, saves, said):
    def measure(plan, encoder, lengths, left):
        return pd.DataFrame({"length": lengths, "saves": saves})

    fake = Fake(LOST)
    advice = advise(asked(large), tmp_path, run=fake.run, measure=measure, clock=fake.clock)
    assert advice.answer.startswith(said.replace("PLAN", advice.held.plan))
    assert "connections. With 95 % confidence it loses at most" in advice.answer
    assert ("Loss and density are those of the task's texts" in advice.answer) == any(saves)  # of few tokens
    assert (advice.recommended.plan != "dense") == any(saves)
    assert fake.kept[-1] == advice.recommended.name


@pytest.mark.parametrize("budget", [300, 700, 1500, 6000])
@pytest.mark.parametrize("pace", [30.0, 100.0])
def test_a_search_ends_in_time(large, tmp_path, budget, pace):
    fake = Fake(LOST, pace)
    advice = advice_of(fake, asked(large, budget=budget), tmp_path)
    assert fake.now <= 1.1 * budget
    if advice.promises:
        assert advice.promises[0].seeds >= 3
    else:
        assert advice.why.startswith(TOO_SHORT)


TOO_SHORT = "The budget is too short to promise anything; give at least "


def test_a_budget_that_is_too_short_says_how_much_is_needed(large, tmp_path):
    advice = advice_of(Fake(LOST, pace=20.0), asked(large, budget=120), tmp_path)
    assert advice.why.startswith(TOO_SHORT)
    assert advice.recommended is None and advice.promises == [] and advice.curve.empty


@pytest.mark.parametrize(("stage", "slow"), [("first", lambda c: c.seed == 0 and c.plan != "dense"),
                                             ("final", lambda c: c.seed == 3)])  # fmt: skip
def test_runs_that_take_longer_than_expected_leave_a_budget_too_short(large, tmp_path, stage, slow):
    fake = Fake(LOST)

    def run(config, save_to):
        record = fake.run(config, save_to)
        fake.now += 700 * slow(config)
        return record

    advice = advise(asked(large), tmp_path, run=run, measure=no_measure, clock=fake.clock)
    minutes = int(advice.why.removeprefix(TOO_SHORT).removesuffix(" min."))
    assert minutes > 25, "more than was given"
    assert Log.read(tmp_path).rungs[-1].name == {"first": "second", "final": "final"}[stage]


def test_without_anything_to_lose_the_search_ends_after_the_baseline(large, tmp_path):
    fake = Fake(LOST, dense=0.5)
    advice = advice_of(fake, asked(large), tmp_path)
    assert "nothing to lose yet" in advice.why and len(fake.made) == 3
    assert advice.recommended.plan == "dense" and advice.savings.empty


def slow_learner(rows: int) -> Fake:
    """Dense attention learns nothing from fewer rows."""
    few = lambda config: (config.train_size or ROWS) < rows  # noqa: E731
    return Fake(LOST, pace=20.0, shift=lambda part, config: -0.4 * few(config))


def baseline_rows(folder: Path) -> int:
    return Log.read(folder).rung("baseline").rows


def test_a_baseline_that_learned_nothing_gets_more_rows_where_there_is_time(large, tmp_path):
    advice_of(slow_learner(0), asked(large), tmp_path / "plain")
    rows = baseline_rows(tmp_path / "plain")
    fake = slow_learner(round(1.4 * rows))
    advice = advice_of(fake, asked(large), tmp_path / "more")
    log = Log.read(tmp_path / "more")
    assert [rung.name for rung in log.rungs[2:]] == ["baseline", "first", "second", "final"]
    assert baseline_rows(tmp_path / "more") >= 1.4 * rows and advice.promises
    assert fake.now <= 1.1 * log.request.budget
    assert len(fake.made) == len(log.runs) + 1, "the first baseline is no part of the search"
    assert [str(one) for one in log.rung("final").candidates] == [
        "dense",
        "neighbour(2) | global(cls) @ late",
    ], "without time to choose, the plan that is often good"
    assert advice.tried.startswith(
        "There was no time to choose, so one plan that is often good was taken; 1 "
    )


def test_a_search_with_a_larger_baseline_goes_on_and_is_read_again(large, tmp_path):
    advice_of(slow_learner(0), asked(large), tmp_path / "plain")
    needed = round(1.4 * baseline_rows(tmp_path / "plain"))
    whole = advice_of(slow_learner(needed), asked(large), tmp_path / "whole")
    for after in (3, 4):
        fake, folder = slow_learner(needed), tmp_path / str(after)
        fake.stop_after = after
        with pytest.raises(KeyboardInterrupt):
            advice_of(fake, asked(large), folder)
        fake.stop_after = None
        assert advice_of(fake, asked(large), folder).promises
        assert baseline_rows(folder) == pytest.approx(baseline_rows(tmp_path / "whole"), rel=0.05)
    fake = slow_learner(needed)
    assert advice_of(fake, asked(large), tmp_path / "whole").why == whole.why


def test_where_every_plan_loses_too_much_dense_attention_is_recommended(large, tmp_path):
    advice = advice_of(Fake({"(": 15.0, "learned": 15.0}), asked(large), tmp_path)
    assert advice.recommended.plan == "dense"
    assert advice.why.startswith("No sparse plan can be promised. ") and "allow a larger loss" in advice.why
    assert len(advice.savings) == 2, "what the first finalist would save"


def test_choices_see_the_choosing_rows_and_promises_the_others(large, tmp_path):
    """Worse confirmation rows change no choice; worse choosing rows of the finals change no promise."""
    plain, request = Fake(LOST), asked(large)
    advice = advice_of(plain, request, tmp_path / "plain")
    worse = Fake(LOST, shift=lambda p, config: -0.2 * (p == "test" and config.plan != "dense"))
    other = advice_of(worse, request, tmp_path / "worse")
    logs = [Log.read(tmp_path / name) for name in ("plain", "worse")]
    assert logs[0].rungs == logs[1].rungs and logs[0].runs == logs[1].runs
    assert advice.promises[0].held and not other.promises[0].held and other.recommended.plan == "dense"
    lucky = Fake(LOST, shift=lambda p, config: 0.1 * (p == "validation" and config.seed > 1))
    assert advice_of(lucky, request, tmp_path / "lucky").promises == advice.promises


def test_seeds_of_the_final_chose_nothing(large, tmp_path):
    advice_of(Fake(LOST), asked(large), tmp_path)
    log = Log.read(tmp_path)
    chose = {seed for name in ("first", "second") for seed in log.rung(name).seeds}
    assert len(log.rung("final").seeds) >= 3 and not chose & set(log.rung("final").seeds)


def told(advice: Advice) -> list:
    """All that an advice says, without the time it took."""
    saved, curve = (frame.to_dict("list") for frame in (advice.savings, advice.curve))
    return [advice.why, advice.promises, advice.recommended, advice.log.findings, advice.gained, saved, curve]


@pytest.mark.parametrize("after", [0, 1, 4, 12])
def test_a_search_that_was_interrupted_goes_on(large, tmp_path, after):
    whole = advice_of(Fake(LOST), asked(large, budget=3000), tmp_path / "whole")
    fake = Fake(LOST)
    fake.stop_after = after
    with pytest.raises(KeyboardInterrupt):
        advice_of(fake, asked(large, budget=3000), tmp_path / "cut")
    fake.stop_after = None
    made = set(fake.made)
    assert told(advice_of(fake, asked(large, budget=3000), tmp_path / "cut")) == told(whole)
    assert len(made) == after and fake.now <= 3000


@pytest.mark.parametrize(("budget", "longer"), [(300, 1500), (700, 760), (1500, 3000)])
def test_a_longer_budget_goes_on_with_a_search(large, tmp_path, budget, longer):
    fake = Fake(LOST)
    before, made = advice_of(fake, asked(large, budget=budget), tmp_path), set(fake.made)
    after = advice_of(fake, asked(large, budget=longer), tmp_path)
    assert made < set(fake.made) and fake.now <= longer
    assert len(after.final.get("dense", [])) > len(before.final.get("dense", []))
    assert f"This search went on from one of {budget / 60:.0f} min." in after.why
    assert told(advice_of(fake, asked(large, budget=longer), tmp_path)) == told(after)


def test_other_lengths_are_measured_without_another_search(large, tmp_path):
    fake = Fake(LOST)
    before, made = advice_of(fake, asked(large), tmp_path), len(fake.made)
    after = advice_of(fake, asked(large, lengths=(64,)), tmp_path)
    assert list(after.savings["length"]) == [64] and len(fake.made) == made
    assert after.promises == before.promises and after.why == before.why


def test_a_finished_search_is_replayed_from_its_log_and_records(large, tmp_path):
    fake = Fake(LOST)
    advice = advice_of(fake, asked(large), tmp_path)
    made, took = list(fake.made.values()), fake.now
    assert told(Advice.of(Log.read(tmp_path), made[::-1])) == told(advice)
    assert told(advice_of(fake, asked(large), tmp_path)) == told(advice) and fake.now == took
    with pytest.raises(InputError, match=r"the record of run [0-9a-f]{16} is missing"):
        Advice.of(Log.read(tmp_path), made[1:])


def test_a_plan_that_cannot_be_trained_is_left_out(large, tmp_path):
    fake = Fake(LOST)

    def run(config, save_to):
        if "learned" in config.plan:
            raise InputError("training diverged")
        return fake.run(config, save_to)

    advise(asked(large), tmp_path, run=run, measure=no_measure, clock=fake.clock)
    log = Log.read(tmp_path)
    assert log.left_out and log.rung("final") and log.ended is None


def test_a_plan_that_fails_with_one_seed_is_not_promised_for_the_others(large, tmp_path):
    fake = Fake(LOST)

    def run(config, save_to):
        if "@ late" in config.plan and config.seed == 3:  # of the final, and neither its first nor its last
            raise InputError("training diverged")
        return fake.run(config, save_to)

    advice = advise(asked(large), tmp_path, run=run, measure=no_measure, clock=fake.clock)
    late = [promise for promise in advice.promises if "@ late" in promise.plan]
    assert late and not any(promise.held for promise in late) and late[0].seeds == 0


def test_plans_of_which_one_alone_can_be_trained_are_no_want_of_time(large, tmp_path):
    fake = Fake(LOST)

    def run(config, save_to):
        if config.plan not in ("dense", "neighbour(2) | global(cls) @ late"):
            raise InputError("training diverged")
        return fake.run(config, save_to)

    advice = advise(asked(large), tmp_path, run=run, measure=no_measure, clock=fake.clock)
    assert advice.tried.startswith("1 sparse plan was tried with ")


def test_a_folder_holds_one_search(large, tmp_path):
    advice_of(Fake(LOST), asked(large, budget=120), tmp_path)
    with pytest.raises(InputError, match=r"\(budget was 120.0, is 119.0\); give a new folder or a longer"):
        advice_of(Fake(LOST), asked(large, budget=119), tmp_path)
    with pytest.raises(InputError, match=r"\(max_loss was 3.0, is 2.0\); give a new folder$"):
        advice_of(Fake(LOST), asked(large, budget=120, max_loss=2), tmp_path)
    path = tmp_path / LOG
    path.write_text(json.dumps(json.loads(path.read_text()) | {"data_hash": "0"}))
    with pytest.raises(InputError, match="the data changed since the search"):
        advice_of(Fake(LOST), asked(large, budget=120), tmp_path)
    path.write_text("{")
    with pytest.raises(InputError, match=r"the log of the search .* cannot be read"):
        advice_of(Fake(LOST), asked(large), tmp_path)


def test_a_folder_with_other_files_is_left_alone(large, tmp_path):
    (tmp_path / "html").mkdir()
    with pytest.raises(InputError, match="holds files and no search; give a new folder"):
        advice_of(Fake(LOST), asked(large), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["html"]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"epochs": 0}, "epochs: input should be greater than 0"),
        ({"max_loss": 0}, "max_loss: input should be greater than 0"),
        ({"budget": -1}, "budget: input should be greater than 0"),
        ({"lengths": ()}, "lengths: write numbers of tokens from 4 to 8192"),
        ({"lengths": (1,)}, "lengths: write numbers of tokens from 4 to 8192"),
        ({"encoder": "minilmm"}, "did you mean 'minilm'"),
        ({"epochs": 1000}, "epochs=1000"),
        ({"bugdet": 5}, "bugdet: extra inputs are not permitted"),
    ],
)
def test_a_request_that_cannot_be(fields, said):
    with pytest.raises(InputError, match=said):
        Request.checked(**{"task": "reviews"} | fields)


# ---- savings


def test_where_nothing_is_saved_is_said_first():
    row = {
        "length": 2048,
        "batch": 1,
        "over_dense": 0.5,
        "dense_memory": 100.0,
        "memory": 60.0,
        "saves": True,
    }
    frame = pd.DataFrame(
        [row, row | {"length": 128, "batch": 64, "over_dense": 1.02, "memory": 110.0, "saves": False}]
    )
    assert savings.in_words(frame) == [
        "At 128 tokens, 64 texts at a time, no time is saved: it is 1.02 times dense attention's; "
        "memory is 10% more.",
        "At 2,048 tokens, one text at a time, a text takes 50% less time; memory is 40% less.",
    ]
    unsure = pd.DataFrame([row | {"over_dense": 0.8, "saves": False, "spread": 1.5}])
    assert (
        "no saving is sure: it is 0.80 times dense attention's, and the rounds differ by 150%"
        in (savings.in_words(unsure)[0])
    )
    nothing = row | {"over_dense": np.nan, "dense_memory": np.nan, "left_out": "dense attention could not"}
    assert savings.in_words(pd.DataFrame([nothing])) == [
        "At 2,048 tokens, one text at a time, dense attention could not."
    ]
    assert savings.in_words(frame[:0]) == ["No time was left to measure what is saved; give a longer budget."]


def test_single_texts_and_batches_are_measured_while_there_is_time(monkeypatch):
    monkeypatch.setattr(savings, "BATCH_TOKENS", 128)
    found = savings.measure("neighbour(1) | global(cls)", "tiny", [32, 16], rounds=1)
    assert found[["length", "batch"]].values.tolist() == [[16, 1], [32, 1], [16, 8], [32, 4]]
    assert (found[["dense_seconds", "seconds", "over_dense", "memory"]] > 0).all(axis=None)
    assert len(savings.measure("global(cls)", "tiny", [16], left=lambda: 1e-9, rounds=1)) == 1
    assert savings.measure("global(cls)", "tiny", [16], left=lambda: -1.0).empty


def test_where_dense_attention_does_not_fit_that_is_said_and_the_plan_is_used(large, tmp_path, monkeypatch):
    measured = savings.model_rows

    def no_memory(plan, lengths, **options):
        dense, sparse = measured(plan, lengths, **options)
        dense |= {"left_out": "it doesn't fit into the GPU's memory"}
        dense |= dict.fromkeys(("seconds", "spread", "memory"), np.nan)
        return [row | {"over_dense": np.nan} for row in (dense, sparse)]

    def measure(plan, encoder, lengths, left):
        return savings.measure("global(cls)", "tiny", lengths, rounds=1)

    monkeypatch.setattr(savings, "model_rows", no_memory)
    monkeypatch.setattr(savings, "BATCH_TOKENS", 32)
    fake = Fake(LOST)
    advice = advise(asked(large, lengths=(16,)), tmp_path, run=fake.run, measure=measure, clock=fake.clock)
    why = "dense attention could not be measured: it doesn't fit into the GPU's memory."
    assert advice.saved[0] == f"At 16 tokens, one text at a time, {why}"
    assert advice.answer.startswith("At 16 tokens use ")
    again = Advice.of(Log.read(tmp_path), fake.made.values())
    assert again.saved == advice.saved and np.isnan(again.savings["dense_seconds"]).all()


# ---- a whole one


@pytest.mark.slow
def test_a_whole_search_trains_saves_and_measures(workspace, monkeypatch):
    small = {"LEAST_ROWS": 32, "WARM_UP": (16, 16), "MOST_SEEDS": 3, "NOTHING_LEARNED": 1.1}
    small["candidates"] = lambda *_: candidates(False, 8)[:2]  # enough for all rungs; 5 steps teach nothing
    for name, value in small.items():
        monkeypatch.setattr(searching, name, value)
    rows = [f"a {'fine' if n % 2 else 'poor'} text with number {n},{n % 2}" for n in range(160)]
    Path("rows.csv").write_text("\n".join(["text,label", *rows]) + "\n")
    store, folder = RunStore(workspace / "records"), workspace / "search"
    request = asked("file:rows.csv", budget=120, lengths=(16,), max_length=16, max_loss=20.0)
    advice = advise(request, folder, store=store)
    assert advice.promises[-1].held, advice.why
    assert (advice.recommended.plan != "dense") == advice.savings["saves"].any()  # the plan that is of use
    assert advice.log.spent < 120 and list(advice.savings["batch"]) == [1, 128]
    assert [path.name for path in (folder / "models").iterdir()] == [advice.recommended.name]
    found = {}
    exec(advice.lines(folder), found)
    assert found["classify"]("a fine text")[0]["label"] in ("0", "1")
    assert (
        told(Advice.of(Log.read(folder), store)) == told(advice) == told(advise(request, folder, store=store))
    )
    page = write_report(request.model_dump(mode="json") | {"folder": str(folder)}, folder)
    text = page.read_text(encoding="utf-8")
    assert advice.answer.split("`")[1] in text and advice.recommended.name in text
    assert "Exercises" not in text and "import numpy" not in text
    assert {path.name for path in folder.iterdir()} >= {"html", "models", "report.ipynb", LOG}


# ---- the command


def command(*arguments: object, code: int = 0) -> str:
    result = CliRunner().invoke(main, ["advise", *map(str, arguments)])
    assert result.exit_code == code, result.output
    return result.stderr if code else result.stdout


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "give --task for advice on a task, or --plan for what a plan saves, and not both"),
        (["--task", "reviews", "--plan", "dense"], "and not both"),
        (["--task", "reviews", "--budget", "20"], "--budget 20: write a time with its unit"),
        (["--task", "revews"], "unknown task 'revews': did you mean 'reviews'"),
        (["--task", "reviews", "--max-loss", "0"], "max_loss: input should be greater than 0"),
        (["--task", "reviews", "--lengths", "x"], "--lengths x: 'x' is no length"),
        (["--task", "reviews", "--out", ""], "--out is empty"),
        (["--plan", "neighbor(2)", "--encoder", "tiny"], "unknown pattern 'neighbor'"),
        (["--plan", "global(cls)", "--lengths", "100k"], "lengths: write numbers of tokens from 4 to 8192"),
    ],
)
def test_a_command_that_cannot_be(options, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    error = command(*options, code=2)
    assert said in error and len(error.splitlines()) <= 2
    assert not list(tmp_path.iterdir())


@pytest.fixture
def searched(large, tmp_path, monkeypatch):
    """Calls the command on a search of fake runs, without a report."""
    monkeypatch.setattr("sparsebert.chapters.reports.write_report", lambda parameters, folder: Path(folder))
    monkeypatch.chdir(tmp_path)

    def call(fake: Fake, *options: object):
        def search(request, folder, store, folders):
            return advise(request, folder, run=fake.run, measure=no_measure, clock=fake.clock)

        monkeypatch.setattr("sparsebert.advise.advising.advise", search)
        return CliRunner().invoke(main, ["advise", "--task", large, "--encoder", "tiny", *options])

    return call


def test_a_promise_with_too_few_seeds_is_null_in_json(searched):
    fake = Fake(LOST)

    def run(config, save_to):
        fake.now += 700 * (config.seed == 3)
        return Fake.run(fake, config, save_to)

    fake.run = run
    told = searched(fake, "--max-loss", "3", "--budget", "1500s", "--json").stdout
    promises = json.loads(told, parse_constant=pytest.fail)["promises"]
    assert promises[0]["bound"] is None and promises[0]["loss"]["value"] is None


def test_warnings_about_the_data_stand_before_the_search(searched):
    lines = searched(Fake(LOST), "--max-loss", "1", "--budget", "60s").stderr.splitlines()
    assert lines[0].startswith(
        "warning: 600 confirmation rows will hardly show that at most 1 points are lost"
    )


def test_a_plan_alone_has_its_savings_measured():
    given = "--plan", "global(cls)", "--encoder", "tiny", "--lengths", "16"
    assert [row["batch"] for row in json.loads(command(*given, "--json"))] == [1, 128]
    assert "At 16 tokens, one text at a time" in command(*given)


def test_the_command_that_repeats_a_search_is_understood(large, tmp_path):
    advice = advice_of(Fake(LOST), asked(large, budget=120, lengths=(16, 64)), tmp_path)
    words = advice.command("a folder").split("advise ")[1]
    options = advising.advise.make_context("advise", shlex.split(words)).params
    assert (options["out"], options["budget"], options["lengths"]) == ("a folder", "120s", [16, 64])
    assert (options["task"], options["max_loss"]) == (large, 3.0)


def test_the_command_that_trains_the_plan_on_all_rows_is_understood(large, tmp_path):
    fake = Fake({"learned": 0.0, "(": 9.0}, pace=30.0)
    advice = advice_of(fake, asked(large), tmp_path)
    assert advice.recommended.degrees and "of the 3,600 training rows. This command" in advice.seen
    words, found = shlex.split(advice.on_all_rows(tmp_path)), {}
    save = click.Option(["--save"])
    command = RunCommand("finetune", params=[save], callback=lambda **given: found.update(given))
    command.main(words[2:], standalone_mode=False)
    assert Path(found["save"]).parent == tmp_path
    assert found["config"] == advice.recommended.model_copy(update={"task": large, "train_size": None})
