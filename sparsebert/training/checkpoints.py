"""Checkpoints of a run that trains: kept now and then, and used again only if they are whole.

A checkpoint is whole if the list of its files and their hashes, which is written last, says so. A file that
was truncated, changed or lost, another version of torch, another device or precision makes it useless, and it
is removed.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import time
from pathlib import Path
from typing import Any

from accelerate.utils import broadcast_object_list
from transformers import TrainerCallback

from sparsebert.errors import say
from sparsebert.machine import device_name, versions
from sparsebert.paths import flush_to_disk, write_whole

MANIFEST = "whole.json"
KEPT = 2  # the latest ones


def last_whole(scratch: Path | None, processes: int = 1, precision: str = "fp32") -> tuple[Path | None, int]:
    """The last whole checkpoint in a folder, and the steps that were done by then; others are removed.

    One that another number of `processes` made has not the state of all their random generators.
    """
    for folder in _latest_first(scratch) if scratch else ():
        if _is_whole(folder, processes, precision):
            return folder, _step(folder)
        remove(folder)
        say(f"    {folder.name} is damaged, or was made with other versions, device or precision: removed")
    return None, 0


def declare_whole(folder: Path, processes: int = 1, precision: str = "fp32") -> None:
    """Write the list of a checkpoint's files when they are on the disk, and remove the oldest checkpoints."""
    for path in folder.iterdir():
        flush_to_disk(path)
    write_whole(folder / MANIFEST, json.dumps(_contents(folder, processes, precision), indent=1) + "\n")
    for old in _latest_first(folder.parent)[KEPT:]:
        remove(old)


def remove(path: Path) -> None:
    """Remove a file or a folder, if it is there and can be removed."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _is_whole(folder: Path, *how: int | str) -> bool:
    try:
        listed = (folder / MANIFEST).is_file() and json.loads((folder / MANIFEST).read_bytes())
        return listed == _contents(folder, *how)
    except (OSError, ValueError, RecursionError):
        return False


def _contents(folder: Path, processes: int, precision: str) -> dict[str, Any]:
    files = {}
    for path in sorted(folder.iterdir()):
        if path.name != MANIFEST and path.is_file():
            with path.open("rb") as file:
                files[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    made_by = {name: version for name, version in versions().items() if name in ("torch", "transformers")}
    made_by |= {"device": device_name().partition(", ")[0], "precision": precision}  # whatever its threads
    return {"files": files, "made by": made_by, "processes": processes}


def _latest_first(scratch: Path) -> list[Path]:
    return sorted(
        (path for path in scratch.glob("checkpoint-*") if _step(path) >= 0), key=_step, reverse=True
    )


def _step(folder: Path) -> int:
    return int(number[1]) if (number := re.fullmatch(r"checkpoint-(\d{1,18})", folder.name)) else -1


class Checkpoints(TrainerCallback):
    """Asks for a checkpoint when the last one is long enough ago, so that short runs write none."""

    def __init__(self, seconds: float):
        self.seconds, self.last = seconds, time.perf_counter()

    def on_step_end(self, args, state, control, **_):
        due = [time.perf_counter() - self.last >= self.seconds]
        if args.world_size > 1:
            broadcast_object_list(due)  # clocks differ, and all processes have to save at the same step
        if due[0]:
            self.last = time.perf_counter()
            control.should_log = control.should_save = True  # the log keeps the loss until here
