"""Pages rendered with Sphinx, with what it says kept in a file, and printed to PDF by Chromium."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from papermill.exceptions import strip_color

from sparsebert.errors import ChapterError, InputError, shown

_BROWSERS = (
    *("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "microsoft-edge"),
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
)
_SECONDS = 600


def render(what: str, arguments: Sequence[str | Path], log: Path, source: Path) -> None:
    """Runs Python with these arguments; `ChapterError` with the warnings that it gave, if it fails.

    `what` is rendered, and all that is said goes to `log`. Paths of the folder `source` are shortened.
    """
    with log.open("w", encoding="utf-8") as stream:
        rendered = subprocess.run(
            [sys.executable, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            env={**os.environ, "NO_COLOR": "1", "PYTHONWARNINGS": "ignore"},
        )
    if rendered.returncode:
        lines = [strip_color(line) for line in log.read_text(encoding="utf-8").splitlines()]
        said = [line for line in lines if re.search(r"\b(WARNING|ERROR|CRITICAL)\b", line)] or lines[-20:]
        said = [line.replace(str(source), "book") for line in said]
        raise ChapterError("\n    ".join([f"{what} could not be rendered (all of it in {log}):", *said]))


def find_browser() -> str:
    """The path of Chromium or a browser made from it: that of SPARSEBERT_BROWSER, or the first that is found.

    Raises `InputError` if there is none.
    """
    named = os.environ.get("SPARSEBERT_BROWSER")
    for name in (named,) if named else _BROWSERS:
        if path := shutil.which(name):
            return path
    lacking = f"SPARSEBERT_BROWSER names '{shown(named)}', which is none" if named else "there is none"
    raise InputError(f"this needs Chromium or Chrome, and {lacking}; on Debian: apt install chromium")


def print_page(browser: str, page: Path, pdf: Path) -> None:
    """Prints a page of HTML, its formulas included; `ChapterError` if the browser fails."""
    with tempfile.TemporaryDirectory() as profile:
        made = Path(profile, "made.pdf")
        command = [browser, "--headless", "--disable-gpu", f"--user-data-dir={profile}/profile"]
        command += ["--no-sandbox"] * (os.geteuid() == 0)  # a sandbox can't be made by root
        command += ["--virtual-time-budget=120000", "--no-pdf-header-footer", f"--print-to-pdf={made}"]
        try:
            told = subprocess.run(
                [*command, page.resolve().as_uri()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=_SECONDS,
            ).stdout
        except subprocess.TimeoutExpired:
            told = f"it took more than {_SECONDS} s"
        if not made.is_file():
            last = told.strip().splitlines()[-1:] or ["it said nothing"]
            raise ChapterError(f"{browser} could not print {page}: {last[0]}")
        shutil.copyfile(made, pdf)
