"""Slides: filled in from executed chapters, rendered without anything from the network."""

from __future__ import annotations

import base64
import re
from pathlib import Path

import nbformat
import pytest
from conftest import CHAPTERS

from sparsebert.chapters import build_book
from sparsebert.chapters.slides import build_slides, filled_in, findings_in
from sparsebert.errors import InputError
from sparsebert.figures.page import AGREES

PROJECT = Path(__file__).resolve().parents[1]
DECK = (PROJECT / "book" / "slides" / "lecture.md").read_text(encoding="utf-8")
ASKED = re.findall(r"^`{3}\{chapter-(figure|finding)\} (\d\d) (\S+)\n`{3}$", DECK, re.MULTILINE)
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="


def finding(text: str, agrees: bool = True) -> nbformat.NotebookNode:
    data, metadata = {"text/markdown": text, "text/plain": text}, {AGREES: agrees}
    output = nbformat.v4.new_output("execute_result", data, metadata=metadata, execution_count=1)
    return nbformat.v4.new_code_cell("figures.finding()", outputs=[output])


def figure(name: str, alt: str) -> nbformat.NotebookNode:
    about = {"figure": {"name": name, "caption": "A caption."}, "image": {"alt": alt}}
    output = nbformat.v4.new_output("display_data", {"image/png": PIXEL})
    return nbformat.v4.new_code_cell("figures.show()", outputs=[output], metadata={"mystnb": about})


CHAPTER = nbformat.v4.new_notebook(
    cells=[
        finding("**It costs 1.2\npoints.**"),
        figure("fig-a", "Points of [CLS]\nalone."),
        finding("**These runs do not show it.** It costs 3.", agrees=False),
        figure("fig-b", "A line."),
    ]
)


def filled(deck: str, saved: dict[str, bytes] | None = None) -> str:
    def save(name: str, image: bytes) -> str:
        (saved if saved is not None else {})[name] = image
        return f"{name}.png"

    return filled_in(deck, {"03": CHAPTER}, save)


def test_a_deck_gets_its_figures_and_findings():
    saved = {}
    asked = "```{chapter-finding} 03 fig-b\n```\n\n```{chapter-figure} 03 fig-a\n```\n"
    deck = f"# A\n\n{asked}\n```python\n1\n```\n"
    assert filled(deck, saved) == (
        "# A\n\n- **These runs do not show it.** It costs 3.\n\n"
        "![Points of \\[CLS\\] alone.](fig-a.png)\n\n```python\n1\n```\n"
    )
    assert saved == {"fig-a": base64.b64decode(PIXEL)}


def test_a_finding_has_a_number_and_the_names_of_its_figures():
    said = ["It costs 1.2 points.", "**These runs do not show it.** It costs 3."]
    assert findings_in(CHAPTER) == dict(zip(["1", "2", "fig-a", "fig-b"], said * 2, strict=True))
    assert findings_in(nbformat.v4.new_notebook()) == {}


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("figure} 04 fig-a", "figure of '04 fig-a'; .*The chapters are 03"),
        ("figure} 03 fig-a fig-b", "write the number of a chapter and the name of a figure"),
        ("figure} ", "write the number of a chapter"),
        ("figure} 03", "figure '' of chapter 03; its figures are fig-a, fig-b"),
        ("figure} 03 fig-c", "figure 'fig-c' of chapter 03; its figures are fig-a, fig-b"),
        ("finding} 03 3", "finding '3' of chapter 03; its findings are 1, 2, fig-a, fig-b"),
    ],
)
def test_what_no_chapter_shows_is_refused(asked, said):
    with pytest.raises(InputError, match=said):
        filled(f"```{{chapter-{asked}\n```")


@pytest.mark.parametrize(("kind", "number", "name"), ASKED)
def test_the_lecture_asks_for_what_the_chapters_have(kind, number, name):
    (notebook,) = [path for path in CHAPTERS if path.stem[:2] == number]
    sources = [
        cell.source for cell in nbformat.read(notebook, as_version=4).cells if cell.cell_type == "code"
    ]
    figures = [place for place, source in enumerate(sources) if f'"{name}"' in source]
    findings = [place for place, source in enumerate(sources) if "figures.finding(" in source]
    if name.isdigit():
        assert len(findings) >= int(name)
    else:
        assert figures and (kind == "figure" or findings[0] < figures[0])


def test_the_lecture_has_about_twenty_slides_with_notes():
    slides = re.split(r"^#+ ", DECK, flags=re.MULTILINE)[1:]
    assert 18 <= len(slides) <= 24
    assert all("{revealjs-notes}" in slide for slide in slides)


def test_slides_are_made_from_a_small_book_and_ask_no_network(tmp_path, monkeypatch):
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "_config.yml").write_text("{}")
    shows = (
        "from matplotlib import pyplot\nfrom sparsebert import figures\n"
        "figures.show(pyplot.figure(), name='fig-a', caption='A.', alt='Nothing but white.')"
    )
    cells = [nbformat.v4.new_code_cell(shows)]
    cells.append(nbformat.v4.new_code_cell("figures.finding('It costs 1.2 points.', True, '')"))
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "notebooks" / "01_only.ipynb")
    deck = tmp_path / "book" / "slides"
    (deck / "_static").mkdir(parents=True)
    (deck / "_static" / "slides.css").write_text("")
    (tmp_path / "book" / "_toc.yml").write_text("{format: jb-book, root: notebooks/01_only}")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        InputError, match=r"the slides are made from .*lecture\.md, and there is no such file"
    ):
        build_slides(tmp_path, [], tmp_path)
    asked = "```{chapter-figure} 01 fig-a\n```\n\n```{chapter-finding} 01 1\n```\n"
    (deck / "lecture.md").write_text(f"# A\n\n## B\n\n{asked}\n```{{revealjs-notes}}\nSay so.\n```\n")
    page = build_book(tmp_path, slides=True, say=lambda _: None)
    assert page == tmp_path / "_build" / "slides" / "lecture.html"
    text = page.read_text(encoding="utf-8")
    assert text.count('<aside class="notes">') == 1 and "It costs 1.2 points." in text
    assert 'alt="Nothing but white."' in text
    asked_for = re.findall(r"""(?:src|href)=["']([^"'#?]+)""", text)
    assert asked_for and all((page.parent / name).is_file() for name in asked_for), asked_for
    sheets = [page.parent / name for name in asked_for if name.endswith(".css")]
    for sheet in sheets:
        for name in re.findall(r"""url\(["']?(?!data:)([^"')?#]+)""", sheet.read_text(encoding="utf-8")):
            assert (sheet.parent / name).is_file(), f"{sheet.name}: {name}"
            sheets += [sheet.parent / name] * name.endswith(".css")
    assert len(sheets) > 3
