"""All checks, and the call that makes them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from sparsebert.bench.measuring import find_device, provenance
from sparsebert.errors import check_names
from sparsebert.paths import write_whole
from sparsebert.selftest.attention import flex_checks, kernel_checks
from sparsebert.selftest.checks import Report, Result, run_checks
from sparsebert.selftest.models import model_checks
from sparsebert.selftest.runs import cost_checks, run_checks_of
from sparsebert.sweeps.executors import open_executor

GROUPS = ("kernels", "models", "runs", "costs", "flex")


def selftest(
    device: str | None = None,
    minutes: float = 5.0,
    only: Sequence[str] = (),
    out: Path | None = None,
    told: Callable[[Result], object] = print,
) -> Report:
    """Check this machine for some minutes; `told` gets each result as it comes, and `out` the report so far.

    The device is the GPU where there is one. `only` names groups of checks. What is not reached is among the
    results, as left out. Raises `InputError` for an unknown device or group.
    """
    device = find_device(device)
    check_names("group of checks", only, GROUPS)
    with open_executor("processes", 1) as executor:  # the same process each time unless it died
        checks = [
            *(*kernel_checks(device), *model_checks(device), *run_checks_of(device), *cost_checks(device)),
            *flex_checks(device, executor),
        ]
        checks = [check for check in checks if check.group in (only or GROUPS)]
        results = [Result(group=check.group, name=check.name) for check in checks]
        report = _report(device, minutes, results, out)
        for place, result in run_checks(checks, minutes):
            results[place] = result
            told(result)
            report = _report(device, minutes, results, out)
    return report


def _report(device: str, minutes: float, results: list[Result], out: Path | None) -> Report:
    said = provenance(device=device)
    about = {name: said[name] for name in ("device", "versions", "commit", "finished")}
    report = Report(**about, minutes=minutes, results=results)
    if out:
        write_whole(out, report.model_dump_json(indent=1) + "\n")
    return report
