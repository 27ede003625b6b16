"""A GPU's minutes, spent on what is wanted most first, in pieces that go on where the last one stopped.

    python book/studies/spend_gpu.py back --grid book/grids/full.yaml --minutes 5 -p task=glue/mrpc

The parts are a selftest, one chapter, timings of layers and of whole encoders, and the runs of a grid. Each
is a command of its own: one that fails or hangs takes nothing else with it. What comes back are few files in
one folder, each written as its parts are finished:

    progress.json      the state of each part, and the seconds that it has had
    log.txt            what the commands said
    selftest.json, chapter.ipynb, attention.json, compiled.json, training.json, inference.json
    runs.jsonl         the records of all runs, for `sparsebert results merge`
"""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import click
from pydantic import BaseModel

from sparsebert.cli.group import HELP, Sentences
from sparsebert.cli.options import folder_options
from sparsebert.errors import unknown_name
from sparsebert.paths import Folders, check_writable, write_whole
from sparsebert.reading import path_of, read_bytes, read_model
from sparsebert.study.results import as_line
from sparsebert.training.runs import RunRecord, RunStore

_LENGTHS, _BAND = "512,1k,2k,4k,8k,16k,32k", ("neighbour(256)", "neighbour(256) | global(cls)")
PROFILES: dict[str, dict[str, list[str]]] = {  # options of the parts' commands
    "full": {
        "selftest": [],
        "chapter": ["--profile", "quick"],
        "attention": [
            *("--lengths", _LENGTHS, "--rounds", "5", "--dtype", "bf16"),
            *(part for pattern in _BAND for part in ("--pattern", pattern)),
        ],
        "model": [
            *("--lengths", _LENGTHS, "--rounds", "3", "--dtype", "bf16"),
            *("--encoder", "bert-base", "--tokens", "32768", "--plan", _BAND[1]),
        ],
    },
    "smoke": {
        "selftest": ["--only", "models"],
        "chapter": ["--profile", "smoke"],
        "attention": ["--lengths", "32,64", "--heads", "2", "--width", "8", "--rounds", "2"],
        "model": ["--lengths", "32,64", "--encoder", "tiny", "--rounds", "2"],
    },
}
# A compiler may take half a minute for each length, so FlexAttention, which `auto` takes, has its own part.
_FUSED = ("dense", "cudnn", "banded", "masked", "varlen", "natten", "longformer", "bigbird")
_COMPILED = ("dense", "auto", "flex", "flex alone")
_GRACE = 20.0  # seconds that a command gets to end by itself
_LEAST = 10.0  # seconds without which no command is worth starting
_GATHER = 15.0


class Progress(BaseModel):
    """How far the parts have come: their states, and the seconds that they have had."""

    states: dict[str, str]
    seconds: dict[str, float]


class Part(NamedTuple):
    """A command, given the seconds that it has, and how many it may have over all pieces."""

    name: str
    seconds: float
    command: Callable[[float], Sequence[str]]
    again: bool = False  # it finds by itself what is left to do


def parts(
    out: Path, grid: str, notebook: str, given: Sequence[str], profile: str, workers: int
) -> list[Part]:
    """What is done, in this order."""
    sizes, said = PROFILES[profile], [part for pair in given for part in ("-p", pair)]
    check = ["selftest", *sizes["selftest"], "--out", str(out / "selftest.json")]
    chapter = ["run", notebook, *sizes["chapter"], *said, "--out", str(out / "chapter.ipynb")]
    sweep = ["sweep", grid, "--executor", "processes", "--workers", str(workers)]

    def bench(name: str, kind: str, option: str, *values: str) -> list[str]:
        chosen = [part for value in values for part in (f"--{option}", value)]
        return ["bench", kind, *sizes[kind], *chosen, "--out", str(out / f"{name}.json")]

    return [
        # Its last check ends behind the minutes that it is given, so these are fewer.
        Part("selftest", 120, lambda left: [*check, "--minutes", f"{left / 80:.2f}"]),
        Part("chapter", 150, lambda left: chapter),
        Part("attention", 100, lambda left: bench("attention", "attention", "contender", *_FUSED)),
        Part("training", 75, lambda left: bench("training", "model", "mode", "training")),
        Part("compiled", 100, lambda left: bench("compiled", "attention", "contender", *_COMPILED)),
        Part("inference", 60, lambda left: bench("inference", "model", "mode", "inference")),
        Part("grid", math.inf, lambda left: [*sweep, "--budget", f"{left:.0f}s"], again=True),
    ]


def spend(
    out: Path,
    grid: str,
    folders: Folders,
    minutes: float,
    notebook: str = "03_which_connections",
    given: Sequence[str] = (),
    profile: str = "full",
    workers: int = 6,
    told: Callable[[str], object] = print,
) -> dict[str, str]:
    """Spend some minutes on the parts that are not done, and return the state of each.

    `grid` is a grid file. The records in `out` are put into the folder of runs first. `given` are parameters
    of the notebook. Raises `InputError` for an unknown profile and a folder that can't be written.
    """
    end = time.monotonic() + 60 * minutes
    if profile not in PROFILES:
        raise unknown_name("profile", profile, PROFILES)
    check_writable(out, f"the folder '{out}'", "OUT")
    out.mkdir(parents=True, exist_ok=True)
    store, file, progress = RunStore(folders.runs), out / "progress.json", Progress(states={}, seconds={})
    if file.exists():
        progress = read_model(file, Progress, "the progress", "give another folder")
    _restore(out, store)
    for part in parts(out, grid, notebook, given, profile, workers):
        had, state = progress.seconds.get(part.name, 0.0), progress.states.get(part.name, "not begun")
        left = min(end - time.monotonic(), part.seconds - had)
        if part.again or state in ("not begun", "cut off"):
            if left < _LEAST:
                told(f"{part.name}: {state}, no time left for it")
                continue
            started = time.monotonic()
            log, often = out / "log.txt", lambda: _gather(out, store)
            code = _call(part.command(left), left, folders.environment, log, often)
            taken = time.monotonic() - started
            state = {None: "cut off", 130: "cut off", 0: "done"}.get(code, f"failed with exit code {code}")
            progress.states[part.name], progress.seconds[part.name] = state, round(had + taken, 1)
            write_whole(file, progress.model_dump_json(indent=1) + "\n")
            told(f"{part.name}: {state} after {taken:.0f} s")
        else:
            told(f"{part.name}: {state} before")
    _gather(out, store)
    return progress.states


def _call(
    command: Sequence[str],
    seconds: float,
    environment: dict[str, str],
    log: Path,
    often: Callable[[], object],
) -> int | None:
    """Call `sparsebert` and return its exit code; after these seconds it is interrupted, then ended: None."""
    call = [sys.executable, "-m", "sparsebert", *command]
    end = time.monotonic() + seconds
    with log.open("ab") as file:
        file.write(f"\n$ sparsebert {' '.join(command)}\n".encode())
        file.flush()
        process = subprocess.Popen(
            call, stdout=file, stderr=file, env=os.environ | environment, start_new_session=True
        )
        try:
            while (left := end - time.monotonic()) > 0:
                try:
                    return process.wait(min(left, _GATHER))
                except subprocess.TimeoutExpired:
                    often()
            process.send_signal(signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                process.wait(_GRACE)
            return None
        finally:  # it has a session of its own, in which nobody may be left
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _restore(out: Path, store: RunStore) -> None:
    """Put the records that came back earlier into the folder of runs."""
    path = out / "runs.jsonl"
    known = {record.name for record in store}
    for line in read_bytes(path, "the records").splitlines() if path.exists() else ():
        record = RunRecord.read(line)
        if record.name not in known:
            store.add(record)


def _gather(out: Path, store: RunStore) -> None:
    """All records in one file."""
    write_whole(out / "runs.jsonl", "".join(as_line(record) + "\n" for record in store))


@click.command(cls=Sentences, context_settings=HELP)
@click.argument("out", metavar="OUT")
@click.option("--grid", default="grid.yaml", metavar="FILE", help="Grid of the runs that come last.")
@click.option("--minutes", default=5.0, type=click.FloatRange(0.1), help="Minutes that this call may take.")
@click.option("--notebook", default="03_which_connections", help="Chapter to run.")
@click.option(
    "-p",
    "given",
    multiple=True,
    metavar="NAME=VALUE",
    help="Set a parameter of the chapter; may be repeated.",
)
@click.option(
    "--profile", default="full", help="Size of the runs: full, or smoke (to rehearse, also without a GPU)."
)
@click.option("--workers", default=6, type=click.IntRange(1), help="Number of processes that share the GPU.")
@folder_options("data", "prepared", "runs")
def main(out: str, folders: Folders, **how: Any) -> None:
    """Spend some minutes of a GPU: selftest, one chapter, timings, then the runs of a grid.

    What comes back are some files in the folder OUT, each written as soon as something is finished. With what
    an earlier piece left there, the same command goes on where that one stopped. A part that fails is named
    and the next one begun; OUT/log.txt has what it said.
    """
    states = spend(path_of(out), folders=folders, told=click.echo, **how)
    if any(state.startswith("failed") for state in states.values()):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
