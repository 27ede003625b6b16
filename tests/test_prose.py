"""The English of pages, notebooks, docstrings and help texts: a linter, a list of words, short sentences."""

from __future__ import annotations

import importlib
import inspect
import itertools
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import click
import nbformat
import pytest
import yaml
from conftest import CHAPTERS, LESSONS
from markdown_it import MarkdownIt
from proselint.checks import __register__
from proselint.config import DEFAULT
from proselint.registry import CheckRegistry
from proselint.tools import LintFile

from sparsebert.chapters.downloads import plain_markdown
from sparsebert.chapters.reference import entries
from sparsebert.cli import main

PROJECT = Path(__file__).resolve().parents[1]
WORDS = yaml.safe_load((PROJECT / "tests" / "words.yaml").read_text(encoding="utf-8"))
LONGEST = 36  # words of a sentence; most have half as many
# Advice on quotes and marks in print, on the word "very", on ranges, which are of numbers here, and
# on adverbs with a hyphen, which takes multiply-adds for one.
SKIPPED = ("typography", "weasel_words.very", "dates_times", "misc.phrasal_adjectives.ly")
COMMITTED = "rules.md"  # written before the runs that it judges, and not changed since


def pages() -> list[Path]:
    listed = subprocess.run(
        ["git", "-C", str(PROJECT), "ls-files", "*.md"], capture_output=True, text=True
    ).stdout.split()
    files = [PROJECT / name for name in listed] or [*PROJECT.glob("*.md"), *PROJECT.glob("book/*.md")]
    return [file for file in files if file.name != COMMITTED and file.is_file()]


def text_of(markdown: str) -> str:
    """The words of a page, a paragraph per block; a piece of code is one word, and so is a formula."""

    def role(name: str, content: str) -> str:
        return "" if name == "cite:p" else re.sub(r"\s*<.*>$", "", content)

    plain = plain_markdown(markdown, role)
    plain = re.sub(r"\$\$.*?\$\$|<!--.*?-->", "", plain, flags=re.DOTALL)
    paragraphs = []
    for token in MarkdownIt("commonmark").enable("table").parse(re.sub(r"\$[^$\n]+\$", "x", plain)):
        if token.type == "inline":
            words = {"code_inline": "code", "softbreak": " ", "hardbreak": " "}
            parts = [words.get(part.type, part.content * (part.type == "text")) for part in token.children]
            paragraphs.append("".join(parts))
    return "\n\n".join(paragraphs)


def commands(command: click.Command, name: str) -> Iterator[tuple[str, click.Command]]:
    yield name, command
    for own, inner in getattr(command, "commands", {}).items():
        yield from commands(inner, f"{name} {own}")


def helps() -> Iterator[tuple[str, str]]:
    for name, command in commands(main, "sparsebert"):
        options = [getattr(option, "help", None) or "" for option in command.params]
        yield name, "\n\n".join([inspect.cleandoc(command.help or ""), *options])


def texts() -> Iterator[tuple[str, str]]:
    for page in pages():
        yield page.name, text_of(page.read_text(encoding="utf-8"))
    for notebook in [*CHAPTERS, *LESSONS]:
        cells = nbformat.read(notebook, as_version=4).cells
        whole = "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
        yield notebook.name, text_of(whole)
    for name, text in helps():
        yield name, text_of(text)
    for entry in entries():
        named = getattr(importlib.import_module(entry.home.rpartition(".")[0]), entry.name)
        yield entry.path, text_of(inspect.getdoc(named) or "")


CASES = list(texts())


@pytest.fixture(scope="module")
def linter():
    registry = CheckRegistry()
    if not registry.checks:
        registry.register_many(__register__)
    return DEFAULT


@pytest.mark.parametrize(("name", "text"), CASES, ids=[name for name, _ in CASES])
def test_a_text_reads_plainly(name, text, linter):
    faults = []
    for paragraph in filter(None, text.split("\n\n")):
        numbers = itertools.count()
        told_apart = re.sub(r"\bcode\b", lambda _, numbers=numbers: f"code{next(numbers)}", paragraph)
        for fault in LintFile(name, told_apart).lint(linter):
            if not fault.check_result.check_path.startswith(SKIPPED):
                faults.append(f"{fault.check_result.check_path}: {fault.check_result.message}")
    for expression, instead in WORDS.items():
        for found in re.finditer(expression, text, re.IGNORECASE):
            around = text[max(0, found.start() - 40) : found.end() + 40].replace("\n", " ")
            faults.append(f"'{found[0]}' in '…{around}…': {instead}")
    for paragraph in text.split("\n\n"):
        for sentence in re.split(r"(?<=[.!?:;])\s", paragraph):
            if len(sentence.split()) > LONGEST:
                faults.append(f"{len(sentence.split())} words: {sentence}")
    assert not faults, "\n".join(faults)
