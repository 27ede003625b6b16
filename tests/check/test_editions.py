"""Links of both editions, what students don't get, and a book that is built in a classroom."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from functools import cache
from pathlib import Path
from urllib.parse import unquote, urlsplit

import nbformat
import pytest
from built import BOOK, CLASSROOM, STUDENT, pages_of, read_page
from conftest import CHAPTERS, LESSONS

from sparsebert.chapters.tidying import without_solutions

FOR_TEACHERS = {"marking_notes.html"}
NO_NETWORK = dict.fromkeys(("http_proxy", "https_proxy", "all_proxy"), "http://127.0.0.1:9")


@pytest.mark.parametrize("html", [BOOK, STUDENT], ids=["book", "student"])
def test_links_inside_the_book_lead_somewhere(html: Path) -> None:
    dead = []
    for page in pages_of(html):
        for tag in read_page(html / page).find_all(["a", "link", "script", "img"]):
            link = urlsplit(tag.get("href") or tag.get("src") or "")
            if not (link.scheme or link.netloc):
                target = (html / page).parent / unquote(link.path) if link.path else html / page
                if not target.is_file() or (link.fragment and unquote(link.fragment) not in anchors(target)):
                    dead.append(f"{page}: {link.geturl()}")
    assert not dead, "\n".join(dict.fromkeys(dead))


@cache
def anchors(page: Path) -> set[str]:
    return {tag["id"] for tag in read_page(page.resolve()).find_all(id=True)}


def test_the_student_edition_is_the_book_without_its_solutions() -> None:
    assert set(pages_of(BOOK)) - set(pages_of(STUDENT)) == FOR_TEACHERS
    hidden = solution_lines([*CHAPTERS, *LESSONS])
    assert hidden
    for file in STUDENT.rglob("*"):
        if file.suffix in (".html", ".ipynb", ".md", ".txt", ".js") and "_static" not in file.parts:
            text = read_page(file).get_text() if file.suffix == ".html" else file.read_text(encoding="utf-8")
            found = [
                line for line in ["{solution", *hidden] if line in text or json.dumps(line)[1:-1] in text
            ]
            assert not found, f"{file}: {found}"
    for page in pages_of(STUDENT):
        whole, handed_out = read_page(BOOK / page), read_page(STUDENT / page)
        assert len(whole.select("div.exercise")) == len(handed_out.select("div.exercise"))
        assert not handed_out.select("div.solution")


def solution_lines(notebooks: list[Path]) -> set[str]:
    """Lines that stand in solutions alone, long enough to be told from others."""
    books = [nbformat.read(notebook, as_version=4) for notebook in notebooks]
    lines = {line.strip() for book in books for cell in book.cells for line in cell.source.splitlines()}
    handed_out = "\n".join(cell.source for book in books for cell in without_solutions(book).cells)
    return {line for line in lines if len(re.findall(r"\w", line)) > 20 and line not in handed_out}


def test_a_book_is_built_in_a_classroom_without_a_network(tmp_path: Path) -> None:
    room = tmp_path / "class room"
    shutil.copytree(CLASSROOM, room)
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
    settings = {
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_NO_CACHE_DIR": "1",
        "SPARSEBERT_CACHE_DIR": str(tmp_path / "cache"),
    }
    built = subprocess.run(
        ["make", "book"], cwd=room, env=kept | settings | NO_NETWORK, capture_output=True, text=True
    )
    assert not built.returncode, built.stdout + built.stderr
    assert pages_of(room / "_build" / "html") == pages_of(BOOK)
    shutil.rmtree(room)
