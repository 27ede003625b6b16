"""Training speed beside the Trainer's, by `book/studies/against_trainer.py`."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner
from studies import study

from sparsebert.training.runs import RunConfig

MASKED = "neighbour(1) | global(cls) @ late"


@pytest.fixture
def script():
    return study("against_trainer")


def call(script, fields, *arguments, code=0):
    given = [*(f"{name}={value}" for name, value in fields.items()), *map(str, arguments)]
    result = CliRunner().invoke(script.main, given)
    assert result.exit_code == code, result.output
    return result


def test_it_trains_under_the_plan_at_the_length(small, script):
    config = RunConfig(**small | {"plan": MASKED})
    (measured,) = script.bench_finetune(config, rounds=1, lengths=[8])["lengths"]
    assert measured["max_length"] == 8 and 4 < measured["tokens_per_row"] <= 8
    assert measured["kernels"] == ["dense", "reference"]
    assert all(speed > 0 for speed in measured["examples_per_second"].values())


def test_it_gives_ratios_of_what_was_measured_in_turn(small, script):
    result = call(script, small, "--rounds", 1, "--json")
    measured = json.loads(result.stdout)
    speed = measured["examples_per_second"]
    assert set(speed) == {"masked", "dense", "default trainer"} and min(speed.values()) > 0
    assert measured["rows"] == 32 and measured["rounds"] == 1
    # With a single round the ratios of times are those of the speeds.
    assert measured["masked_over_dense_time"] == pytest.approx(speed["dense"] / speed["masked"])
    faster = measured["speedup_over_default_trainer"]
    assert faster == pytest.approx({name: speed[name] / speed["default trainer"] for name in faster})
    assert result.stderr.count("round 1:") == 3


@pytest.fixture
def timed(script, monkeypatch):
    """Trainings that take no time but that of a script: masked, dense and the Trainer, in turn."""

    def times(*rounds: tuple[float, float, float]) -> None:
        taken = iter([9.0] * 3 + [seconds for each in rounds for seconds in each])  # a warm-up comes first
        monkeypatch.setattr(script, "seconds", lambda train, device: next(taken))

    return times


def test_ratios_are_medians_of_the_rounds_own_ratios(small, script, timed, capsys):
    timed((1.0, 1.0, 2.0), (4.0, 2.0, 8.0), (1.1, 1.0, 1.1))
    result = script.bench_finetune(RunConfig(**small | {"plan": MASKED}), rounds=3)
    assert result["masked_over_dense_time"] == pytest.approx(1.1)
    assert result["speedup_over_default_trainer"] == pytest.approx({"masked": 2, "dense": 2})
    assert result["examples_per_second"] == pytest.approx(
        {"masked": 32 / 1.1, "dense": 32, "default trainer": 16}
    )
    assert result["met"] == {"masked_over_dense_time": False, "speedup_over_default_trainer": True}
    assert result["seconds"]["masked"] == [1.0, 4.0, 1.1] and result["seed"] == 0
    assert capsys.readouterr().err.count("round 2:") == 3


def test_it_says_of_each_length_whether_the_bars_are_met(small, script, timed):
    timed((1.0, 1.0, 2.0), (9.0, 9.0, 9.0), (1.2, 1.0, 1.2))
    fields = {"task": small["task"], "encoder": "tiny", "precision": "fp32", "batch_size": 4}
    result = call(script, fields, "--lengths", "16,8", "--rounds", "1")
    first, second = result.stdout.split("at most ")[1:]
    assert first.startswith("8 tokens") and "1.05: met" in first and "1.6: met" in first
    assert second.startswith("16 tokens") and "1.05: not met" in second and "1.6: not met" in second


@pytest.mark.parametrize(
    "fields, arguments, answer",
    [
        ({}, ("--lengths", "8,many"), "is no length"),
        ({}, ("--lengths", "2"), "max_length=2"),
        ({}, ("--lengths", "99999999"), "is no length"),
        ({"tsk": "reviews"}, (), "did you mean 'task'"),
        ({"task": ""}, (), "task"),
        ({"task": "revews"}, (), "did you mean 'reviews'"),
    ],
)
def test_wrong_input_ends_with_one_sentence(script, fields, arguments, answer):
    (line,) = call(script, fields, *arguments, code=2).stderr.splitlines()
    assert line.startswith("Error: ") and answer in line
