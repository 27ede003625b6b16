"""What every chapter keeps to: short cells, code that is shown, answers first, exercises with solutions."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import nbformat
import pytest
from conftest import CHAPTERS, LESSONS

NOTEBOOKS = CHAPTERS
HIDING = {"hide-input", "hide-cell", "remove-input", "remove-cell"}
EXERCISE = re.compile(r"^`{3,}\{exercise\} (?P<title>.+)\n:label: (?P<label>[\w-]+)", re.MULTILINE)
GRADED = re.compile(r".+ · (easy|medium|hard), \d+ minutes")

LABS = [path for path in LESSONS if path.stem.startswith("lab_")]

# A lab has no summary, no self-check and no hard exercises, and students state its findings themselves.
in_chapters = pytest.mark.parametrize("chapter", NOTEBOOKS, ids=lambda path: path.stem[:2])
in_chapters_and_labs = pytest.mark.parametrize(
    "chapter", [*NOTEBOOKS, *LABS], ids=lambda path: path.stem[:3].rstrip("_")
)


def read(chapter: Path) -> list[nbformat.NotebookNode]:
    return nbformat.read(chapter, as_version=4).cells


def tags(cell: nbformat.NotebookNode) -> set[str]:
    return set(cell.metadata.get("tags", []))


def code_cells(chapter: Path) -> list[nbformat.NotebookNode]:
    return [cell for cell in read(chapter) if cell.cell_type == "code"]


def sections(chapter: Path) -> dict[str, list[nbformat.NotebookNode]]:
    """The cells below each heading, of whatever level; text with several counts for the last."""
    found: dict[str, list[nbformat.NotebookNode]] = {}
    for cell in read(chapter):
        headings = re.findall(r"^#+ (.*)", cell.source, re.MULTILINE) if cell.cell_type == "markdown" else []
        for heading in headings:
            found[heading] = []
        if found:
            found[list(found)[-1]].append(cell)
    return found


def solutions(chapter: Path) -> dict[str, list[nbformat.NotebookNode]]:
    """The code cells of each solution, by the label of its exercise."""
    found: dict[str, list[nbformat.NotebookNode]] = {}
    inside = None
    for cell in read(chapter):
        if cell.cell_type == "code":
            if inside:
                found[inside].append(cell)
            continue
        for start, _ in re.findall(
            r"^`{3,}\{solution-start\} ([\w-]+)|^`{3,}\{(solution-end)\}", cell.source, re.MULTILINE
        ):
            inside = start or None
            if start:
                found[start] = []
    return found


def solving(chapter: Path) -> list[nbformat.NotebookNode]:
    return [cell for cells in solutions(chapter).values() for cell in cells]


@in_chapters_and_labs
def test_cells_are_short_and_narrow(chapter):
    for cell in code_cells(chapter):
        lines = cell.source.splitlines()
        assert len(lines) <= 25, cell.source
        if "parameters" not in tags(cell):  # whose comments are folded
            assert max(map(len, lines), default=0) <= 100, cell.source


@in_chapters_and_labs
def test_a_chapter_defines_few_helpers(chapter):
    trees = [ast.parse(cell.source) for cell in code_cells(chapter) if cell not in solving(chapter)]
    defined = [
        node.name
        for tree in trees
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
    ]
    assert len(defined) <= 3, defined


@in_chapters_and_labs
def test_at_least_half_of_the_code_is_shown(chapter):
    """Imports, parameters and solutions don't count on either side."""
    shown = hidden = 0
    for cell in code_cells(chapter):
        if "parameters" in tags(cell) or cell in solving(chapter):
            continue
        imports = {
            line
            for node in ast.parse(cell.source).body
            if isinstance(node, ast.Import | ast.ImportFrom)
            for line in range(node.lineno, node.end_lineno + 1)
        }
        lines = enumerate(cell.source.splitlines(), start=1)
        count = sum(bool(line.strip()) and number not in imports for number, line in lines)
        if tags(cell) & HIDING:
            hidden += count
        else:
            shown += count
    assert shown >= hidden, f"{shown} lines are shown, {hidden} are hidden"


@in_chapters_and_labs
def test_a_chapter_opens_with_what_a_reader_wants_to_know(chapter):
    first = read(chapter)[0].source
    wanted = ["# ", "**The question.**", "**What you will learn**", "**What you need first.**"]
    places = [first.find(text) for text in [*wanted, "**How long it takes.**"]]
    assert -1 not in places and places == sorted(places)
    assert re.search(r"\bminutes?\b", first[places[-1] :])


@in_chapters
def test_a_chapter_ends_with_summary_exercises_questions_and_references(chapter):
    top = re.findall(
        r"^## (.*)", "\n".join(c.source for c in read(chapter) if c.cell_type == "markdown"), re.MULTILINE
    )
    end = ["Summary", "Exercises", "Check yourself", "References", "Where these numbers come from"]
    assert top[-5:] == end or top[-4:] == end[:4]
    text = "\n".join(cell.source for cell in sections(chapter)["Check yourself"])
    assert len(re.findall(r"^:{3,}\{dropdown\} .+\?$", text, re.MULTILINE)) == 5


@in_chapters
def test_results_open_with_a_finding(chapter):
    """A section with a figure or a table made from runs says first, in a sentence, what they show."""
    for heading, cells in sections(chapter).items():
        sources = [cell.source for cell in cells if cell.cell_type == "code"]
        results = [place for place, source in enumerate(sources) if "made_from=" in source]
        if results:
            said = [place for place, source in enumerate(sources) if "figures.finding(" in source]
            assert said and said[0] <= results[0], heading


@in_chapters
def test_exercises_come_in_three_grades_with_minutes(chapter):
    text = "\n".join(cell.source for cell in read(chapter) if cell.cell_type == "markdown")
    titles = [found["title"] for found in EXERCISE.finditer(text)]
    assert all(map(GRADED.fullmatch, titles)), titles
    assert {GRADED.fullmatch(title)[1] for title in titles} == {"easy", "medium", "hard"}


@in_chapters_and_labs
def test_each_exercise_has_a_solution_that_is_executed_and_asserts(chapter):
    text = "\n".join(cell.source for cell in read(chapter) if cell.cell_type == "markdown")
    solved = solutions(chapter)
    assert set(solved) == {found["label"] for found in EXERCISE.finditer(text)}
    for label, cells in solved.items():
        asserts = [node for cell in cells for node in ast.walk(ast.parse(cell.source))]
        assert any(isinstance(node, ast.Assert) for node in asserts), label


@in_chapters_and_labs
def test_tables_have_captions(chapter):
    """Tables are shown by `figures.table`, which wants a caption and has few columns."""
    for cell in code_cells(chapter):
        assert "set_caption" not in cell.source and ".style" not in cell.source
        assert "pd.set_option" not in cell.source
