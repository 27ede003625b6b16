"""Checks one after the other, within a time, and the report that they leave."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from sparsebert.errors import InputError, shown
from sparsebert.paths import write_whole
from sparsebert.reading import read_model
from sparsebert.study.results import results_dir

OUTCOMES = ("right", "wrong", "measured", "left out")
_NOT_REACHED = "the time was over before its turn"


class Finding(NamedTuple):
    """The largest error of a check and how large it may be, or with no bound a number that is not judged."""

    error: float
    bound: float | None
    says: str = ""  # where the error was found, or what the number is


class Wrong(Exception):
    """What a check found, in words, where no number says it."""


class NotHere(Exception):
    """Why a check can't be made on this machine."""


@dataclass(frozen=True)
class Check:
    """Something that holds on every machine, and the call that tries it."""

    group: str
    name: str
    run: Callable[[], Finding]


class Result(BaseModel):
    """What came of a check. `error` and `bound` are as in `Finding`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    group: str
    name: str
    outcome: Literal[OUTCOMES] = "left out"
    error: float | None = None
    bound: float | None = None
    says: str = _NOT_REACHED
    seconds: float | None = None

    def __str__(self) -> str:
        found = "" if self.error is None else f"{self.error:.1e}"
        found += "" if None in (self.error, self.bound) else f" of {self.bound:.0e}"
        return f"{self.outcome:8}  {self.group:8}  {self.name}: {' '.join(filter(None, (found, self.says)))}"


class Report(BaseModel):
    """A selftest's results with the machine and the code that they come from.

    Checks that were not reached are among the results, as left out.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    selftest: Literal[1] = 1
    device: str
    versions: dict[str, str]
    commit: str | None
    finished: str
    minutes: float
    results: list[Result] = Field(min_length=1)

    @property
    def wrong(self) -> list[Result]:
        return [result for result in self.results if result.outcome == "wrong"]

    def __str__(self) -> str:
        """A table of outcomes by group, then each check that is wrong or was left out."""
        groups = list(dict.fromkeys(result.group for result in self.results))
        lines = [f"{'':10}" + "".join(f"{outcome:>10}" for outcome in OUTCOMES)]
        for group in groups:
            counts = Counter(result.outcome for result in self.results if result.group == group)
            lines.append(f"{group:10}" + "".join(f"{counts[outcome]:10}" for outcome in OUTCOMES))
        lines += [str(result) for result in self.results if result.outcome in ("wrong", "left out")]
        return "\n".join([*lines, self.summary])

    @property
    def summary(self) -> str:
        """One line: how many checks had each outcome, the device and the day."""
        counts = Counter(result.outcome for result in self.results)
        said = ", ".join(f"{counts[outcome]} {outcome}" for outcome in OUTCOMES)
        return f"{said}; {self.device}, {self.finished[:10]}, commit {self.commit}"


def run_checks(checks: Sequence[Check], minutes: float) -> Iterator[tuple[int, Result]]:
    """The place and the result of each check as it is finished; none is begun after `minutes`."""
    end = time.monotonic() + 60 * minutes
    for place, check in enumerate(checks):
        started = time.monotonic()
        if started >= end:
            return
        names = {"group": check.group, "name": check.name}
        try:
            error, bound, says = check.run()
            right = "measured" if bound is None else "right" if error <= bound else "wrong"  # NaN is wrong
            found = {"outcome": right, "error": error, "bound": bound, "says": says}
            if not math.isfinite(error):
                found |= {"error": None, "says": f"the error is {error}: {says}"}
        except NotHere as reason:
            found = {"says": str(reason)}
        except Exception as error:  # whatever a kernel or a driver raises is what we want to know
            kind = "" if isinstance(error, Wrong) else f"{type(error).__name__}: "
            found = {"outcome": "wrong", "says": f"{kind}{shown(error, 300)}"}
        yield place, Result(**names, **found, seconds=round(time.monotonic() - started, 3))


# ---- kept with the recorded runs ------------------------------------------------------------------


def read_report(path: Path) -> Report:
    """`InputError` if the file holds no report of a selftest."""
    return read_model(path, Report, "the report", "give a file that `sparsebert selftest --out FILE` wrote")


def keep(report: Report) -> Path:
    """Add a report to the recorded ones, by its device and time."""
    words = "".join(letter if letter.isalnum() else " " for letter in f"{report.device} {report.finished}")
    path = results_dir() / "selftests" / f"{'-'.join(words.split())}.json"
    try:
        return write_whole(path, report.model_dump_json(indent=1) + "\n")
    except OSError as error:
        raise InputError(f"'{path}' can't be written: {error.strerror}") from None


def kept() -> Iterator[tuple[str, Report | InputError]]:
    """The recorded reports by name; in the place of one that can't be read the reason."""
    for path in sorted((results_dir() / "selftests").glob("*.json")):
        try:
            yield path.name, read_report(path)
        except InputError as error:
            yield path.name, error
