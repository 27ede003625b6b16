"""How long runs will take, from the records of comparable ones: seconds per row, in proportion to length."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Hashable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from statistics import median
from typing import Any

from sparsebert.data.tasks import get_task
from sparsebert.errors import InputError
from sparsebert.paths import Folders
from sparsebert.study.results import counted
from sparsebert.training.runs import RunConfig, RunRecord

_LATEST = 5  # records that an estimate is the median of


class Estimates:
    """Expected seconds of runs on a device, or on whatever the records were made on if none is named.

    A run costs its preparation, its training rows times epochs, and its evaluation rows. Comparable records
    are those of the same config but for seed and sizes, or else of the same encoder, task and length, or else
    of the same encoder; then rows are as long as they may be, and time is taken as proportional to that. The
    latest records count, so that what processes lose to each other is seen as soon as a run is finished.
    """

    def __init__(
        self, records: Iterable[RunRecord] = (), device: str | None = None, folders: Folders | None = None
    ):
        self.device = device
        folders = folders or Folders.named()
        self._task = cache(lambda name: get_task(name, folders))  # once for all of its runs
        self._records: dict[Hashable, list[RunRecord]] = defaultdict(list)
        for record in sorted(records, key=lambda record: record.finished):
            self.add(record)

    def add(self, record: RunRecord) -> None:
        """A record that later estimates are made from, unless its task is gone or its speed not known."""
        with suppress(InputError):
            for key in self._keys(record.config, record.device):
                if all(speed > 0 for speed in record.examples_per_second.values()):
                    self._records[key].append(record)

    def comparable(self, config: RunConfig) -> list[RunRecord]:
        """The records that a run's estimate is made from."""
        alike = (self._records[key] for key in self._keys(config, self.device) if key in self._records)
        return next(alike, [])[-_LATEST:]

    def seconds(self, config: RunConfig) -> float | None:
        """Expected wall seconds of one run, or None if no record is comparable."""
        alike = self.comparable(config)
        return median(self._by(record, config) for record in alike) if alike else None

    def total(self, configs: Iterable[RunConfig], workers: int = 1) -> float | None:
        """Expected wall seconds of several runs by `workers`; runs without an estimate take the mean."""
        seconds = [self.seconds(config) for config in configs]
        known = [each for each in seconds if each is not None]
        if not known:
            return None if seconds else 0.0
        return sum(known) / len(known) * len(seconds) / max(1, min(workers, len(seconds)))

    def _keys(self, config: RunConfig, device: str | None) -> list[Hashable]:
        """What a record and a run have in common, from the nearest to the farthest."""
        kind = config.model_copy(update={"seed": 0, "train_size": None, "eval_size": None, "epochs": 1.0})
        alike = [(kind,), (config.encoder, config.task, self._length(config)), (config.encoder,)]
        if self.device is None:
            return alike
        processor = re.sub(r", \d+ threads", "", device)
        return [(place, *key) for place in dict.fromkeys((device, processor)) for key in alike]

    def _by(self, record: RunRecord, config: RunConfig) -> float:
        """The seconds of a run at the speed of a record."""
        rows = dict(self._task(config.task).sizes)
        train = rows.pop("train")
        evaluated = sum(min(config.eval_size or size, size) for size in rows.values())
        longer = self._length(config) / self._length(record.config)
        return record.seconds["prepare"] + longer * (
            config.epochs * min(config.train_size or train, train) / record.examples_per_second["train"]
            + evaluated / record.examples_per_second["evaluate"]
        )

    def _length(self, config: RunConfig) -> int:
        return config.max_length or self._task(config.task).max_length


@dataclass
class Forecast:
    """The runs of a grid, and the seconds that those which the store lacks will take, where that is known."""

    configs: list[RunConfig]
    seconds: dict[RunConfig, float | None]
    total: float | None
    workers: int
    devices: list[str]

    def as_dict(self) -> dict[str, Any]:
        """Each run with its fields, whether it is in the store, and its seconds; and those of all runs."""
        runs = [
            {
                "name": config.name,
                "found": config not in self.seconds,
                "seconds": self.seconds.get(config),
                "config": config.model_dump(),
            }
            for config in self.configs
        ]
        return {"runs": runs, "seconds": self.total, "workers": self.workers, "measured_on": self.devices}

    def __str__(self) -> str:
        import pandas as pd  # not there on machines that are given prepared data

        fields = pd.json_normalize([config.model_dump() for config in self.configs], sep="_").convert_dtypes()
        shown = [
            name
            for name in fields
            if name in ("task", "plan", "seed") or fields[name].nunique(dropna="degrees" in str(name)) > 1
        ]
        fields = fields[shown].astype(object).where(fields[shown].notna(), "-")
        times = [in_words(self.seconds[c]) if c in self.seconds else "found" for c in self.configs]
        table = fields.assign(time=times, name=[config.name for config in self.configs])
        unknown = sum(each is None for each in self.seconds.values())
        lines = [table.to_string(index=False), f"{len(self.configs)} runs, {len(self.seconds)} to train"]
        if self.total is None:
            lines.append("no recorded run tells how long they take; the first one that is finished will")
        elif self.seconds:
            by = f" by {self.workers} workers" if self.workers > 1 else ""
            lines.append(f"about {in_words(self.total)}{by}, by records made on {'; '.join(self.devices)}")
            if unknown:
                lines.append(
                    f"no record is like {unknown} of them; they are taken for the mean of the others"
                )
        return "\n".join(lines)


def in_words(seconds: float | None) -> str:
    """A duration for a person.

    >>> in_words(40), in_words(200), in_words(9000), in_words(None)
    ('40 s', '3 min', '2.5 h', 'unknown time')
    """
    if seconds is None:
        return "unknown time"
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def spent(records: Iterable[RunRecord]) -> str:
    """How many runs these are and how long they took one after the other, by their records."""
    each = {record.name: sum(record.seconds.values()) for record in records}
    return f"{counted(len(each))} that took {in_words(sum(each.values()))} one after the other"
