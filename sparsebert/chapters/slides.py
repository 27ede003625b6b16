"""Slides for a lecture, whose figures and findings come from executed chapters.

A deck is a page of MyST Markdown in `book/slides/`, with a slide for each heading. Two directives of our own
ask for what a chapter shows:

    ```{chapter-figure} 03 fig-which-placement
    ```

    ```{chapter-finding} 03 fig-which-placement
    ```

The first is a figure by its name, the second the finding above that figure, or the finding with a number, in
the chapter's order.
"""

from __future__ import annotations

import base64
import os
import re
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import nbformat

from sparsebert.chapters.rendering import render
from sparsebert.errors import InputError, shown

_ASKED = re.compile(r"^(`{3,})\{chapter-(figure|finding)\}(.*)\n\1[ \t]*$", re.MULTILINE)
_SETTINGS = """\
project = "sparsebert"
language = "en"
root_doc = "lecture"
extensions = ["myst_parser", "sphinx_revealjs"]
exclude_patterns = ["_static"]
revealjs_html_theme = "revealjs-simple"
revealjs_style_theme = "white"
revealjs_static_path = ["_static"]
revealjs_css_files = ["slides.css"]
revealjs_script_plugins = [{"name": "RevealNotes", "src": "revealjs/plugin/notes/notes.js"}]
revealjs_script_conf = {
    "width": 1280, "height": 720, "margin": 0.04, "center": False,
    "hash": True, "slideNumber": "c/t", "transition": "none",
}
"""


def build_slides(root: Path, executed: Iterable[Path], build: Path) -> Path:
    """Renders the deck `book/slides/lecture.md` with what executed chapters show; returns its path.

    The slides need no network. Raises `InputError` where the deck asks for what no chapter shows, and
    `ChapterError` if the rendering fails.
    """
    deck, source, work = root / "book" / "slides", build / "slides-source", build / "slides-work"
    if not (deck / "lecture.md").is_file():
        raise InputError(f"the slides are made from {deck / 'lecture.md'}, and there is no such file")
    for folder in (source, work):
        shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(deck, source)
    (source / "figures").mkdir()
    (source / "conf.py").write_text(_SETTINGS, encoding="utf-8")
    numbered = [path for path in executed if path.stem[0].isdigit()]
    chapters = {path.stem[:2]: nbformat.read(path, as_version=4) for path in numbered}

    def save(name: str, image: bytes) -> str:
        (source / "figures" / f"{name}.png").write_bytes(image)
        return f"figures/{name}.png"

    text = (deck / "lecture.md").read_text(encoding="utf-8")
    (source / "lecture.md").write_text(filled_in(text, chapters, save), encoding="utf-8")
    command = ["-m", "sphinx", "-W", "--keep-going", "-b", "revealjs", "-d"]
    command = [*command, source / ".doctrees", source, work]
    render("the slides", command, build / "slides.log", source)
    html = build / "slides"
    shutil.rmtree(html, ignore_errors=True)
    os.replace(work, html)
    shutil.rmtree(source)
    return html / "lecture.html"


def filled_in(
    deck: str, chapters: Mapping[str, nbformat.NotebookNode], save: Callable[[str, bytes], str]
) -> str:
    """A deck's Markdown with the figures and findings that it asks for.

    `save` takes a figure's name and PNG and returns the path that the deck shows.
    """

    def given(asked: re.Match[str]) -> str:
        _, kind, arguments = asked.groups()
        number, name, *more = [*arguments.split(), "", ""]
        if any(more) or number not in chapters:
            some = ", ".join(sorted(chapters))
            raise InputError(
                f"the slides ask for a {kind} of '{shown(arguments.strip())}'; write the number of a chapter "
                f"and the name of a figure. The chapters are {some}"
            )
        if kind == "finding":
            return f"- {_of(kind, number, name, findings_in(chapters[number]))}"
        alt, image = _of(kind, number, name, figures_in(chapters[number]))
        return f"![{alt}]({save(name, image)})"

    return _ASKED.sub(given, deck)


def figures_in(chapter: nbformat.NotebookNode) -> dict[str, tuple[str, bytes]]:
    """The figures of an executed chapter: for each name its alt text, on one line, and its PNG."""
    found = {}
    for cell in chapter.cells:
        about = cell.metadata.get("mystnb", {})
        if "figure" in about:
            image = base64.b64decode(cell.outputs[0].data["image/png"])
            alt = re.sub(r"([\[\]])", r"\\\1", " ".join(about["image"]["alt"].split()))
            found[about["figure"]["name"]] = alt, image
    return found


def findings_in(chapter: nbformat.NotebookNode) -> dict[str, str]:
    """The findings of an executed chapter, in Markdown on one line each.

    Each stands there by its number in the chapter's order, and by the names of the figures below it.
    """
    from sparsebert.figures.page import AGREES  # late: it brings matplotlib

    found: list[str] = []
    named = {}
    for cell in chapter.cells:
        for output in cell.get("outputs", []):
            agrees = output.get("metadata", {}).get(AGREES)
            if agrees is not None:
                text = " ".join(output.data["text/markdown"].split())
                found.append(text.removeprefix("**").removesuffix("**") if agrees else text)
        if found and "figure" in (about := cell.metadata.get("mystnb", {})):
            named[about["figure"]["name"]] = found[-1]
    return {str(place): text for place, text in enumerate(found, start=1)} | named


def _of(kind: str, number: str, name: str, found: Mapping[str, Any]) -> Any:
    if name not in found:
        some = f"its {kind}s are {', '.join(found)}" if found else f"it has no {kind}s"
        raise InputError(f"the slides ask for {kind} '{shown(name)}' of chapter {number}; {some}")
    return found[name]
