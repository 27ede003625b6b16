"""Every chapter runs to its end in the smoke profile."""

from __future__ import annotations

from pathlib import Path

import pytest

from sparsebert.chapters import chapters, run_notebook

PROJECT = Path(__file__).resolve().parent.parent


@pytest.mark.slow
@pytest.mark.parametrize("chapter", chapters(PROJECT), ids=lambda path: path.stem)
def test_a_chapter_runs_in_the_smoke_profile(chapter, tmp_path):
    assert run_notebook(chapter, profile="smoke", out=tmp_path / "out.ipynb", root=PROJECT).is_file()
