"""What a chapter shows is what runs: one visible line of its method is changed, and a result changes.

A chapter's method stands in cells tagged `method`. They are executed here after the chapter's imports and its
parameters in the smoke profile, once as they are and once with one line changed.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import CHAPTERS
from test_runs import record_of

from sparsebert.chapters.notebooks import read_notebook
from sparsebert.chapters.parameters import parse_parameters
from sparsebert.data.tasks import Task, get_task
from sparsebert.errors import InputError
from sparsebert.study import claims
from sparsebert.study.heads import attention_to_copies
from sparsebert.study.intervals import over_seeds_and_rows
from sparsebert.training.finetuning import finetune
from sparsebert.training.runs import RunConfig

NOTEBOOKS = {path.stem[:2]: path for path in CHAPTERS}
HIDDEN = {"hide-input", "hide-cell", "remove-input", "remove-cell"}


@dataclass(frozen=True)
class Change:
    """In this chapter `line`, which stands once in what is shown, becomes `instead`, and `result` differs."""

    chapter: str
    result: str  # the name of a variable: a number, a text, a list, an array or a tensor
    line: str
    instead: str


CHANGES = [
    Change("02", "losses", 'plan = "dense"', 'plan = "neighbour(1)"'),
    Change("02", "losses", "lr=learning_rate", "lr=10 * learning_rate"),
    Change("02", "losses", "optimizer.zero_grad()", "pass"),
    Change("07", "verdict", "bound = 1.0", "bound = 0.0"),
    Change("07", "states", 'task = "glue/sst2"', 'task = "glue/qnli"'),
    Change("08", "shares", "text[:, None] != text[None, :]", "text[:, None] == text[None, :]"),
    Change("10", "shares", "1 - multiply_adds(n, 0, n) /", "multiply_adds(n, 0, n) /"),
    Change("10", "passed", "weights[0].mean((0, 1))", "weights[0].mean((0, 2))"),
    Change("05", "learned_degrees", "largest=8", "largest=4"),
    Change("05", "learned_degrees", "distance <= k", "distance <= k + 1"),
    Change("05", "degree_at_price", "error + price * edges.mean()", "error"),
    Change("05", "thresholds", "(1 - x) ** (d - 1)", "(1 - x) ** d"),
]


def method(chapter: str) -> list[str]:
    """The sources of the cells tagged `method`, all of them shown."""
    cells = [cell for cell in read_notebook(NOTEBOOKS[chapter]).cells if cell.cell_type == "code"]
    tagged = [cell for cell in cells if "method" in cell.metadata.get("tags", ())]
    assert tagged, f"chapter {chapter} has no cell tagged method"
    assert not any(HIDDEN & set(cell.metadata.tags) for cell in tagged)
    return [cell.source for cell in tagged]


def cell_of(chapter: str, cell_id: str) -> str:
    """The source of one cell."""
    (source,) = (cell.source for cell in read_notebook(NOTEBOOKS[chapter]).cells if cell.id == cell_id)
    return source


def executed(chapter: str, cells: list[str]) -> dict[str, Any]:
    """The variables after the imports, the parameters in the smoke profile, and these cells."""
    notebook = NOTEBOOKS[chapter]
    imports = next(cell.source for cell in read_notebook(notebook).cells if cell.cell_type == "code")
    variables: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(imports, f"{notebook.stem}: imports", "exec"), variables)
    variables |= parse_parameters(notebook, profile="smoke")
    for number, source in enumerate(cells):
        exec(compile(source, f"{notebook.stem}: method {number}", "exec"), variables)
    return variables


as_shown = cache(lambda chapter: executed(chapter, method(chapter)))


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: f"{change.chapter}: {change.line}")
def test_a_visible_line_that_is_changed_changes_the_result(change):
    cells = method(change.chapter)
    assert sum(source.count(change.line) for source in cells) == 1
    changed = [source.replace(change.line, change.instead) for source in cells]
    before, after = as_shown(change.chapter), executed(change.chapter, changed)
    assert not np.array_equal(np.asarray(before[change.result]), np.asarray(after[change.result]))


def test_what_is_shown_gives_the_same_result_each_time():
    for chapter in {change.chapter for change in CHANGES}:
        again = executed(chapter, method(chapter))
        for change in CHANGES:
            if change.chapter == chapter:
                np.testing.assert_array_equal(again[change.result], as_shown(chapter)[change.result])


def test_the_training_loop_of_chapter_2_takes_the_steps_of_finetune():
    shown = as_shown("02")
    config = RunConfig(
        task=shown["tasks"][0],
        encoder=shown["encoder"],
        max_length=shown["max_length"],
        batch_size=shown["batch_size"],
        learning_rate=shown["learning_rate"],
        precision="fp32",
        **shown["sizes"],
    )
    record = finetune(config, progress_seconds=0)
    assert record.steps == len(shown["losses"])
    assert np.mean(shown["losses"]) == pytest.approx(record.train_loss, abs=1e-5)
    assert shown["accuracy_of_the_loop"] == pytest.approx(record.metrics["accuracy"])


@pytest.mark.parametrize("task", ["glue/sst2", "glue/qnli", "glue/mrpc", "imdb"])
def test_the_rule_of_chapter_7_gives_the_verdict_and_the_intervals_of_judge(task):
    cells = [source.replace('task = "glue/sst2"', f'task = "{task}"') for source in method("07")]
    shown = executed("07", cells)
    (expected,) = claims.judge("C1", shown["own"])
    assert shown["verdict"] == expected.verdict
    for number, found in zip(expected.numbers, shown["intervals"].values(), strict=True):
        assert found == pytest.approx((number.mean, number.low, number.high), abs=1e-8)


def test_the_rule_of_chapter_7_knows_the_luck_of_rows():
    """Runs whose right and wrong rows are known, as deciding runs have them."""
    shown = as_shown("07")
    right = 100.0 * np.random.default_rng(0).integers(0, 2, (2, 3, 40))
    loss = pd.DataFrame(right[0] - right[1])
    scatter = shown["scatter"]
    expected = over_seeds_and_rows(loss.to_numpy(), scatter._replace(variance=scatter.variance * 1.5))
    found = shown["interval"](loss, 2, scatter)
    assert found == pytest.approx((expected.value, *expected.interval()))


def test_chapter_7_counts_what_was_known_when_each_rule_was_written():
    def finished(*dates):
        return [record_of(RunConfig(seed=seed), finished=date) for seed, date in enumerate(dates)]

    shown = {"pd": pd, "exploratory": finished("2026-11-26T00:00:00+00:00", "2026-11-27T01:00:00+02:00")}
    shown["deciding"] = finished("2026-11-29T22:56:53+00:00")  # as the rules of today were committed
    shown["records"] = [*shown["deciding"], *shown["exploratory"]]
    exec(cell_of("07", "a1c07021"), shown)
    assert shown["seen"]["runs known"].tolist() == [1, 1, 1, 1, 2]
    assert shown["seen"]["runs made later"].tolist() == [2, 2, 2, 2, 1]
    assert (shown["old"], shown["new"]) == (2, 0)


def test_the_loop_of_chapter_8_gives_the_shares_of_attention_to_copies():
    shown = as_shown("08")
    torch.manual_seed(0)
    looks = attention_to_copies(shown["encoder"], shown["pairs"])
    assert looks.tokens == shown["tokens"] > 0
    torch.testing.assert_close(looks.shares, shown["shares"])


# ---- shared words, in chapter 8

ALIKE = [("A dog.", "a DOG barks", 1), ("one two", "two, one!", 1), ("one two", "three", 0), ("x", "y", 0)]


def by_shared_words(task):
    shown = {"np": np, "pd": pd, "InputError": InputError}
    exec(cell_of("08", "62be0fc2"), shown)
    return shown["by_shared_words"](task)


@pytest.mark.parametrize("turned", [False, True])
def test_a_threshold_from_the_training_rows_judges_the_others(turned):
    rows = {"train": [(text, other, 1 - label if turned else label) for text, other, label in ALIKE]}
    rows["validation"] = [("dog", "the dog", 1), ("the dog", "a dog", 1), ("cat", "dog", 1)]
    splits = {name: pd.DataFrame(part, columns=["text", "text_pair", "label"]) for name, part in rows.items()}
    task = Task("made", "s", ("accuracy",), ("no", "yes"), 32, True, "s", "l", read=lambda: splits)
    table = by_shared_words(task).set_index("what")
    assert table.loc["train"].tolist() == [4, 1.0, 0.5]
    shares, cut = [1.0, 0.5, 0.0], 1.0  # the least share of the pairs that are alike in training
    right = [(share >= cut) != turned for share in shares]
    assert table.loc["validation", "accuracy"] == pytest.approx(sum(right) / 3)


def test_shared_words_are_counted_in_pairs_alone():
    with pytest.raises(InputError, match="'reviews' is not one of pairs"):
        by_shared_words(get_task("reviews"))
