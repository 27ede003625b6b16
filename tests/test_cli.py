from __future__ import annotations

import json

import huggingface_hub
import pytest
from click.testing import CliRunner

from sparsebert import doctor
from sparsebert.cli import main
from sparsebert.cli.options import answer
from sparsebert.data.tasks import task_names
from sparsebert.degrees import DegreeConfig
from sparsebert.models.architectures import ARCHITECTURES
from sparsebert.models.packaged import ENCODERS
from sparsebert.patterns import PATTERNS
from sparsebert.sweeps import running as sweeps
from sparsebert.training.runs import RunConfig


def call(*arguments: object, code: int = 0):
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    assert code or result.exception is None
    return result


def test_numbers_that_json_lacks_are_null(capsys):
    answer(True, {"scores": [float("nan"), -float("inf"), 0.5]}, "")
    assert json.loads(capsys.readouterr().out, parse_constant=pytest.fail) == {"scores": [None, None, 0.5]}


def refusal(*arguments: object) -> str:
    """The one line on stderr of a command that was given wrong input."""
    result = call(*arguments, code=2)
    assert isinstance(result.exception, SystemExit) and result.stdout == ""
    (line,) = result.stderr.splitlines()
    return line


def options(fields: dict[str, object]) -> list[object]:
    return [part for name, value in fields.items() for part in (f"--{name.replace('_', '-')}", value)]


_FIELDS = [*(RunConfig.model_fields.keys() - {"degrees", "labels"}), *DegreeConfig.model_fields]
FIELDS = ["--learn-degrees", *(f"--{name.replace('_', '-')}" for name in _FIELDS)]
MENTIONED = {
    (): [
        "advise",
        "finetune",
        "evaluate",
        "degrees",
        "sweep",
        "run",
        "book",
        "tasks",
        "encoders",
        "patterns",
        "bench",
        "doctor",
        "--version",
    ],
    ("finetune",): [*FIELDS, "--data-dir", "--runs-dir", "--save", "--json", "Example:"],
    ("advise",): [
        *("--task", "--plan", "--max-loss", "--budget", "--encoder", "--lengths", "--max-length", "--epochs"),
        *("--batch-size", "--learning-rate", "--out", "--data-dir", "--runs-dir", "--json", "Example:"),
    ],
    ("clean",): ["--runs-dir", "Example:"],
    ("sweep",): [
        "GRID",
        "--only",
        "--dry-run",
        "--budget",
        "--executor",
        "--workers",
        "--scheduler",
        "--json",
        "Example:",
    ],
    ("evaluate",): ["FOLDER", "--task", "--eval-size", "--data-dir", "--json", "Example:"],
    ("degrees",): ["RUN", "FILE", "--force", "--runs-dir", "Example:"],
    ("run",): ["NOTEBOOK", "NAME=VALUE", "--profile", "--out", "Example:"],
    ("book",): ["--profile", "smoke", "quick", "full"],
    ("tasks",): ["--json"],
    ("encoders",): ["--json"],
    ("patterns",): ["PATTERN", "--sentence", "--encoder", "Example:"],
    ("reductions",): ["NAME", "--json"],
    ("bench",): ["attention", "model"],
    ("bench", "attention"): [
        *("--pattern", "--contender", "--heads", "--width", "--lengths", "--rounds", "--longest-dense"),
        *("--dtype", "--device", "--seed", "--plot", "--out", "--json", "Example:"),
    ],
    ("bench", "model"): [
        *("--plan", "--encoder", "--mode", "--tokens", "--lengths", "--rounds", "--longest-dense"),
        *("--plot", "--json", "Example:"),
    ],
    ("results",): ["list", "check", "merge", "keep", "book/results/"],
    ("results", "list"): ["--json"],
    ("results", "check"): ["exit code 1"],
    ("results", "merge"): ["FILES", "--into", "--newest", "Example:"],
    ("results", "keep"): ["FILES", "book/results/selftests/", "Example:"],
    ("prepare",): [
        *("TASK...", "--encoder", "--out", "--max-length", "--train-size", "--eval-size", "--parsed"),
        *("--data-dir", "Example:"),
    ],
    ("bundle",): [
        *(
            "GRID",
            "--out",
            "--prepared",
            "--python",
            "--no-wheels",
            "--chapters",
            "run.sh",
            "Example:",
        ),
    ],
    ("doctor",): ["machine"],
    ("selftest",): ["--device", "--minutes", "--only", "--out", "Exit code 1", "Example:"],
}


@pytest.mark.parametrize("command", MENTIONED)
def test_help_mentions_what_a_command_takes(command):
    text = call(*command, "-h").stdout
    assert [word for word in MENTIONED[command] if word not in text] == []
    assert text == call(*command, "--help").stdout


def test_every_command_has_its_help_tested():
    commands = {(name,) for name in main.commands} | {
        (group, name) for group in ("bench", "results") for name in main.commands[group].commands
    }
    assert commands == MENTIONED.keys() - {()}


# ---- finetune


def test_an_option_that_is_empty_is_no_default(workspace):
    assert "pattern" in refusal("finetune", "--plan", "", "--task", "file:classes.csv")


def test_a_cache_that_cannot_be_written_is_named(workspace, monkeypatch):
    monkeypatch.setenv("SPARSEBERT_CACHE_DIR", str(workspace / "classes.csv" / "cache"))
    given = ["--task", "file:classes.csv", "--encoder", "tiny", "--train-size", 8]
    assert "give another SPARSEBERT_CACHE_DIR" in refusal("finetune", *given)


def test_finetune_prints_its_record_as_json_and_finds_it_again(small):
    first = json.loads(call("finetune", *options(small), "--json").stdout)
    assert first["config"]["encoder"] == "tiny" and first["steps"] == 4
    assert json.loads(call("finetune", *options(small), "--json").stdout) == first
    text = call("finetune", *options(small)).stdout
    assert "found in the store" in text and first["name"] in text


def test_finetune_records_where_it_is_told_to(small, workspace):
    call("finetune", *options(small), "--runs-dir", workspace / "elsewhere")
    assert len(list((workspace / "elsewhere").glob("*.json"))) == 1


@pytest.mark.parametrize(
    "given, answer",
    [
        ({"task": "revews"}, "did you mean 'reviews'"),
        ({"task": "file:no_such.csv"}, "there is no file"),
        ({"plan": "neighbor(1)"}, "did you mean 'neighbour'"),
        ({"plan": "neighbour(1) @ 7"}, "its layers are 0-1"),
        ({"plan": "neighbour(1) @ lat"}, "did you mean 'late'"),
        ({"encoder": "minlm"}, "did you mean 'minilm'"),
        ({"encoder": "/no/such/folder"}, "nor a folder that exists"),
        ({"train_size": "many"}, "train_size=many"),
        ({"learning_rate": -1}, "learning_rate=-1"),
        ({"max_length": 40000}, "max_length=40000"),
        ({"precision": "fp8"}, "precision=fp8"),
        ({"kernel": "bnded"}, "did you mean 'banded'"),
    ],
)
def test_wrong_input_ends_with_one_sentence_and_exit_code_2(small, given, answer):
    assert answer in refusal("finetune", *options(small | given))


def test_a_data_folder_that_does_not_exist_is_named():
    assert "--data-dir names '/no/such'" in refusal("finetune", "--task", "reviews", "--data-dir", "/no/such")


# ---- notebooks


def test_a_misspelt_notebook_parameter_is_answered_with_the_nearest(workspace):
    chapter = "03_which_connections"
    assert "'task'" in refusal("run", chapter, "-p", "tsk=headlines")
    assert list(workspace.glob("*.ipynb")) == []


@pytest.mark.parametrize(
    "arguments, answer",
    [
        (("01_attention_as_a_graph", "-p", "taks=reviews"), "'task'"),
        (("01_attention_as_a_graph", "-p", "task"), "NAME=VALUE"),
        (("01_attention_as_a_graph", "--profile", "quik"), "'quick'"),
        (("01_attention_as_a_grph",), "01_attention_as_a_graph"),
        (("01_attention_as_a_graph", "--out", "/dev/null/x.ipynb"), "give another --out"),
    ],
)
def test_a_notebook_is_not_run_on_wrong_input(workspace, arguments, answer):
    assert answer in refusal("run", *arguments)
    assert list(workspace.glob("*.ipynb")) == []


# ---- lists and drawings


def test_patterns_draws_a_row_for_each_token():
    text = call("patterns", "neighbour(1)", "--sentence", "Good film.").stdout
    assert [line.split() for line in text.splitlines()] == [
        ["neighbour(1)"],
        ["[CLS]", "■", "■", "·", "·", "·", "degree", "1"],
        ["good", "■", "■", "■", "·", "·", "degree", "2"],
        ["film", "·", "■", "■", "■", "·", "degree", "2"],
        [".", "·", "·", "■", "■", "■", "degree", "2"],
        ["[SEP]", "·", "·", "·", "■", "■", "degree", "1"],
        ["density", "0.520"],
    ]


@pytest.mark.parametrize("pattern", ["syntax | global(cls)", "lexical(2)", "copies", "random(like=syntax)"])
def test_patterns_draws_what_reads_parses_and_embeddings(pattern):
    text = call("patterns", pattern, "--encoder", "tiny").stdout
    assert text.startswith(pattern) and "gorgeous" in text


def test_patterns_lists_all_and_refuses_others():
    text = call("patterns").stdout
    assert all(name in text for name in PATTERNS)
    assert "did you mean 'neighbour'" in refusal("patterns", "neighbor(1)")
    assert "encoder" in refusal("patterns", "neighbour(1)", "--encoder", "minlm")


def test_tasks_lists_every_task():
    text = call("tasks").stdout
    assert [line.split()[0] for line in text.splitlines()] == list(task_names())
    assert list(json.loads(call("tasks", "--json").stdout)) == list(task_names())


def test_encoders_lists_encoders_and_architectures():
    text = call("encoders").stdout
    assert all(word in text for word in ("minilm", "tiny", *ARCHITECTURES))
    assert "minilm" in json.loads(call("encoders", "--json").stdout)


# ---- doctor and bench


def test_doctor_examines_a_machine_without_a_network(workspace, monkeypatch):
    monkeypatch.setattr(doctor, "hub_reachable", lambda: False)
    text = call("doctor").stdout
    assert f"{huggingface_hub.constants.ENDPOINT} is not reachable" in text
    found = dict(line.split(maxsplit=1) for line in text.splitlines())
    assert found.keys() >= {"versions", "device", "parser", "hub", "cache", "runs", "project", *ENCODERS}
    assert all(word in found["mpnet"] for word in ("12 layers", "Apache-2.0", "trained on", "encoders --get"))
    assert str(workspace / "runs") in found["runs"] and found["runs"].startswith("0 recorded")
    assert str(workspace / "cache") in found["cache"]


def test_doctor_names_a_folder_that_cannot_be_written(workspace, monkeypatch):
    monkeypatch.setattr(doctor, "_hub", lambda: "not asked")
    monkeypatch.setenv("SPARSEBERT_CACHE_DIR", "/dev/null/cache")
    assert "/dev/null/cache (which cannot be written: set SPARSEBERT_CACHE_DIR" in call("doctor").stdout


def test_an_argument_that_is_no_text_is_refused():
    assert "is not text in UTF-8" in call("patterns", "\udcff", code=2).stderr


def test_doctor_names_a_data_folder_that_does_not_exist(workspace, monkeypatch):
    monkeypatch.setattr(doctor, "_hub", lambda: "not asked")
    monkeypatch.setenv("SPARSEBERT_DATA_DIR", "/no/such")
    assert "SPARSEBERT_DATA_DIR names '/no/such'" in call("doctor").stdout


def test_ctrl_c_is_said_in_a_sentence_and_has_its_own_code(small, workspace, monkeypatch):
    def pressed(*args: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(sweeps, "find_or_train", pressed)
    result = call("finetune", *options(small), code=130)
    assert result.stderr == "interrupted: what was recorded until then is kept\n"
