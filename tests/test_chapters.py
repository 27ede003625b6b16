"""Notebooks: what they can be asked, what running one leaves behind, and the whole book without a warning."""

from __future__ import annotations

import json
import re
import sys
import threading
import time
from pathlib import Path

import nbformat
import pytest
import yaml
from conftest import CHAPTERS, LESSONS

from sparsebert.chapters import (
    ChapterError,
    book,
    build_book,
    find_notebook,
    parameters_of,
    parse_parameters,
    run_notebook,
    running,
)
from sparsebert.chapters.notebooks import read_notebook
from sparsebert.chapters.reference import components_page
from sparsebert.data.tasks import task_names
from sparsebert.errors import InputError
from sparsebert.paths import locked
from sparsebert.registry import ARCHITECTURES, KERNELS, METHODS, PATTERNS, REDUCTIONS

PROJECT = Path(__file__).resolve().parent.parent
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="

PARAMETERS = """
task: str = "reviews"  # what to train on
train_size: int = 800  # [16..100000] training rows; time grows in proportion
learning_rate: float = 1e-4  # [1e-6..1] peak
seeds: list[int] = [0, 1]  # [0..] one run each
besides: list[int] = [2]  # further seeds; may be empty
patterns: list[str] = [  # compared with each other
    "neighbour(2)",
    "random(3, seed=1)",
]
placement: str = "late"  # [all|early|late] layers
limit: int | None = None  # [1..] rows to show, all if None
title: str = "a # b"  # printed above
"""


def make_notebook(root: Path, name: str, *sources: str, parameters: str = PARAMETERS) -> Path:
    cells = [nbformat.v4.new_code_cell(parameters.strip(), metadata={"tags": ["parameters"]})]
    cells += [nbformat.v4.new_code_cell(source) for source in sources]
    (root / "notebooks").mkdir(parents=True, exist_ok=True)
    (root / "_config.yml").write_text("sphinx: {config: {}}")
    path = root / "notebooks" / f"{name}.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    return path


@pytest.fixture
def notebook(tmp_path) -> Path:
    return make_notebook(tmp_path, "03_which_connections")


# ---- names ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["03_which_connections", "which_connections", "03", "3", "notebooks/03_which_connections.ipynb"]
)
def test_a_notebook_is_found_by_any_of_its_names(notebook, name, monkeypatch):
    monkeypatch.chdir(notebook.parent.parent)
    assert find_notebook(name, notebook.parent.parent) == notebook


@pytest.mark.parametrize("name", ["lab_pairs", "pairs", "lab"])
def test_a_lab_is_found_by_its_name(notebook, name):
    lab = make_notebook(notebook.parent.parent, "lab_pairs")
    assert find_notebook(name, notebook.parent.parent) == lab


def test_a_misspelt_notebook_names_the_nearest(notebook):
    with pytest.raises(InputError, match="did you mean '03_which_connections'"):
        find_notebook("03_wich_connections", notebook.parent.parent)


# ---- parameters ----------------------------------------------------------------------------------


def test_the_cell_gives_type_default_help_and_range(notebook):
    parameters = parameters_of(notebook)
    assert list(parameters) == [
        line.split(":")[0] for line in PARAMETERS.splitlines() if re.match(r"\w+:", line)
    ]
    assert parameters["train_size"].default == 800
    assert parameters["train_size"].bounds == (16, 100000)
    assert parameters["train_size"].help == "training rows; time grows in proportion"
    assert parameters["placement"].choices == ["all", "early", "late"]
    assert parameters["patterns"].default == ["neighbour(2)", "random(3, seed=1)"]
    assert parameters["title"].default == "a # b"


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("task", "headlines", "headlines"),
        ("train_size", "500", 500),
        ("train_size", "0500", 500),
        ("train_size", "08000", 8000),
        ("seeds", "[010, 0100]", [10, 100]),
        ("learning_rate", "2e-5", 2e-5),
        ("learning_rate", "1", 1),
        ("seeds", "[3, 4]", [3, 4]),
        ("patterns", "syntax | global(cls)", ["syntax | global(cls)"]),
        ("patterns", '["random(3, seed=2)", dense]', ["random(3, seed=2)", "dense"]),
        ("placement", "early", "early"),
        ("limit", "null", None),
        ("besides", "[]", []),
        ("limit", "7", 7),
        ("title", "yes: 1 # [2]", "yes: 1 # [2]"),
        ("title", '"quoted"', "quoted"),
    ],
)
def test_text_becomes_a_value_of_the_parameters_type(notebook, name, text, value):
    given = parse_parameters(notebook, {name: text})[name]
    assert given == value
    assert type(given) is type(value)


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{}", "5", "{", "[" * 9000, '{"cells": 5}', '{"cells": [{}], "nbformat": 4}', "\0", "\ud800"],
)
def test_what_is_no_notebook_is_refused(tmp_path, content):
    (tmp_path / "own.ipynb").write_text(content, errors="surrogatepass")
    with pytest.raises(InputError, match=r"own\.ipynb'") as refusal:
        parameters_of(tmp_path / "own.ipynb")
    assert len(str(refusal.value).splitlines()) == 1


@pytest.mark.parametrize("allowed", ["--..5", "e..", "1.2.3..4", "..--", ".."])
def test_a_range_of_other_than_numbers_is_refused(tmp_path, allowed):
    path = tmp_path / "own.ipynb"
    cell = nbformat.v4.new_code_cell(f"rows: int = 3  # [{allowed}] rows", metadata={"tags": ["parameters"]})
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), path)
    if allowed == "..":
        assert parse_parameters(path) == {"rows": 3}
    else:
        with pytest.raises(InputError, match="write numbers"):
            parse_parameters(path)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("tsk", "headlines", "did you mean 'task'"),
        ("task", "revews", "did you mean 'reviews'"),
        ("train_size", "many", "'many' is not int; write for example train_size=800"),
        ("train_size", "1.5", "1.5 is not int"),
        ("train_size", "true", "True is not int"),
        ("train_size", "1:30", "'1:30' is not int"),
        ("train_size", "1" * 5000, "a number of 5,000 digits"),
        ("train_size", "!!int 5", "the tag"),
        ("train_size", "15", "15 is not in 16..100000"),
        ("learning_rate", ".nan", "nan is not float"),
        ("learning_rate", "fast", "'fast' is not float"),
        ("seeds", "3", "3 is not list"),
        ("seeds", "[0, -1]", "-1 is not in 0.."),
        ("seeds", "[0", "can't be read"),
        ("patterns", "[random(3, seed=2)]", "needs quotes"),
        ("patterns", "neighbor(2)", "did you mean 'neighbour'"),
        ("placement", "middle", "none of all, early, late"),
        ("limit", "0", "0 is not in 1.."),
        ("patterns", "[]", "an empty list leaves nothing to do; write for example"),
    ],
)
def test_a_wrong_parameter_is_refused_in_one_sentence(notebook, name, text, said):
    with pytest.raises(InputError, match=re.escape(said)):
        parse_parameters(notebook, {name: text})


@pytest.mark.parametrize(
    ("cell", "said"),
    [
        ("size = 3  # no type", "write each line as"),
        ("size: int = 1 + 2  # computed", "write a literal"),
        ("size: int = 3", "add a comment"),
        ("size: dict = {}  # some", "the types are"),
        ("size: int = 3  # [1..2] out of its own range", "3 is not in 1..2"),
        ("size: int = 3  # [few..many] rows", "write numbers"),
        ("size: int =", "is not Python"),
    ],
)
def test_a_parameters_cell_that_breaks_the_rules_is_refused(tmp_path, cell, said):
    with pytest.raises(InputError, match=re.escape(said)):
        parse_parameters(make_notebook(tmp_path, "01_broken", parameters=cell))


def test_a_notebook_without_parameters_says_so(tmp_path):
    path = tmp_path / "plain.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1")]), path)
    assert parse_parameters(path) == {}
    with pytest.raises(InputError, match="takes no parameters"):
        parse_parameters(path, {"task": "reviews"})


def test_the_command_line_wins_over_the_profile_and_the_profile_over_the_cell(notebook):
    profiles = {notebook.stem: {"smoke": {"train_size": 32, "seeds": [0]}}}
    (notebook.parent / "profiles.yaml").write_text(yaml.safe_dump(profiles))
    quick, smoke = parse_parameters(notebook), parse_parameters(notebook, profile="smoke")
    mixed = parse_parameters(notebook, {"train_size": "64"}, "smoke")
    assert [values["train_size"] for values in (quick, smoke, mixed)] == [800, 32, 64]
    assert [values["seeds"] for values in (quick, smoke, mixed)] == [[0, 1], [0], [0]]
    assert parse_parameters(notebook, profile="full") == quick


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"train_sizes": 32}, "did you mean 'train_size'"),
        ({"train_size": 3}, "profile smoke of 03_which_connections"),
    ],
)
def test_a_profile_is_held_to_the_same_rules(notebook, changes, said):
    (notebook.parent / "profiles.yaml").write_text(yaml.safe_dump({notebook.stem: {"smoke": changes}}))
    with pytest.raises(InputError, match=re.escape(said)):
        parse_parameters(notebook, profile="smoke")


def test_an_unknown_profile_names_the_nearest(notebook):
    with pytest.raises(InputError, match="did you mean 'quick'"):
        parse_parameters(notebook, profile="quik")


# ---- running one notebook ------------------------------------------------------------------------

SHOWS = f"""
import os, sys
from IPython.display import display
print("\\x1b[31mruns\\x1b[0m", sys.executable, "in", os.getcwd(), "of", os.path.expanduser("~/x"))
print("\\x1b[31m[1/1] a run\\x1b[0m", file=sys.stderr)
for name in ("fig-a", "fig-b"):
    told = {{"name": name, "caption": f"Caption of {{name}}", "alt": f"What {{name}} shows"}}
    display({{"image/png": "{PIXEL}"}}, metadata={{"sparsebert": told}}, raw=True)
"last"
"""


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """An executed notebook, what it wrote to stderr, and the folder it ran in."""
    root = tmp_path_factory.mktemp("{project}")
    make_notebook(root, "01_shows", SHOWS, parameters="size: int = 3  # a number\nword: str = 'é'  # text")
    elsewhere = root / "jupyter" / "kernels" / "python3"
    elsewhere.mkdir(parents=True)
    (elsewhere / "kernel.json").write_text(
        json.dumps({"argv": ["false"], "display_name": "", "language": "python"})
    )
    said = []
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setenv("JUPYTER_PATH", str(root / "jupyter"))
        patch.setattr(sys.stderr, "write", said.append)
        out = run_notebook("01", {"size": "4"}, out="out.ipynb", root=root)
    return read_notebook(root / out), "".join(said), root


def test_the_running_interpreter_is_used_whatever_kernels_are_installed(executed):
    text = executed[0].cells[2].outputs[0].text
    assert text == f"runs PYTHON/{Path(sys.executable).relative_to(sys.prefix)} in . of ~/x\n"


def test_stderr_is_passed_on_without_colours_and_left_out_of_the_notebook(executed):
    notebook, said, _ = executed
    assert said == "[1/1] a run\n"
    assert not any(output.get("name") == "stderr" for cell in notebook.cells for output in cell.outputs)


def test_effective_parameters_are_shown_and_the_default_cell_is_folded(executed):
    defaults, injected = executed[0].cells[:2]
    assert "hide-input" in defaults.metadata.tags
    assert injected.source.splitlines()[1:] == ["size = 4  # default: 3", 'word = "\\xe9"']
    assert injected.source.startswith("# Parameters of this run (profile quick)")


def test_each_figure_has_a_cell_with_caption_label_and_alt_text(executed):
    first, second = [cell for cell in executed[0].cells if "figure" in cell.metadata.get("mystnb", {})]
    assert first.metadata.mystnb == {
        "figure": {"name": "fig-a", "caption": "Caption of fig-a"},
        "image": {"alt": "What fig-a shows"},
    }
    assert second.metadata.mystnb.figure.name == "fig-b"
    assert all(len(cell.outputs) == 1 and "image/png" in cell.outputs[0].data for cell in (first, second))


def test_outputs_keep_their_order_and_the_code_is_shown_once(executed):
    cells = executed[0].cells[2:]
    kinds = [output.output_type for cell in cells for output in cell.outputs]
    assert kinds == ["stream", "display_data", "display_data", "execute_result"]
    assert [cell.source for cell in cells if "remove-input" not in cell.metadata.get("tags", [])] == [SHOWS]
    assert all(cell.source for cell in cells)  # myst-nb drops cells without a source


def test_no_path_of_the_machine_and_no_timestamp_is_kept_but_the_wall_time(executed):
    notebook, _, root = executed
    text = json.dumps(notebook)
    assert str(root) not in text
    assert str(Path.home()) + "/" not in text
    assert not re.search(r"20\d\d-\d\d-\d\dT", text)
    record = notebook.metadata.sparsebert
    assert record.parameters == {"size": 4, "word": "é"}
    assert record.profile == "quick"
    assert 0 < record.seconds < 120


def test_the_defaults_stay_visible_where_nothing_is_changed(tmp_path, monkeypatch):
    make_notebook(tmp_path, "01_plain", "print(size)", parameters="size: int = 3  # a number")
    monkeypatch.chdir(tmp_path)
    notebook = read_notebook(run_notebook("01"))
    assert [cell.metadata.get("tags") for cell in notebook.cells] == [["parameters"], None]
    assert notebook.cells[1].outputs[0].text == "3\n"


def test_a_failing_cell_is_one_clear_sentence_and_keeps_what_was_executed(tmp_path, monkeypatch):
    make_notebook(tmp_path, "02_fails", "print('so far')", "1 / 0", parameters="size: int = 3  # a number")
    monkeypatch.chdir(tmp_path)
    earlier = nbformat.v4.new_notebook(metadata={"sparsebert": {"profile": "quick"}})
    nbformat.write(earlier, "out.ipynb")
    with pytest.raises(
        ChapterError, match=r"stopped at cell .* with ZeroDivisionError; .*out\.failed\.ipynb"
    ) as error:
        run_notebook("02", out="out.ipynb")
    assert str(error.value).endswith("ZeroDivisionError: division by zero")
    assert "so far" in Path("out.failed.ipynb").read_text()
    assert read_notebook(Path("out.ipynb")) == earlier
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == [
        "_config.yml",
        "out.failed.ipynb",
        "out.ipynb",
    ]


@pytest.mark.parametrize("kind", ["InputError", "UnknownName"])
def test_a_cell_that_refuses_its_parameters_is_wrong_input(tmp_path, monkeypatch, kind):
    cells = f"from sparsebert.errors import {kind}", f"raise {kind}('size=3: write an even number')"
    make_notebook(tmp_path, "02_picky", *cells, parameters="size: int = 3  # a number")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"stopped at cell .*: size=3: write an even number"):
        run_notebook("02")
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["_config.yml"]


def test_a_process_that_dies_is_said_so(tmp_path, monkeypatch):
    make_notebook(tmp_path, "02_dies", "import os; os._exit(1)", parameters="size: int = 3  # a number")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ChapterError, match="its Python process died"):
        run_notebook("02")


@pytest.mark.parametrize(
    ("out", "said"),
    [
        ("out.html", "ends in .ipynb"),
        ("{itself}", "is the notebook itself"),
        ("{folder}", "it is a folder"),
        ("{text}", "is not a notebook that this command wrote"),
        ("{another}", "is not a notebook that this command wrote"),
        ("{text}/out.ipynb", "cannot be written"),
    ],
)
def test_a_wrong_place_for_the_result_is_refused_before_anything_runs(
    tmp_path, notebook, monkeypatch, out, said
):
    monkeypatch.setattr(running, "execute", lambda *_: pytest.fail("it ran"))
    places = {"itself": notebook, "folder": tmp_path / "a.ipynb", "text": tmp_path / "b.ipynb"}
    places["another"] = make_notebook(tmp_path, "another")
    places["folder"].mkdir()
    places["text"].write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InputError, match=said):
        run_notebook(notebook, out=out.format(**places))
    assert sorted(tmp_path.rglob("*")) == before
    assert places["text"].read_text() == "mine"


# ---- which chapters are run again ----------------------------------------------------------------


@pytest.fixture
def small_book(tmp_path, monkeypatch):
    """A book of one chapter that isn't rendered; calling it builds and returns the lines that were said."""
    make_notebook(tmp_path, "01_only", "print(size)", parameters="size: int = 3  # a number")
    (tmp_path / "book").mkdir()
    (tmp_path / "book" / "_toc.yml").write_text("{format: jb-book, root: notebooks/01_only}")
    monkeypatch.setattr(book, "render_pages", lambda what, root, build: None)

    def build(profile="quick", edition=".", hears=lambda line: None, **how) -> str:
        said, made = [], tmp_path / "_build" / edition

        def say(line):
            said.append(line)
            hears(line)

        assert build_book(tmp_path, profile, say=say, **how) == made / "html" / "index.html"
        return " | ".join(said)

    return build


def test_a_chapter_is_run_again_only_if_something_that_it_depends_on_has_changed(
    small_book, tmp_path, monkeypatch
):
    ran = []
    execute = book.execute
    monkeypatch.setattr(book, "execute", lambda *args: ran.append(args) or execute(*args))
    assert re.search(r"\[1/1\] 01_only: running .*\| \[1/1\] 01_only: done in \d+ s", small_book())
    assert "[1/1] 01_only: unchanged" in small_book()
    assert len(ran) == 1
    make_notebook(tmp_path, "01_only", "print(size)", parameters="size: int = 4  # a number")
    assert "unchanged" not in small_book()
    assert (
        "4"
        in read_notebook(tmp_path / "_build" / "notebooks" / "quick" / "01_only.ipynb")
        .cells[1]
        .outputs[0]
        .text
    )
    assert "unchanged" in small_book()
    assert len(ran) == 2


def test_chapters_that_train_nothing_are_run_two_at_a_time(small_book, tmp_path, monkeypatch):
    monkeypatch.setattr(book.os, "cpu_count", lambda: 2)
    seen = "import pathlib, time; here = pathlib.Path('both')\nhere.mkdir(exist_ok=True)"
    wait = (
        "for _ in range(600):\n    if len(list(here.iterdir())) == 2: break\n    time.sleep(0.1)\nelse: 1 / 0"
    )
    for name in ("01_only", "02_other"):
        cells = seen, f"(here / '{name}').touch()", wait
        make_notebook(tmp_path, name, *cells, parameters="size: int = 3  # a number")
    toc = {"format": "jb-book", "root": "notebooks/01_only", "chapters": [{"file": "notebooks/02_other"}]}
    (tmp_path / "book" / "_toc.yml").write_text(yaml.safe_dump(toc))
    said = small_book()
    assert len(re.findall(r"\[\d/2\] \w+: done in", said)) == 2
    assert small_book().count("unchanged") == 2


def test_a_second_build_in_one_folder_waits_and_says_so(small_book, tmp_path, monkeypatch):
    ran, started, waited_for = [], threading.Event(), threading.Event()

    def first():
        with locked(tmp_path / "_build" / ".lock"):
            started.set()
            waited_for.wait(60)
            time.sleep(0.2)
            ran.append("first")

    monkeypatch.setattr(book, "_execute_changed", lambda *_: ran.append("second"))
    monkeypatch.setattr(book, "_assemble", lambda *_: None)
    threading.Thread(target=first).start()
    started.wait(60)
    small_book(hears=lambda line: waited_for.set() if "another command is building" in line else None)
    assert ran == ["first", "second"]


def test_the_pages_are_rendered_again_only_if_something_that_they_show_has_changed(tmp_path, monkeypatch):
    rendered = []

    def render(what, root, build):
        rendered.append(root)
        (build / "html").mkdir(exist_ok=True)
        (build / "html" / "index.html").write_text("the book")

    monkeypatch.setattr(book, "render_pages", render)
    config, page = tmp_path / "_config.yml", tmp_path / "build" / "source" / "intro.md"
    config.write_text("{}")
    page.parent.mkdir(parents=True)
    page.write_text("one")

    def count() -> int:
        book._rendered(tmp_path, tmp_path / "build", lambda _: None)
        return len(rendered)

    assert [count(), count()] == [1, 1]
    page.write_text("two")
    assert [count(), count()] == [2, 2]
    config.write_text("{sphinx: {}}")
    assert [count(), count()] == [3, 3]
    (tmp_path / "build" / "html" / "index.html").unlink()
    assert [count(), count()] == [4, 4]


def test_the_key_covers_parameters_profile_package_versions_and_folders(notebook, monkeypatch):
    key = book.notebook_key(notebook, {"size": 3}, "quick")
    assert book.notebook_key(notebook, {"size": 3}, "quick") == key
    changed = {
        book.notebook_key(notebook, {"size": 4}, "quick"),
        book.notebook_key(notebook, {"size": 3}, "full"),
    }
    for name in ("RUNS", "DATA", "PREPARED"):
        with monkeypatch.context() as patch:
            patch.setenv(f"SPARSEBERT_{name}_DIR", str(notebook.parent))
            changed.add(book.notebook_key(notebook, {"size": 3}, "quick"))
    with monkeypatch.context() as patch:
        patch.setenv("SPARSEBERT_FRESH", "1")
        changed.add(book.notebook_key(notebook, {"size": 3}, "quick"))
    with monkeypatch.context() as patch:
        patch.setattr(book, "required_versions", lambda: {"python": "0"})
        changed.add(book.notebook_key(notebook, {"size": 3}, "quick"))
    with monkeypatch.context() as patch:
        patch.setattr(book, "_hash", lambda file: file.name)
        changed.add(book.notebook_key(notebook, {"size": 3}, "quick"))
    assert len(changed - {key}) == 8


def test_an_executed_notebook_that_is_torn_is_run_again(small_book, tmp_path):
    torn = tmp_path / "_build" / "notebooks" / "quick" / "01_only.ipynb"
    torn.parent.mkdir(parents=True)
    torn.write_text('{"cells": [')
    assert "unchanged" not in small_book()
    assert read_notebook(torn).metadata.sparsebert.profile == "quick"


def test_a_student_edition_has_the_exercises_without_their_solutions(tmp_path, small_book):
    cells = [
        nbformat.v4.new_markdown_cell(
            "```{exercise}\n:label: ex\n\nWhy?\n```\n\n```{solution} ex\nBecause.\n```\nAfter."
        ),
        nbformat.v4.new_markdown_cell("Before.\n\n````{solution-start} ex-2\n:class: dropdown\n````\n\nSo:"),
        nbformat.v4.new_code_cell("print(42)"),
        nbformat.v4.new_markdown_cell("That is all.\n\n```{solution-end}\n```\n\nThe end."),
        nbformat.v4.new_code_cell("print(43)"),
    ]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "notebooks" / "01_only.ipynb")

    def rendered(edition: str) -> list[str]:
        shown = tmp_path / "_build" / edition / "source" / "notebooks" / "01_only.ipynb"
        return [cell.source for cell in read_notebook(shown).cells if cell.id != "in-the-package"]

    small_book()
    assert "01_only: unchanged" in small_book(edition="student", students=True)
    assert rendered(".") == [cell.source for cell in cells]
    assert rendered("student") == [
        "```{exercise}\n:label: ex\n\nWhy?\n```\n\nAfter.",
        "Before.",
        "The end.",
        "print(43)",
    ]


def test_a_student_edition_has_nothing_for_teachers(tmp_path, small_book):
    (tmp_path / "book" / "_toc.yml").write_text(
        "{format: jb-book, root: notebooks/01_only, "
        "parts: [{caption: Teach, chapters: [{file: a}, {file: notes}]}]}"
    )
    (tmp_path / "book" / "a.md").write_text("# A\n\n% for teachers only\nsecret\n\n% for all\nthe end\n")
    (tmp_path / "book" / "notes.md").write_text("% for teachers only\n# Notes\n\nsecret\n")
    small_book()
    small_book(edition="student", students=True)
    whole, handed_out = (tmp_path / "_build" / edition / "source" for edition in (".", "student"))
    assert "secret" in (whole / "a.md").read_text() and (whole / "notes.md").is_file()
    assert (handed_out / "a.md").read_text() == "# A\n\nthe end\n"
    assert not (handed_out / "notes.md").exists()
    parts = yaml.safe_load((handed_out / "_toc.yml").read_text())["parts"]
    assert parts == [{"caption": "Teach", "chapters": [{"file": "a"}]}]


def test_an_interrupted_book_says_that_the_same_command_goes_on(small_book, tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(book, "execute", interrupt)
    said = []
    with pytest.raises(KeyboardInterrupt):
        build_book(tmp_path, say=said.append)
    assert "the same command continues" in said[-1]


def test_a_chapter_that_is_listed_but_missing_is_named(small_book, tmp_path):
    (tmp_path / "notebooks" / "01_only.ipynb").unlink()
    with pytest.raises(InputError, match=r"lists notebooks/01_only, but there is no"):
        small_book()


# ---- the project's own book ----------------------------------------------------------------------

NOTEBOOKS = CHAPTERS
LISTED = [*NOTEBOOKS, *LESSONS]


def test_the_table_of_contents_lists_every_page_and_every_notebook():
    pages = {path.stem for path in (PROJECT / "book").glob("*.md")}
    listed = book.pages_in_toc(PROJECT)
    assert len(listed) == len(set(listed))
    assert set(listed) == pages | {"components", "reference", "this_build"} | {
        f"notebooks/{path.stem}" for path in LISTED
    }
    numbered = [page for page in listed if re.match(r"notebooks/\d", page)]
    assert [f"notebooks/{path.stem}" for path in NOTEBOOKS] == numbered


@pytest.mark.parametrize("notebook", LISTED, ids=lambda path: path.stem)
def test_notebooks_are_kept_without_outputs(notebook):
    code = [cell for cell in read_notebook(notebook).cells if cell.cell_type == "code"]
    assert not any(cell.outputs or cell.execution_count for cell in code)
    assert [set(cell.metadata) - {"tags", "mystnb"} for cell in code] == [set()] * len(code)


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
@pytest.mark.parametrize("profile", ["smoke", "quick", "full"])
def test_every_profile_fits_every_notebook(notebook, profile):
    assert parse_parameters(notebook, profile=profile)


def test_profiles_are_given_for_notebooks_that_exist():
    profiles = yaml.safe_load((PROJECT / "notebooks" / "profiles.yaml").read_text())
    assert set(profiles) <= {path.stem for path in LISTED}
    assert all(set(changes) <= {"smoke", "full"} for changes in profiles.values())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "parameters", "said"),
    [
        ("03", {"from_layers": "[1, 9]"}, "its layers are 0-1"),
        ("03", {"placements": "[all, 1-2]"}, "its layers are 0-1"),
        ("05", {"density": "0.01"}, "below the least of these texts"),
        ("06", {"plans": "[syntax]"}, "reads parses, which random tokens don.t have"),
    ],
)
def test_a_chapter_is_refused_before_it_trains_any_of_its_runs(tmp_path, monkeypatch, name, parameters, said):
    monkeypatch.setenv("SPARSEBERT_RUNS_DIR", str(tmp_path / "runs"))
    with pytest.raises(InputError, match=said):
        run_notebook(name, parameters, profile="smoke", out=tmp_path / "out.ipynb", root=PROJECT)
    assert not list(tmp_path.rglob("*.*"))


def test_the_page_of_components_has_all_that_are_registered():
    page = components_page()
    for registry in (PATTERNS, KERNELS, METHODS, ARCHITECTURES, REDUCTIONS):
        assert registry
        for name in registry:
            assert re.search(rf"^\| `{re.escape(name)}\b", page, re.MULTILINE), name
    assert all(f"| `{name}` |" in page for name in task_names() if not name.startswith("file:"))
    table = [line.count(" | ") for line in page.splitlines() if line.startswith("| `")]
    assert set(table) <= {1, 2}  # no cell holds what would begin another
