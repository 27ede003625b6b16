"""How costs are measured, compared and kept: seconds, peaks of memory, ratios within a round, files."""

from __future__ import annotations

import hashlib
import json
import math
import os
import statistics
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from sparsebert.errors import InputError, check_names, first_line, say
from sparsebert.machine import commit, device_name, versions
from sparsebert.paths import fresh_runs, project_root, runs_dir, write_whole
from sparsebert.reading import read_text

if TYPE_CHECKING:
    import pandas as pd

PASSES = {"forward": "forward", "both": "forward + backward"}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_MAY_DIFFER = ("lengths", "commit", "finished", "interrupted")  # within one file of costs


def seconds(call: Callable[[], object], repeats: int = 1, device: str = "cpu") -> float:
    """Seconds of one call, the mean over `repeats` calls in a row."""
    wait_for(device)
    started = time.perf_counter()
    for _ in range(repeats):
        call()
    wait_for(device)
    return (time.perf_counter() - started) / repeats


def peak_tensor_bytes(call: Callable[[], object], device: str = "cpu") -> int:
    """The most bytes of tensors that exist at a time during a call, beyond those that existed before.

    On a processor these are the allocations and frees that torch's profiler reports; what libraries keep for
    themselves is not among them. On a GPU it is `torch.cuda.max_memory_allocated`.
    """
    if device != "cpu":
        wait_for(device)
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        wait_for(device)
        return torch.cuda.max_memory_allocated() - before
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # it would write two lines for each use
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        call()
    events = profiled.profiler.kineto_results.events()
    changes = sorted((event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]")
    return int(max(0, np.cumsum([0] + [change for _, change in changes]).max()))


def wait_for(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize()


def find_device(name: str | None = None) -> str:
    """`cpu` or `cuda`: the one named, or a GPU where there is one. Raises `InputError` if it is not there."""
    if name is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    check_names("device", [name], ("cpu", "cuda"))
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError("there is no GPU here that torch can use; write device cpu")
    return name


def find_dtype(name: str) -> torch.dtype:
    """The dtype of this name. Raises `InputError`."""
    check_names("dtype", [name], DTYPES)
    return DTYPES[name]


def median(values: Sequence[float]) -> float:
    """The median, or NaN of nothing."""
    return statistics.median(values) if values else math.nan


def spread(values: Sequence[float]) -> float:
    """The interquartile range over the median; NaN for fewer than three values."""
    if len(values) < 3:
        return math.nan
    low, middle, high = np.quantile(values, [0.25, 0.5, 0.75])
    return (high - low) / middle


def paired_ratio(values: Sequence[float], others: Sequence[float]) -> float:
    """The median of the rounds' own ratios; NaN if one of the two was not measured in every round."""
    if not values or len(values) != len(others):
        return math.nan
    return statistics.median(a / b for a, b in zip(values, others, strict=True))


def crossover(frame: pd.DataFrame, contender: str = "auto", ratio: str = "forward_over_dense") -> int | None:
    """The shortest measured length from which on a contender is faster than dense; None if it never is.

    Faster means by at least 5 %: where `auto` falls back to dense attention, the two differ by noise alone.
    `ratio` is a column of ratios, or of the upper ends of their intervals, so that the intervals say it.
    """
    own = frame[(frame["contender"] == contender) & frame[ratio].notna()].sort_values("length")
    faster = (own[ratio] <= 0.95).to_numpy()
    if not len(own) or not faster[-1]:
        return None
    slower = np.flatnonzero(~faster)
    return int(own["length"].iloc[slower[-1] + 1 if len(slower) else 0])


def take_turns(turns: Sequence[Callable[[], None]], rounds: int, title: str) -> None:
    """Each turn once a round, in every second round from the last to the first; says how far it is."""
    for number in range(rounds):
        say(f"  {title}: round {number + 1} of {rounds}")
        for turn in turns[:: -1 if number % 2 else 1]:
            turn()


def as_block(title: str, table: pd.DataFrame, left_out: Sequence[str]) -> str:
    """A table for a terminal below its title, with a dash for what is missing, and what was left out."""
    text = table.to_string(index=False, na_rep="-", float_format="{:.3g}".format) if len(table) else ""
    return "\n".join([title, text, *(f"  without {reason}" for reason in left_out)])


def provenance(seed: int = 0, dtype: str = "fp32", device: str | None = None, **settings: object) -> dict:
    """Where, when and with what a measurement was made: versions, device, threads, and what is given here."""
    device = find_device(device)
    processor = device == "cpu" and torch.cuda.is_available()  # else the GPU would be named
    made = {"versions": versions(), "commit": commit(), "device": "cpu" if processor else device_name()}
    made |= {"threads": torch.get_num_threads(), "finished": datetime.now(UTC).isoformat(timespec="seconds")}
    return made | {"dtype": dtype, "seed": seed} | settings


def costs_json(frame: pd.DataFrame, provenance: dict) -> str:
    """A measurement as JSON, a line per row, so that it diffs well; NaN becomes null."""
    rows = json.loads(frame.to_json(orient="records", double_precision=9))
    lines = ",\n".join(json.dumps(row) for row in rows)
    return f'{{"provenance": {json.dumps(provenance)},\n"records": [\n{lines}\n]}}\n'


def read_costs(path: str | Path) -> tuple[pd.DataFrame, dict]:
    """What `costs_json` wrote, the frame and its provenance; `InputError` if the file holds no such thing."""
    import pandas as pd

    text = read_text(path, "recorded costs")
    try:
        content = json.loads(text)
        frame, found = pd.DataFrame(content["records"]), dict(content["provenance"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(
            f"'{path}' holds no recorded costs ({first_line(error)}); give a file that "
            "`sparsebert bench attention --out FILE` or `bench model --out FILE` wrote"
        ) from None
    # A column in which nothing was measured is full of nulls.
    return frame.astype(object).fillna(math.nan).infer_objects(), found


def kept_rows(path: Path, asked: dict[str, object]) -> list[dict]:
    """The rows that a file has of the same measurement, to go on with it; none if there is no file.

    `asked` is the measurement's `provenance`. Lengths may differ from those of the file, and so may when and
    by which commit it was made. Raises `InputError` if anything else differs, or if it holds no costs.
    """
    if not path.exists():
        return []
    frame, found = read_costs(path)
    asked = json.loads(json.dumps(asked))
    for name in [name for name in asked | found if name not in _MAY_DIFFER]:
        before, now = (json.dumps(one[name]) if name in one else "the default" for one in (found, asked))
        if before != now:
            raise InputError(f"'{path}' was measured with {name}={before}, and not {now}; give another file")
    return frame.to_dict("records")


def recorded_costs(name: str) -> tuple[pd.DataFrame, dict]:
    """The measurement in `book/results/<name>.json` and its provenance; an empty frame if there is none."""
    import pandas as pd

    root = project_root()
    path = root / "book" / "results" / f"{name}.json" if root else None
    return read_costs(path) if path and path.is_file() else (pd.DataFrame(), {})


def measured(
    name: str, measure: Callable[[], pd.DataFrame], **asked: object
) -> tuple[pd.DataFrame, dict[str, object]]:
    """What a chapter measures, and its provenance: as recorded with the book, or else measured now.

    A measurement is recorded if `book/results/costs/` has a file for this name and all that is `asked`, which
    becomes part of its provenance. One that is made now is kept in `costs/` of the folder of runs, from where
    it can be copied to those recorded with the book.
    """
    text = json.dumps(asked, sort_keys=True)
    file = f"costs/{name}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"
    frame, found = recorded_costs(file)
    if found and not fresh_runs():
        return frame, found
    return read_costs(write_whole(runs_dir() / f"{file}.json", costs_json(measure(), provenance(**asked))))
