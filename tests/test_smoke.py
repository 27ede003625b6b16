"""Every chapter and every lab runs to its end in the smoke profile."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import CHAPTERS, LESSONS

from sparsebert.chapters import run_notebook

PROJECT = Path(__file__).resolve().parent.parent
LABS = [path for path in LESSONS if path.stem.startswith("lab_")]


@pytest.mark.slow
@pytest.mark.parametrize("notebook", [*CHAPTERS, *LABS], ids=lambda path: path.stem)
def test_a_notebook_runs_in_the_smoke_profile(notebook, tmp_path):
    assert run_notebook(notebook, profile="smoke", out=tmp_path / "out.ipynb", root=PROJECT).is_file()
