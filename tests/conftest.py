"""What the tests of runs share: folders of their own and small data whose texts are worth parsing."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("untimed", deadline=None)  # machines may be busy
settings.load_profile("untimed")

LONGEST = "test_whole_book"
LONG = ("test_degrees", "test_kernels", "test_tasks", "test_visible")  # of many tests, none of which is slow
PROJECT = Path(__file__).resolve().parents[1]
CHAPTERS = sorted((PROJECT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
LESSONS = sorted((PROJECT / "notebooks").glob("[a-z]*.ipynb"))  # labs, and the example of a day

_SUBJECTS = ("the old film", "a quiet actor", "this plot", "every scene", "the director of the story")
_VERBS = {"bores": -1.5, "annoys": -0.5, "pleases": 0.5, "delights": 1.5}
_OBJECTS = ("us", "the whole audience with great care", "critics who wait")


def pytest_collection_modifyitems(items):
    """Files are handed out in this order: long ones first, since one that begins last runs alone."""

    def place(item):
        file = item.path.stem
        return file != LONGEST, file not in LONG and not item.get_closest_marker("slow")

    items.sort(key=place)


@pytest.fixture(autouse=True)
def own_runs(tmp_path, monkeypatch):
    """No test writes into the project's own runs or reads a person's data."""
    monkeypatch.setenv("SPARSEBERT_RUNS_DIR", str(tmp_path / "runs"))
    monkeypatch.delenv("SPARSEBERT_DATA_DIR", raising=False)


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    """A working folder with its own cache, `classes.csv` and `scores.csv` of 60 sentences each."""
    monkeypatch.setenv("SPARSEBERT_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    rows = [
        (f"{subject} {verb} {complement}.", score)
        for subject, (verb, score), complement in itertools.product(_SUBJECTS, _VERBS.items(), _OBJECTS)
    ]
    classes = [f"{text},{'good' if score > 0 else 'bad'}" for text, score in rows]
    scores = [f"{text},{score + len(text) / 100:.2f}" for text, score in rows]
    (tmp_path / "classes.csv").write_text("\n".join(["text,label", *classes]) + "\n")
    (tmp_path / "scores.csv").write_text("\n".join(["text,label", *scores]) + "\n")
    return tmp_path


@pytest.fixture
def small(workspace):
    """Fields of a run of 4 steps on `classes.csv`."""
    return {
        "task": f"file:{workspace / 'classes.csv'}",
        "encoder": "tiny",
        "train_size": 32,
        "batch_size": 8,
        "max_length": 32,
        "learning_rate": 1e-2,
        "precision": "fp32",
    }


@pytest.fixture(scope="session")
def large(tmp_path_factory):
    """The name of a task of many different texts; labels are all that runs of a fake need."""
    path = tmp_path_factory.mktemp("large") / "large.csv"
    rows = [
        f"the {number} words of text {number * 7919},{'good' if number % 2 else 'bad'}"
        for number in range(4500)
    ]
    path.write_text("\n".join(["text,label", *rows]) + "\n")
    return f"file:{path}"
