"""Advice on tasks that label words: what a sentence adds to a score, what is in the data, a search."""

from __future__ import annotations

import json
import re
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from test_advise import LOST, Fake, advice_of, asked
from test_runs import record_of
from test_token_tasks import TAGS, columns, guesses, own, some_rows, words  # noqa: F401

from sparsebert.advise.data_findings import look
from sparsebert.advise.promising import in_order
from sparsebert.data.tasks import get_task
from sparsebert.data.tasks.metrics import METRICS
from sparsebert.errors import InputError
from sparsebert.study.losses import gain, loss, points
from sparsebert.training.finetuning import finetune
from sparsebert.training.predictions import WordPredictions
from sparsebert.training.runs import RunConfig

OUT = TAGS.index("O")


def found(rows) -> WordPredictions:
    return WordPredictions.of(*guesses([[(*word, False) for word in row] for row in rows]), TAGS)


def run_of(predictions, metric="entity_f1", **fields):
    return record_of(RunConfig(**fields), metrics={metric: 0.5}, predictions={"test": predictions})


# ---- what a sentence adds to a score


def score_of(metric, rows):
    """F1 or accuracy of rows of (tag, guess)."""
    labels, predictions = ([[TAGS[word[side]] for word in row] for row in rows] for side in (0, 1))
    if metric == "accuracy":
        labels, predictions = map(np.concatenate, (labels, predictions))
    return METRICS[metric](labels, predictions)


@pytest.mark.parametrize("metric", ["entity_f1", "accuracy"])
@settings(max_examples=25)
@given(some_rows)
def test_points_of_sentences_have_the_score_as_mean_and_its_derivative(metric, given_):
    """A sentence's points are what the score grows by, if that sentence counts a little more."""
    rows = [[word[:2] for word in row] for row in given_]
    whole, added = 100 * score_of(metric, rows), points(run_of(found(rows), metric), "test")
    assert len(added) == len(rows) and added.mean() == pytest.approx(whole)
    for place, row in enumerate(rows[:2]):
        more = 100 * score_of(metric, [*rows * 100, row])
        growth = (more - whole) * (100 * len(rows) + 1)
        assert added[place] - whole == pytest.approx(
            growth, abs=0.02 * max(1, abs(growth)) * len(rows[place])
        )


def test_what_is_gained_is_beyond_the_tag_that_is_most_frequent():
    rows = [[(OUT, OUT), (OUT, OUT), (0, 0)], [(0, 0), (2, 2), (OUT, 1), (OUT, OUT)]]
    assert found(rows).constant.predictions.tolist() == [OUT] * 7
    right = run_of(found(rows), "accuracy")
    assert gain(right, "test").value == pytest.approx(100 * (6 - 4) / 7)
    named = run_of(found(rows))
    assert gain(named, "test").value == pytest.approx(100 * score_of("entity_f1", rows)) == pytest.approx(80)
    nothing = run_of(found([[(tag, OUT) for tag, _ in row] for row in rows]))
    assert gain(nothing, "test").value == 0 and gain(nothing, "test").chance(0.0) == 1


def test_a_loss_knows_that_sentences_are_drawn_and_not_words():
    """Errors that stand in one sentence are less certain than as many of all sentences."""
    right = [[(OUT, OUT)] * 20] * 50
    spread = [[(OUT, 0)] + [(OUT, OUT)] * 19] * 10 + right[10:]
    together = [[(OUT, 0)] * 10 + [(OUT, OUT)] * 10, *right[1:]]
    dense = run_of(found(right), "accuracy")
    lost = [loss([dense], [run_of(found(rows), "accuracy")], "test") for rows in (spread, together)]
    assert [mean.value for mean in lost] == pytest.approx([1.0, 1.0])
    assert lost[1].error > 2 * lost[0].error


def test_a_bound_lies_three_entities_or_words_above_the_mean():
    rows = [[(0, 0), (OUT, OUT)]] * 100 + [[(OUT, OUT)]] * 400
    runs = [run_of(found(rows), seed=seed) for seed in range(3)]
    (promise,) = in_order(runs, {"same": runs}, max_loss=2.0)
    assert (promise.rows, promise.counted) == (500, 100)
    assert promise.bound == pytest.approx(3.0) and promise.held is False
    assert "about 750 confirmation rows" in promise.needed(2.0)
    runs = [run_of(found(rows), "accuracy", seed=seed) for seed in range(3)]
    (promise,) = in_order(runs, {"same": runs}, max_loss=2.0)
    assert (promise.rows, promise.counted) == (500, 600) and promise.bound == pytest.approx(0.5)


# ---- looking


def sentences(count: int, start: int = 0, tags=("B-X", "O", "O")) -> list[list[tuple[str, str]]]:
    return [[(f"w{n}", tags[0]), ("is", tags[1]), ("here", tags[2])] for n in range(start, start + count)]


def found_in(own, train, evaluated, max_loss=2.0):  # noqa: F811
    task = own(columns(train), columns(evaluated)).confirmed
    return {finding.kind: finding for finding in look(task, "tiny", max_loss=max_loss)}


def test_sound_data_has_facts_and_no_warnings(own):  # noqa: F811
    found = found_in(own, [*sentences(599), [("a", "B-Y"), ("b", "I-Y")]], sentences(9000, 600))
    assert list(found) == ["rows", "classes", "lengths"]
    assert {finding.severity for finding in found.values()} == {"tells"}
    assert found["classes"].sentence == (
        "Of 4 tags the largest, 'O', has 67% of the training words, and the smallest has 1 words."
    )
    assert 5 < found["lengths"].value < 20


@pytest.mark.parametrize(
    ("kind", "severity", "said", "rows", "evaluated"),
    [
        ("one class", "stops", "Every confirmation word has the tag 'O'; give words of at least two tags",
         sentences(900), sentences(900, 900, ("O", "O", "O"))),
        ("too few rows", "stops", "99 confirmation entities can't show that at most 2 points",
         sentences(900), sentences(150, 900) + sentences(3000, 1050, ("O", "O", "O"))),
        ("few rows", "warns", r"16\d confirmation entities will hardly show",
         sentences(900), sentences(250, 900)),
        ("classes", "tells", "'O', has 97% of the training words",
         sentences(90) + sentences(810, 90, ("O", "O", "O")), sentences(900, 900)),
        ("classes", "warns", "'V' is right as often",
         sentences(900, 0, ("V", "V", "V")) + sentences(9, 900, ("N", "V", "V")),
         sentences(900, 909, ("N", "V", "V"))),
        ("labels all different", "stops", "2,700 training words have 1,801 different tags, nearly one each",
         [[(f"w{n}", f"T{n}"), ("is", f"U{n}"), ("so", "V")] for n in range(900)],
         [[(f"v{n}", f"T{n}"), ("is", f"U{n}"), ("so", "V")] for n in range(900)]),
        ("one token", "stops", "of the texts have one token",
         [[("a", "N")], [("b", "V")]] * 300, [[(chr(97 + n % 26), "NV"[n % 2])] for n in range(900)]),
        ("duplicates", "warns", "100 of the 1,000 training rows repeat an earlier one",
         sentences(900) + sentences(100), sentences(900, 900)),
        ("several labels", "warns", "50 texts have several labels each",
         sentences(900) + sentences(50, 0, ("O", "B-X", "O")), sentences(900, 900)),
        ("leakage", "stops", "500 of the 900 evaluation rows have a text of the training rows",
         sentences(900), sentences(900, 400)),
    ],
)  # fmt: skip
def test_what_is_wrong_with_tagged_words_has_its_sentence(own, kind, severity, said, rows, evaluated):  # noqa: F811
    found = found_in(own, rows, evaluated)[kind]
    assert found.severity == severity and re.search(said, found.sentence), found.sentence


def test_a_finding_that_stops_ends_the_search(own, tmp_path):  # noqa: F811
    task = own(columns(sentences(900)), columns(sentences(60, 900)))
    with pytest.raises(InputError, match="confirmation entities can't show"):
        advice_of(Fake(LOST), asked(task.name), tmp_path / "search")


# ---- the search


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """The name of a task of many sentences, each with an entity."""
    path = tmp_path_factory.mktemp("words") / "large.jsonl"
    rows = [{"words": [f"w{n}", "x", "is"], "tags": ["B-X", "I-X", "O"]} for n in range(4500)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return f"file:{path}"


def part(name: str, count: int, accuracy: float, luck: int, shift: float = 0.0) -> WordPredictions:
    """Sentences in which the entity is found if it is easy enough, and two in a hundred differ by luck."""
    easy = np.random.default_rng(zlib.crc32(name.encode())).permutation(count) / count
    right = (easy < accuracy + shift) ^ (np.random.default_rng(luck).random(count) < 0.02)
    entity = [[(0, 0), (2, 2), (OUT, OUT)], [(0, OUT), (2, OUT), (OUT, OUT)]]
    return found([entity[0 if it else 1] for it in right])


def test_a_search_on_tagged_words_ends_in_a_model_for_the_pipeline(large, tmp_path, words):  # noqa: F811
    fake = Fake({"neighbour(2) | global(cls) @ late": 0.0} | LOST, part=part)
    advice = advice_of(fake, asked(large), tmp_path / "search")
    assert advice.promises[0].held and advice.recommended.plan != "dense", advice.why
    assert advice.gained.value > 70 and advice.promises[0].rows == 600
    assert len(advice.lines(tmp_path / "search").splitlines()) == 3
    finetune(RunConfig(**words | {"plan": "neighbour(2)"}), save_to=tmp_path / "search" / advice.model)
    called = {}
    exec(advice.lines(tmp_path / "search"), called)
    assert all("entity_group" in one for one in called["classify"]("Ada Lovelace lived in London ."))


def test_the_pipeline_joins_words_only_where_entities_are_scored():
    predictions = found([[(OUT, OUT)]])
    assert predictions.in_pipeline("entity_f1") == ("token-classification", 'aggregation_strategy="first"')
    assert predictions.in_pipeline("accuracy") == ("token-classification", "")


def test_tasks_say_whether_entities_are_scored(large, own):  # noqa: F811
    assert get_task(large).entities
    assert not own(columns(sentences(9, 0, ("N", "V", "D")))).entities
    assert not get_task("reviews").entities
