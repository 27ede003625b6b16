"""The selftest passes here, and finds what is wrong with a kernel, a model or a run that goes on."""

from __future__ import annotations

import math

import pytest
import torch
from click.testing import CliRunner

from sparsebert.cli import main
from sparsebert.kernels import Banded
from sparsebert.selftest import attention, models, runs, testing
from sparsebert.selftest.checks import Check, Finding, NotHere, Report, read_report, run_checks
from sparsebert.selftest.testing import GROUPS


def call(*arguments, code=0):
    result = CliRunner().invoke(main, [*map(str, arguments)])
    assert result.exit_code == code, result.output
    return result.output


@pytest.fixture
def few(monkeypatch):
    """Two patterns at one odd length."""
    names = ("neighbour(5) | global(cls)", "irregular")
    monkeypatch.setattr(attention, "PATTERNS", {name: attention.PATTERNS[name] for name in names})
    monkeypatch.setattr(attention, "CASES", ((17, True, 8),))


@pytest.mark.slow
def test_nothing_is_wrong_here(tmp_path, monkeypatch):
    some = ("neighbour(5) | global(cls)", "irregular", attention._MIXED)  # tests of kernels try all
    monkeypatch.setattr(attention, "PATTERNS", {name: attention.PATTERNS[name] for name in some})
    monkeypatch.setattr(attention, "CASES", ((17, True, 64), (129, False, 8)))
    monkeypatch.setattr(attention, "_FLEX", some[:1])
    monkeypatch.setattr(models, "ARCHITECTURES", ["bert", "modernbert"])
    monkeypatch.setattr(runs, "_COSTS", {"cpu": ("fp32", (512,))})
    said = call("selftest", "--out", tmp_path / "report.json")
    report = read_report(tmp_path / "report.json")
    assert {result.group for result in report.results if result.outcome in ("right", "measured")} == {*GROUPS}
    assert {result.outcome for result in report.results} == {"right", "measured"}
    assert report.summary in said and f"{len(report.results) - 1} right, 0 wrong" in report.summary
    found = Report.model_validate_json((tmp_path / "report.json").read_text())
    assert str(found) == str(report) and all(str(result) in said for result in report.results)


def shifted(call):
    return lambda kernel, query, key, value, **how: call(
        kernel, query, key.roll(1, 2), value.roll(1, 2), **how
    )


def doubled_gradient(call):
    def compute(kernel, query, key, value, **how):
        return call(kernel, query, 2 * key - key.detach(), value, **how)

    return compute


def gradient_that_is_not_a_number(call):
    def compute(kernel, query, key, value, **how):
        if key.requires_grad:
            key = key * 1
            key.register_hook(lambda gradient: gradient * math.nan)
        return call(kernel, query, key, value, **how)

    return compute


def not_a_number(call):
    return lambda *given, **how: call(*given, **how) * math.nan


def failing(call):
    def compute(*given, **how):
        raise torch.AcceleratorError("an illegal memory access")

    return compute


@pytest.mark.parametrize(
    "fault", [shifted, doubled_gradient, gradient_that_is_not_a_number, not_a_number, failing]
)
def test_a_faulty_kernel_is_found(few, monkeypatch, fault, tmp_path):
    monkeypatch.setattr(Banded, "__call__", fault(Banded.__call__))
    said = call("selftest", "--only", "kernels", "--out", tmp_path / "report.json", code=1)
    report = read_report(tmp_path / "report.json")
    wrong = [*(f"banded, {name}" for name in attention.PATTERNS), "banded, scale", "segmented, scale"]
    assert [result.name for result in report.wrong] == wrong
    assert sum(result.outcome == "right" for result in report.results) == 3  # those of the reference
    assert all(str(result) in said.rpartition("left out")[0] for result in report.wrong)


def another_rate(call):
    return lambda *given, dropout=0.0, **how: call(*given, dropout=0.8 * dropout, **how)


def scale_of_even_widths(call):
    def compute(kernel, query, *rest, scale=None, **how):
        return call(kernel, query, *rest, scale=scale or (query.shape[-1] // 2 * 2) ** -0.5, **how)

    return compute


def own_scale(call):
    return lambda *given, scale=None, **how: call(*given, **how)


@pytest.mark.parametrize(
    ("kernel", "fault", "wrong"),
    [
        ("banded", another_rate, ["banded, the rate of dropout"]),
        ("banded", scale_of_even_widths, ["banded, scale"]),
        ("banded", own_scale, ["banded, scale"]),
        ("segmented", own_scale, ["segmented, scale"]),
    ],
)
def test_a_wrong_rate_or_scale_is_found(kernel, fault, wrong, monkeypatch):
    monkeypatch.setattr(attention, "PATTERNS", {attention._MIXED: attention.PATTERNS[attention._MIXED]})
    monkeypatch.setattr(attention, "CASES", ((17, True, 8),) * 2)
    kind = attention.KERNELS[kernel]
    monkeypatch.setattr(kind, "__call__", fault(kind.__call__), raising=False)
    report = testing.selftest("cpu", only=["kernels"], told=str)
    assert {result.name for result in report.wrong} >= {*wrong}
    assert all(result.name.startswith((kernel, "segmented")) for result in report.wrong)


def test_a_faulty_kernel_is_found_in_models(monkeypatch):
    monkeypatch.setattr(models, "ARCHITECTURES", ["modernbert"])
    assert testing.selftest("cpu", only=["models"], told=str).wrong == []
    monkeypatch.setattr(Banded, "__call__", shifted(Banded.__call__))
    assert "banded" in testing.selftest("cpu", only=["models"], told=str).wrong[0].says


@pytest.mark.slow
def test_a_run_that_begins_anew_is_found(monkeypatch):
    from sparsebert.training import finetuning

    monkeypatch.setattr(finetuning, "last_whole", lambda *_: (None, 0))
    check = next(runs.run_checks_of("cpu"))
    (_, result), *_ = run_checks([check], 5)
    assert result.outcome == "wrong" and "it began anew" in result.says


def test_checks_without_time_or_means_are_left_out_by_name(tmp_path):
    said = call("selftest", "--minutes", 0, "--out", tmp_path / "report.json")
    report = read_report(tmp_path / "report.json")
    assert {result.outcome for result in report.results} == {"left out"}
    assert {result.group for result in report.results} == {*GROUPS}
    assert all(f"{result.name}: the time was over" in said for result in report.results)

    def lacking():
        raise NotHere("it needs the package pandas")

    results = [result for _, result in run_checks([Check("costs", "a cost", lacking)], 1)]
    assert [(result.outcome, result.says) for result in results] == [
        ("left out", "it needs the package pandas")
    ]


def test_an_error_that_is_no_number_is_theworst():
    findings = [Finding(0.2, 0.1), Finding(math.nan, 0.1), Finding(0.3, 0.1)]
    assert math.isnan(attention.worst(findings).error)


def test_a_report_is_kept_listed_and_checked(few, tmp_path, monkeypatch):
    (tmp_path / "_config.yml").touch()
    (tmp_path / "notebooks").mkdir()
    monkeypatch.chdir(tmp_path)
    call("selftest", "--only", "kernels", "--out", "report.json")
    summary = read_report(tmp_path / "report.json").summary
    (kept,) = [line for line in call("results", "keep", "report.json").splitlines() if summary in line]
    place = tmp_path / "book" / "results" / "selftests"
    assert read_report(next(place.iterdir())).summary == summary and str(place) in kept
    assert f"selftests/{next(place.iterdir()).name}: {summary}" in call("results", "list")
    call("results", "check")
    (place / "other.json").write_text("{")
    assert "other.json" in call("results", "check", code=1) and "other.json" in call("results", "list")


@pytest.mark.parametrize(
    "given, answer",
    [
        (["selftest", "--only", "kernel"], "did you mean 'kernels'"),
        (["selftest", "--device", "gpu"], "unknown device"),
        (["selftest", "--out", "."], "write the name of a file"),
        (["results", "keep", "none.json"], "give a file that `sparsebert selftest --out FILE` wrote"),
    ],
)
def test_wrong_input_ends_with_one_sentence(given, answer):
    assert answer in call(*given, code=2)
