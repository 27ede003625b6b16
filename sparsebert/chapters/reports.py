"""A report: the chapter on a task of one's own, run on a finished search and rendered as a page alone."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nbformat

from sparsebert.chapters.book import render_pages
from sparsebert.chapters.notebooks import find_notebook, find_root, read_notebook, write_notebook
from sparsebert.chapters.parameters import parse_parameters
from sparsebert.chapters.running import execute

CHAPTER = "09_your_own_task"
TEACHING = "teaching"  # tag of cells that only the book has


def write_report(parameters: Mapping[str, Any], folder: str | Path, root: str | Path | None = None) -> Path:
    """Runs the chapter with these parameters and without its cells for teaching; returns the page's path.

    In `folder` are then `report.ipynb`, the executed notebook, and `html/index.html`, the page. Raises
    `InputError` outside a clone of the project and for a wrong parameter, `ChapterError` if a cell or the
    rendering fails.
    """
    root, folder = find_root(root), Path(folder)
    chapter = find_notebook(CHAPTER, root)
    values = parse_parameters(chapter) | dict(parameters)
    executed = folder.absolute() / "report.ipynb"
    with tempfile.TemporaryDirectory() as work:
        given, source = Path(work, chapter.name), Path(work, "source")
        write_notebook(given, without_teaching(read_notebook(chapter)))
        execute(given, values, "quick", executed, Path.cwd(), folders=[])
        shutil.copytree(root / "book" / "_static", source / "_static")
        (source / "references.bib").touch()
        (source / "_toc.yml").write_text("root: index\nformat: jb-book\n", encoding="utf-8")
        write_notebook(source / "index.ipynb", without_code(read_notebook(executed)))
        render_pages("the report", root, Path(work), log=folder / "report.log")
        html = folder / "html"
        shutil.rmtree(html, ignore_errors=True)
        shutil.move(Path(work, "html"), html)
    os.remove(folder / "report.log")
    return html / "index.html"


def without_teaching(book: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """The notebook without the cells that are tagged `teaching`, in place, with a title of its own."""
    kept = [cell for cell in book.cells if TEACHING not in cell.metadata.get("tags", [])]
    title = nbformat.v4.new_markdown_cell("# How sparse may attention be?", id="title")
    book.cells = [title, *kept]
    return book


def without_code(book: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """The notebook with all code hidden, in place: a page of sentences, figures and tables."""
    for cell in book.cells:
        if cell.cell_type == "code":
            cell.metadata["tags"] = ["remove-input"]
    return book
