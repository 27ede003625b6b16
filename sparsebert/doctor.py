"""What this machine can do: `sparsebert doctor`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import huggingface_hub
import torch

from sparsebert.data.syntax import parser_name
from sparsebert.errors import InputError
from sparsebert.machine import device_name, hub_reachable, resolve_precision, versions
from sparsebert.models.packaged import ENCODERS
from sparsebert.paths import cache_dir, data_dir, project_root, runs_dir
from sparsebert.training.runs import RunStore


def examine() -> Iterator[tuple[str, str]]:
    """Pairs of (what, found), one at a time, since asking the network can take some seconds."""
    yield "versions", ", ".join(f"{package} {version}" for package, version in versions().items())
    kind = "GPU" if torch.cuda.is_available() else "no GPU"
    yield "device", f"{kind}; {device_name()}; computes in {resolve_precision('auto')}"
    for encoder in ENCODERS.values():
        yield encoder.name, str(encoder)
    yield "parser", _or_refusal(lambda: f"{parser_name()} found")
    yield "hub", _hub()
    yield "GLUE folder", _or_refusal(_glue)
    yield "cache", _place(cache_dir(), "SPARSEBERT_CACHE_DIR")
    recorded = sum(1 for _ in RunStore())
    yield "runs", f"{recorded} recorded in {_place(runs_dir(), 'SPARSEBERT_RUNS_DIR')}"
    yield "project", str(project_root() or "not in a clone: `book` and `run` need one")


def _place(folder: Path, variable: str) -> str:
    """The folder, and whether it can be written, which is seen without making it."""
    there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    usable = there.is_dir() and os.access(there, os.W_OK)
    return f"{folder} ({'' if usable else 'which cannot be written: '}set {variable} to move it)"


def _or_refusal(find: Callable[[], str]) -> str:
    try:
        return find()
    except InputError as error:
        return str(error)


def _hub() -> str:
    apart = "" if hub_reachable() else "not reachable; packaged and local encoders and data work without it"
    return f"{huggingface_hub.constants.ENDPOINT} is {apart or 'reachable'}"


def _glue() -> str:
    folder = data_dir()
    if folder is None:
        return "none named; set SPARSEBERT_DATA_DIR to one with SST-2/, MRPC/, ... (else the hub is asked)"
    from sparsebert.data.tasks.glue import GLUE  # takes long to import

    found = dict.fromkeys(its.folder for its in GLUE.values() if (folder / its.folder).is_dir())
    return f"{folder} holds {', '.join(found) or 'none of the tasks'}"
