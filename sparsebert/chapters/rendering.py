"""A command that renders pages with Sphinx, with what it says kept in a file."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from papermill.exceptions import strip_color

from sparsebert.errors import ChapterError


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
