"""A page printed to PDF by the Chromium that is installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from sparsebert.errors import ChapterError, InputError

_BROWSERS = (
    *("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "microsoft-edge"),
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
)
_SECONDS = 600


def find_browser() -> str:
    """The path of Chromium or a browser made from it; `InputError` if there is none."""
    for name in _BROWSERS:
        if path := shutil.which(name):
            return path
    raise InputError(
        "a PDF is printed by Chromium, and neither it nor Chrome is installed; on Debian and Ubuntu: "
        "apt install chromium"
    )


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
