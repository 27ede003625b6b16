"""Every chapter and every lab that the smoke profile changes runs to its end in it."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import CHAPTERS, LESSONS

from sparsebert.chapters import parse_parameters, run_notebook

PROJECT = Path(__file__).resolve().parent.parent
LABS = [path for path in LESSONS if path.stem.startswith("lab_")]
CHANGED = [
    path
    for path in [*CHAPTERS, *LABS]
    if parse_parameters(path, profile="smoke") != parse_parameters(path)  # else the whole book runs it
]


@pytest.mark.slow
@pytest.mark.parametrize("notebook", CHANGED, ids=lambda path: path.stem)
def test_a_notebook_runs_in_the_smoke_profile(notebook, tmp_path):
    assert run_notebook(notebook, profile="smoke", out=tmp_path / "out.ipynb", root=PROJECT).is_file()
