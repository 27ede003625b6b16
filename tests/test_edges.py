"""Odd input for every command: a sentence, no traceback, and nothing left behind by a refusal."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import sparsebert
from sparsebert import machine
from sparsebert.cli import lists, main
from sparsebert.data.tasks import get_task
from sparsebert.errors import InputError
from sparsebert.models.encoders import load_classifier, load_tokenizer
from sparsebert.reading import plain_yaml
from sparsebert.sweeps.grids import expand_grid, load_grid
from sparsebert.training.runs import RunConfig

# Set EDGES_EXAMPLES to look further than a test has time for.
EXAMPLES = int(os.environ.get("EDGES_EXAMPLES", "0"))


def often(examples: int):
    return settings(
        max_examples=EXAMPLES or examples,
        derandomize=not EXAMPLES,
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
    ["degrees", "ec71057ba6a7b67d", "<path>"],
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
    ["bundle", "grid.yaml", "--out", "rows.csv/<path>", "--no-wheels"],
    ["run", "<path>"],
    ["run", "<yaml>x"],
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
    [*BENCH, "--pattern", "<pattern>"],
    [*BENCH, "--pattern", "neighbour(", "--plot", "<path>"],
    *([*BENCH, f"--{name}", "<number>"] for name in ("lengths", "heads", "width", "longest-dense")),
    [*BENCH, "--rounds", "-<number>"],
    *([*BENCH, f"--{name}", "<any>"] for name in ("dtype", "device", "contender", "seed")),
    ["bench", "model", "--encoder", "tiny", "--lengths", "8", "--rounds", "1", "--mode", "<any>"],
    ["bench", "model", "--encoder", "<path>", "--lengths", "8", "--rounds", "1"],
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


def _hangs(*_: object) -> None:
    raise TimeoutError("it hangs")


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
    signal.signal(signal.SIGALRM, _hangs)
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
    signal.alarm(60)  # a hang, such as waiting for a pipe, is a traceback in this way
    result = CliRunner().invoke(main, arguments)
    signal.alarm(0)
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


@often(120)
@given(commands())
def test_odd_input_ends_in_a_sentence(place, arguments):
    answer(place, *arguments)


@often(15)
@given(
    st.sampled_from(["CACHE_DIR", "DATA_DIR", "PREPARED_DIR", "RUNS_DIR"]),
    st.sampled_from([value for value in PATHS if "\0" not in value]),
    st.sampled_from([["doctor"], ["sweep", "grid.yaml", "--dry-run"], [*FINETUNE]]),
)
def test_folders_in_the_environment_may_be_odd_too(place, variable, value, command):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(f"SPARSEBERT_{variable}", value)
        answer(place, *command)


# ---- what is read


def mangled(content: bytes) -> st.SearchStrategy[bytes]:
    """A file with a piece cut out, doubled, or something odd put in."""
    odd = [
        b"",
        b"\0",
        b"\r",
        b'"',
        b"\n",
        b"\xff",
        b"\xef\xbb\xbf",
        b"[" * 2000,
        b"{",
        b"-1",
        b"1e999",
        b"null",
        b"NaN",
    ]
    odd += ["\u2028".encode(), b"\t", b",", b"9" * 5000, b'""', b"<b>", b"true", b"''", b"&a", b"*a", b"!!x"]
    places = st.integers(0, len(content))
    return st.builds(
        lambda first, last, put: content[: min(first, last)] + put + content[max(first, last) :],
        places,
        places | st.none().map(lambda _: 0),
        st.sampled_from(odd) | st.binary(max_size=4),
    )


CSV = b'text,label\r\n"one, two",0\n' + b"".join(b'"a ""b"" %d",%d\n' % (n, n % 2) for n in range(9))
JSONL = b"".join(b'{"text": "a %d", "label": %d.5}\n' % (n, n) for n in range(9))
GRID = b"task: file:rows.csv\nencoder: tiny\nseed: &s [0, 1]\n"
GRID += b"zip:\n  - plan: [dense, neighbour(1)]\n    epochs: [1, 2]\n"
CONTENT = {"own.csv": CSV, "own.tsv": CSV.replace(b",", b"\t"), "own.jsonl": JSONL, "own.yaml": GRID}


@often(150)
@given(st.data())
def test_odd_files_are_read_or_refused(place, data):
    name = data.draw(st.sampled_from(sorted(CONTENT)))
    (place / "work" / name).write_bytes(data.draw(mangled(CONTENT[name])))
    try:
        if name.endswith(".yaml"):
            assert load_grid(name)
        else:
            task = get_task(f"file:{name}")
            assert min(task.sizes.values()) > 0 and task.data_hash
    except InputError as refusal:
        assert len(str(refusal)) < 1500 and "\n" not in str(refusal)


FIELDS = st.sampled_from([*RunConfig.model_fields, "zip", "exclude", "grids", "price", "target_density"])
SCALARS = (
    st.none() | st.booleans() | st.integers(-3, 3) | st.floats() | st.sampled_from(["dense", "tiny", "1"])
)
PLAIN = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(FIELDS, inner, max_size=3),
    max_leaves=8,
)


@often(150)
@given(st.dictionaries(FIELDS, PLAIN, max_size=4))
def test_odd_grids_are_expanded_or_refused(grid):
    try:
        assert expand_grid(grid)
    except InputError as refusal:
        assert len(str(refusal)) < 1500


@often(200)
@given(st.text(st.sampled_from("ab01:-{}[],#&*!|>'\"%@`.~? \n\t\\<=_e+x"), max_size=30))
def test_any_text_is_plain_data_or_refused(text):
    try:
        read = plain_yaml(text, "it")
    except InputError:
        return
    json.dumps(read)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory) -> Path:
    """A saved encoder of two layers."""
    folder = tmp_path_factory.mktemp("encoder")
    load_classifier("tiny", ("a", "b")).save_pretrained(folder)
    load_tokenizer("tiny").save_pretrained(folder)
    return folder


CONFIGS = [0, -1, None, [], {}, "x", 10**9, 1.5, True]


@often(25)
@given(st.data())
def test_odd_encoder_folders_are_refused(place, encoder, data):
    own = place / "work" / "own"
    shutil.copytree(encoder, own, dirs_exist_ok=True)
    config = json.loads((own / "config.json").read_text())
    name = data.draw(st.sampled_from(sorted(config)))
    file = data.draw(st.sampled_from(["config.json"] * 3 + ["tokenizer.json", "tokenizer_config.json"]))
    if file == "config.json":
        config[name] = data.draw(st.sampled_from(CONFIGS))
        (own / file).write_text(json.dumps(config))
    else:
        (own / file).write_bytes(data.draw(mangled((own / file).read_bytes())))
    answer(place, *FINETUNE, "--encoder", "own")


# ---- the process itself


def process(place: Path, *arguments: str, **how: object) -> subprocess.CompletedProcess:
    package = str(Path(sparsebert.__file__).parents[1])
    environment = os.environ | {"PYTHONPATH": package, "PYTHONUNBUFFERED": ""}
    command = [sys.executable, "-m", "sparsebert", *arguments]
    return subprocess.run(command, cwd=place / "work", env=environment, stderr=-1, timeout=60, **how)


def test_standard_output_may_be_full_or_closed(place):
    with open("/dev/full", "w") as full:
        for arguments in (["patterns"], ["--version"]):
            done = process(place, *arguments, stdout=full)
            assert done.returncode == 1 and b"No space left on device" in done.stderr
            assert len(done.stderr.splitlines()) == 1
    assert process(place, "patterns", preexec_fn=lambda: os.close(1)).returncode == 0


def test_the_profiler_of_torch_adds_no_warning_to_what_a_command_says():
    code = "import sparsebert.cli, torch; from sparsebert.bench.measuring import peak_tensor_bytes; "
    code += "held = [torch.ones(9)]; peak_tensor_bytes(held.clear)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60)
    assert done.returncode == 0 and done.stderr == b""


def test_a_pipe_is_not_waited_for(place):
    for arguments in (["patterns", 'learned("pipe")'], ["sweep", "pipe.yaml"], ["evaluate", "pipe"]):
        assert "pipe" in answer(place, *arguments, codes=(2,))


def test_what_nobody_foresaw_is_a_sentence_with_the_details_in_a_file(place, monkeypatch):
    def fails(*_: object) -> None:
        raise KeyError("x" * 5000)

    monkeypatch.setattr(lists, "_listing", fails)
    result = CliRunner().invoke(main, ["tasks"])
    assert result.exit_code == 1 and len(result.stderr) < 700 and len(result.stderr.splitlines()) == 1
    assert result.stderr.startswith("Error: tasks failed unexpectedly: KeyError: 'xxx")
    (log,) = (place / "tmp").glob("sparsebert-*.log")
    assert f"the details in {log}" in result.stderr and "Traceback (most recent call last)" in log.read_text()
    assert "Traceback (most recent call last)" in CliRunner().invoke(main, ["--debug", "tasks"]).stderr


def test_a_usage_error_does_not_repeat_all_of_the_input(place):
    for arguments in (
        ["tasks", "x" * 5000],
        ["x" * 5000],
        [f"--{'x' * 5000}"],
        ["prepare", "--eval-size", "x" * 5000],
    ):
        assert len(answer(place, *arguments, codes=(2,))) < 1500
