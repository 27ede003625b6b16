"""The whole book: rendered without a warning from recorded runs, and what its pages then have."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import yaml
from conftest import CHAPTERS, LESSONS

import sparsebert
from sparsebert.chapters import book, build_book
from sparsebert.chapters.notebooks import read_notebook
from sparsebert.figures.page import AGREES

PROJECT = Path(__file__).resolve().parent.parent
NOTEBOOKS = [*CHAPTERS, *LESSONS]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The whole book, its runs found on record, rendered with every warning an error."""
    folder = tmp_path_factory.mktemp("book")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPARSEBERT_RUNS_DIR", str(folder / "runs"))
        build_book(PROJECT, build=folder / "build")
        said = []
        index = build_book(PROJECT, build=folder / "build", say=said.append)
        build_book(PROJECT, build=folder / "build", slides=True)
    yield index.parent, said
    shutil.rmtree(folder)


def test_the_whole_book_is_rendered_without_a_warning(built):
    html = built[0]
    for page in book.pages_in_toc(PROJECT):
        assert (html / f"{page}.html").is_file(), page
    assert (html / "index.html").is_file()


def test_the_first_page_shows_the_verdicts_of_the_last_chapter(built):
    shown = [
        set(re.findall(r"<td>(C\d): ", (built[0] / page).read_text()))
        for page in ("intro.html", "notebooks/07_the_claims_tested.html")
    ]
    assert shown[0] == shown[1] == {f"C{number}" for number in range(1, 7)}


def test_a_book_in_which_nothing_changed_is_built_from_what_is_there(built):
    assert [line.split(": ")[1] for line in built[1]] == ["unchanged"] * (len(NOTEBOOKS) + 1)


def test_a_lecture_is_made_from_the_chapters_of_the_book(built):
    lecture = (built[0].parent / "slides" / "lecture.html").read_text(encoding="utf-8")
    assert len(re.findall(r'<aside class="notes">', lecture)) >= 18
    assert "These runs do not show" not in lecture


def test_every_figure_of_the_book_has_a_caption_a_number_and_alt_text(built):
    figures = []
    for page in (built[0] / "notebooks").glob("*.html"):
        text = page.read_text()
        found = re.findall(r"<figure.*?</figure>", text, re.DOTALL)
        assert len(found) == len(re.findall(r'<img [^>]*src="\.\./_images', text)), page.name
        figures += found
    assert len(figures) >= len(NOTEBOOKS)
    assert all(re.search(r'<img [^>]*alt="[^"]{20,}"', figure) for figure in figures)
    assert all('class="caption-number"' in figure for figure in figures)
    made = re.compile(r"Made 20\d\d-\d\d-\d\d.* on .*, commit ")
    told = [bool(made.search(re.sub(r"\s+", " ", figure))) for figure in figures]
    assert sum(told) >= 25  # those that show runs or measurements; others draw patterns and codes


def test_the_rendered_book_names_no_folder_of_this_machine_and_loads_nothing_unknown(built):
    for page in built[0].rglob("*.html"):
        text = page.read_text()
        assert str(PROJECT) + "/" not in text, page.name
        loaded = re.findall(r'<(?:script|link|img)[^>]*(?:src|href)="(https?://[^"]*)"', text)
        assert all("mathjax" in url for url in loaded), (page.name, loaded)


def test_the_rendered_book_has_what_surrounds_the_chapters(built):
    pages = yaml.safe_load((built[0].parent / "source" / "pages.yml").read_text())
    for page, known in pages.items():  # there is no day where git doesn't know the page
        assert f"Last updated on {known.get('updated', '')}" in (built[0] / f"{page}.html").read_text() or (
            "updated" not in known
        ), page
    reference = (built[0] / "reference.html").read_text()
    assert 'href="genindex.html"' in reference
    for name in sparsebert.__all__:
        assert name == "__version__" or f'id="sparsebert.{name}"' in reference, name
    for notebook in NOTEBOOKS:
        page = (built[0] / "notebooks" / f"{notebook.stem}.html").read_text()
        assert 'href="../reference.html#sparsebert.' in page or notebook not in CHAPTERS
        assert notebook.stem in reference or "Explained in this chapter" not in page
        download = read_notebook(built[0] / "_sources" / "notebooks" / notebook.name)
        assert download.cells[0].id == "install-sparsebert"
        text = "".join(cell.source for cell in download.cells if cell.cell_type == "markdown")
        assert not re.search(r"\{(doc|ref|term|numref|(glue|cite|py):\w+)\}`", text)
    static = sum(file.stat().st_size for file in (built[0] / "_static").rglob("*") if file.is_file())
    assert static < 12e6  # MathJax alone has 24 MB


def test_the_runs_bear_out_each_finding(built):
    """A sentence that is written by hand is compared with the runs that it is about."""
    for notebook in NOTEBOOKS:
        executed = read_notebook(built[0].parent / "notebooks" / "quick" / notebook.name)
        outputs = [output for cell in executed.cells for output in cell.get("outputs", [])]
        findings = [output for output in outputs if AGREES in output.get("metadata", {})]
        texts = [output["data"]["text/plain"] for output in findings if not output["metadata"][AGREES]]
        assert not texts, f"{notebook.stem}: {texts}"


def test_tables_that_notebooks_compute_have_captions_and_named_columns(built):
    for page in (built[0] / "notebooks").glob("*.html"):
        for table in re.findall(r"<table[^>]*dataframe.*?</table>", page.read_text(), re.DOTALL):
            if "<caption>" in table:
                assert all(map(str.strip, re.findall(r"<th>(.*?)</th>", table, re.DOTALL))), page.name
