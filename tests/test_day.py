"""The example of a day: what students type is what the commands take, and mistakes are meant."""

from __future__ import annotations

import shlex
from pathlib import Path

import nbformat
import pytest
from click.testing import CliRunner
from conftest import LESSONS

from sparsebert.cli import main

PROJECT = Path(__file__).resolve().parents[1]
(DAY,) = [path for path in LESSONS if path.stem.startswith("day_")]
TYPED = [
    (
        shlex.split(cell.source.removeprefix("!").replace("\\\n", " ")),
        "mistake" in cell.metadata.get("tags", []),
    )
    for cell in nbformat.read(DAY, as_version=4).cells
    if cell.source.startswith("!sparsebert")
]


def test_a_day_has_commands_of_several_kinds_and_one_mistake():
    assert {words[1] for words, _ in TYPED} >= {"patterns", "finetune", "sweep"}
    assert sum(mistaken for _, mistaken in TYPED) == 1


@pytest.mark.parametrize(("words", "mistaken"), TYPED, ids=[" ".join(words[1:3]) for words, _ in TYPED])
def test_what_students_type_works(words, mistaken, monkeypatch):
    """Training is left to the book: its commands are only read, down to their help."""
    monkeypatch.chdir(PROJECT)
    trains = words[1] == "finetune"
    told = CliRunner().invoke(main, [*words[1:], "--help"] if trains else words[1:])
    assert told.exit_code == (2 if mistaken else 0), told.output
    assert told.output.count("\n") == 1 if mistaken else told.output
