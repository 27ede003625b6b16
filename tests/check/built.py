"""What `make check` has built before these tests look at it, and what they share."""

from __future__ import annotations

from pathlib import Path

from bs4 import BeautifulSoup

PROJECT = Path(__file__).resolve().parents[2]
BOOK, STUDENT, CLASSROOM, SLIDES = (
    PROJECT / "_build" / made for made in ("html", "student/html", "classroom", "slides")
)


def pages_of(html: Path) -> list[str]:
    """Every page of a rendered book, as in its address."""
    found = [page.relative_to(html).as_posix() for page in html.rglob("*.html")]
    return sorted(page for page in found if not page.startswith("_"))


def read_page(file: Path) -> BeautifulSoup:
    return BeautifulSoup(file.read_text(encoding="utf-8"), "html.parser")
