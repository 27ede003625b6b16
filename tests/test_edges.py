"""Odd input for every command: a sentence, no traceback, and nothing left behind by a refusal."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sparsebert import machine
from sparsebert.cli import main

# Set EDGES_EXAMPLES to look further than a test has time for.
EXAMPLES = int(os.environ.get("EDGES_EXAMPLES", "0"))


def often(examples: int):
    return settings(
        max_examples=EXAMPLES or examples,
        derandomize=not EXAMPLES,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


# ---- what is typed

PATHS = [
    *(
        "",
        "~",
        "~nosuchuser",
        "~nosuchuser/x.csv",
        ".",
        "..",
        "/",
        "n" * 300,
        "/".join("n" * 250 for _ in range(20)),
    ),
    *(
        "folder",
        "pipe",
        "loop",
        "loop/x",
        "nowhere",
        "empty",
        "binary",
        "deep.json",
        "closed",
        "rows.csv/x",
        "rows.csv",
    ),
    *(
        "/dev/null",
        "/dev/zero",
        "/dev/full",
        "/proc/self/mem",
        "/proc/new/x",
        "a\0b",
        "a\nb",
        "huge.csv",
        "x.ipynb",
    ),
    *(
        "folder/x.ipynb",
        "loop/x.ipynb",
        "folder.ipynb",
        "pipe.yaml",
        "x.tar.gz",
        "loop/x.tar.gz",
        "huge.yaml",
    ),
]
NUMBERS = [
    *(
        "",
        "0",
        "-1",
        "1e400",
        "nan",
        "inf",
        "-inf",
        "0x10",
        "1_000",
        "007",
        "1" * 5000,
        "1e-400",
        "½",
        "٣",
        "1:30",
    ),
    *("true", "None", "1.5", " 3 ", "9" * 18, "+", "--", "2**3"),
]
YAML = [
    *("", "~", "[]", "{}", "[1, 2", "{a: 1", "a: b: c", "!!python/name:os.system x", "2024-02-30", "&a [*a]"),
    *(
        "*a",
        "- " * 400,
        "[" * 5000,
        "{? [a] : 1}",
        "a: 1\na: 2",
        "\t- x",
        "--- 1\n--- 2",
        "%YAML 1.1\n---\n010",
        "\0",
    ),
    *(
        "{seed: [0, 1], train_size: 0020}",
        "{seed: [1, 1e999]}",
        "{degrees: {price: {}}}",
        "{zip: [[1]]}",
        "'",
        '"',
    ),
    *(
        "{exclude: [1]}",
        "{grids: [[]]}",
        "{grids: {}}",
        "{task: [[reviews]]}",
        "{task: {a: 1}}",
        "{labels: 5}",
        "5",
    ),
    *(
        "{seed: .inf}",
        "{seed: .nan}",
        "{plan: [~]}",
        "{encoder: 5}",
        "{encoder: []}",
        "<<: 5",
        "{zip: {seed: []}}",
    ),
]
PATTERNS = [
    *(
        "",
        "dense",
        "neighbour(",
        "neighbour()",
        "neighbour(-1)",
        "neighbour(1e9)",
        "neighbour(99999999999999999999)",
    ),
    *(
        "|",
        "neighbour(1) | " * 600 + "dense",
        "(" * 3000,
        "neighbour(1) - " * 600 + "dense",
        "learned",
        "@",
        "@ late",
    ),
    *(
        'learned("loop")',
        'learned("~nosuchuser")',
        'learned("pipe")',
        'learned("binary")',
        'learned("n")',
        "ｄｅｎｓｅ",
    ),
    *(
        'learned("deep.json")',
        'weighted(dense, "folder")',
        "random(2, seed=-1)",
        "random(9" + "9" * 5000 + ")",
        "\0",
    ),
    *(
        "global(cls, cls)",
        "global(x)",
        "syntax(hops=0)",
        "lexical(0)",
        "random(like=random(like=dense))",
        "; ;",
        "a\nb",
    ),
    *(
        "neighbour(1) @ 99",
        "neighbour(1) @ 5-2",
        "neighbour(1) @ " + "9" * 5000,
        "dense; dense",
        "neighbour(1) @ -1",
    ),
]
ODD = {"path": PATHS, "number": NUMBERS, "yaml": YAML, "pattern": PATTERNS}
ODD["any"] = [value for values in ODD.values() for value in values]

# Each ends in a refusal whatever stands for the word in angle brackets, or is done in a moment.
FINETUNE = ["finetune", "--encoder", "tiny", "--task", "file:rows.csv", "--plan", "neighbour(1) @ 7"]
BENCH = ["bench", "attention", "--lengths", "8", "--heads", "1", "--width", "8", "--rounds", "1"]
BENCH = [*BENCH, "--contender", "reference"]
COMMANDS = [
    *([*FINETUNE, f"--{name}", "<path>"] for name in ("data-dir", "prepared", "runs-dir", "save", "encoder")),
    *(
        [*FINETUNE, f"--{name}", "<number>"]
        for name in ("train-size", "eval-size", "epochs", "batch-size", "learning-rate", "max-length", "seed")
    ),
    *([*FINETUNE, f"--{name}", "<any>"] for name in ("precision", "kernel", "method", "target-density")),
    [*FINETUNE, "--task", "<any>"],
    [*FINETUNE, "--task", "file:<path>"],
    [*FINETUNE, "--task", "file:rows.csv,<path>"],
    [*FINETUNE, "--task", "file:none.csv", "--plan", "<pattern>"],
    ["evaluate", "<path>"],
    ["evaluate", "folder", "--task", "<any>"],
    ["evaluate", "folder", "--eval-size", "<number>"],
    ["degrees", "<any>", "x.json"],
    ["degrees", "ec71057ba6a7b67d", "<path>", "--seed", "3"],
    ["sweep", "<path>", "--dry-run"],
    ["sweep", "grid.yaml", "--dry-run", "--only", "<any>"],
    *(
        ["sweep", "grid.yaml", "--dry-run", "--only", f"{name}=<yaml>"]
        for name in ("seed", "plan", "degrees", "task")
    ),
    ["sweep", "grid.yaml", "--dry-run", "--budget", "<number>"],
    ["sweep", "grid.yaml", "--dry-run", "--workers", "<number>"],
    ["sweep", "grid.yaml", "--dry-run", "--runs-dir", "<path>"],
    ["sweep", "grid.yaml", "--dry-run", "--executor", "<any>"],
    ["prepare", "<any>", "--encoder", "tiny", "--out", "out"],
    ["prepare", "file:none.csv", "--out", "<path>"],
    ["prepare", "file:rows.csv", "--encoder", "tiny", "--out", "rows.csv/<path>"],
    ["bundle", "<path>", "--out", "x.tar.gz", "--no-wheels"],
    ["bundle", "none.yaml", "--out", "<path>", "--no-wheels"],
    ["bundle", "grid.yaml", "--out", "rows.csv/x.tar.gz", "--part-size", "<number>"],
    ["run", "<any>"],
    ["run", "01", "-p", "<any>", "--out", "rows.csv/x.ipynb"],
    *(
        ["run", "03", "-p", f"{name}=<yaml>", "--out", "rows.csv/x.ipynb"]
        for name in ("rows", "patterns", "from_layers", "learning_rate", "seeds", "placements")
    ),
    ["run", "01", "--profile", "<any>"],
    ["run", "01", "-p", "rows=-1", "--out", "<path>"],
    ["patterns", "<pattern>", "--encoder", "tiny", "--sentence", "Good film."],
    ["patterns", "neighbour(1)", "--encoder", "<path>"],
    ["patterns", "neighbour(1)", "--encoder", "tiny", "--sentence", "<any>"],
    ["results", "merge", "<path>", "--into", "no/such"],
    ["results", "merge", "empty", "--into", "<path>"],
    ["results", "unpack", "<any>", "--runs-dir", "runs"],
    ["results", "unpack", "experiments", "--runs-dir", "rows.csv/<path>"],
    [*BENCH, "--pattern", "<pattern>"],
    [*BENCH, "--plot", "<path>"],
    *([*BENCH, f"--{name}", "<number>"] for name in ("lengths", "heads", "width", "rounds", "longest-dense")),
    *([*BENCH, f"--{name}", "<any>"] for name in ("dtype", "device", "contender", "seed")),
    ["bench", "model", "--encoder", "tiny", "--lengths", "8", "--rounds", "1", "--mode", "<any>"],
    ["bench", "model", "--encoder", "<path>", "--lengths", "8", "--rounds", "1"],
    ["bench", "finetune", "--task", "file:none.csv", "--lengths", "<number>"],
    ["tasks", "<any>"],
    ["encoders", "<any>"],
    ["doctor", "<any>"],
    ["<any>"],
    ["--<any>"],
]


@st.composite
def commands(draw) -> list[str]:
    """The arguments of a command with odd input in one place."""
    command = draw(st.sampled_from(COMMANDS))
    kind = next(part for part in command if "<" in part).partition("<")[2].partition(">")[0]
    value = draw(st.sampled_from(ODD[kind]) | st.text(max_size=20))
    return [part.replace(f"<{kind}>", value) for part in command]


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A working folder with odd files, from which nothing reaches the network or a person's folders."""
    for name in ("tmp", "work"):
        (tmp_path / name).mkdir()
    work = tmp_path / "work"
    monkeypatch.chdir(work)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    monkeypatch.setattr(machine, "hub_reachable", lambda: False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("SPARSEBERT_CACHE_DIR", str(work / "cache"))
    monkeypatch.setenv("SPARSEBERT_RUNS_DIR", str(work / "runs"))
    (work / "folder").mkdir()
    (work / "folder.ipynb").mkdir()
    os.mkfifo(work / "pipe")
    os.mkfifo(work / "pipe.yaml")
    (work / "loop").symlink_to("loop")
    (work / "nowhere").symlink_to("missing")
    (work / "empty").touch()
    (work / "x.ipynb").write_text("[]")
    (work / "binary").write_bytes(bytes(range(256)))
    (work / "deep.json").write_text("[" * 20_000)
    for name in ("huge.csv", "huge.yaml"):
        with open(work / name, "wb") as huge:
            huge.truncate(2**40)
    (work / "rows.csv").write_text("text,label\n" + "".join(f"text {n},{n % 2}\n" for n in range(20)))
    (work / "grid.yaml").write_text("task: file:rows.csv\nencoder: tiny\nseed: [0, 1]\n")
    return tmp_path


def answer(place: Path, *arguments: str, codes: tuple[int, ...] = (0, 1, 2)) -> str:
    """What a command said, after the checks that hold for all."""
    before = listing(place)
    result = CliRunner().invoke(main, arguments)
    call = f"sparsebert {' '.join(arguments)[:300]!r}\n{result.output[-2000:]}"
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise AssertionError(call) from result.exception
    assert result.exit_code in codes and "unexpectedly" not in result.stderr, call
    assert len(result.stderr) < 3000, call
    if result.exit_code:
        assert listing(place) == before, call
    return result.output


def listing(place: Path) -> set[str]:
    """Every path below a folder, but those that torch makes when it is imported."""
    found = (f"{folder}/{name}" for folder, folders, files in os.walk(place) for name in (*folders, *files))
    return {path for path in found if "/torchinductor_" not in path}


@often(250)
@given(commands())
def test_odd_input_ends_in_a_sentence(place, arguments):
    answer(place, *arguments)
