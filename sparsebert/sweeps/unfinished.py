"""What a folder of runs holds of runs without a record: claims on them, checkpoints, records left by workers.

    runs/unfinished/NAME-HASH.lock       the claim of the process that wants the run's record
    runs/unfinished/NAME-HASH/lock       held by the process that trains it, here or on a cluster
    runs/unfinished/NAME-HASH/checkpoint-500/
    runs/unfinished/NAME-HASH/record.json   of a finished run, until it is among the records

A claim is held from before the store is looked at until the record is there, so that no run is trained twice.
The second lock can outlive a claim: a worker of a cluster goes on when whoever asked for the run is gone.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from sparsebert.errors import InputError
from sparsebert.paths import InUse, locked, write_whole
from sparsebert.training.checkpoints import remove
from sparsebert.training.runs import RunRecord, RunStore

_LOCK, _RECORD = "lock", "record.json"


@contextmanager
def claim(scratch: Path, wait: bool = False) -> Iterator[None]:
    """Claim the run whose checkpoints are kept in `scratch`, for this process alone.

    Raises `InUse` if another process claims it, or with `wait` waits until that one is done. Folders that
    are made for the claim and hold nothing after it are removed again.
    """
    made = [folder for folder in scratch.parents[:2] if not folder.exists()]
    try:
        with locked(scratch.with_name(f"{scratch.name}.lock"), wait):
            yield
    finally:
        _remove_empty(*made)


@contextmanager
def checkpoints(scratch: Path, alone: bool = False) -> Iterator[Path]:
    """The folder of a run's checkpoints, for one process at a time.

    Where it can't be had it is a temporary folder, or else, with `alone`, `InUse` if a process holds it.
    """
    try:
        with ExitStack() as stack:
            folder = scratch
            try:
                stack.enter_context(locked(scratch / _LOCK, wait=False))
            except (OSError, InUse) as error:
                if alone and isinstance(error, InUse):
                    raise
                folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            yield folder
    finally:
        _remove_empty(scratch)


def _remove_empty(*folders: Path) -> None:
    for folder in folders:
        with suppress(OSError):  # what holds something stays
            folder.rmdir()


def leave(record: RunRecord, scratch: Path) -> None:
    """Keep the record of a finished run instead of its checkpoints, for whoever asks for the run next."""
    with suppress(OSError):
        write_whole(scratch / _RECORD, record.model_dump_json())
        for path in scratch.glob("checkpoint-*"):
            remove(path)


def left(scratch: Path, name: str, data_hash: str) -> RunRecord | None:
    """The record that a worker left of this run; of the hash its first digits are enough."""
    with suppress(OSError, ValueError):
        record = RunRecord.model_validate_json((scratch / _RECORD).read_bytes())
        return record if (record.name, record.data_hash[: len(data_hash)]) == (name, data_hash) else None


def keep(record: RunRecord, store: RunStore, scratch: Path) -> RunRecord:
    """Add the record of a finished run to the store; what there was of it as an unfinished one goes.

    Raises `InputError` if it can't be written, with the place where it was put instead.
    """
    try:
        store.add(record)
    except OSError as error:
        spare = RunStore(tempfile.mkdtemp(prefix="sparsebert-runs-")).add(record)
        raise InputError(
            f"the record of a finished run can't be written to '{store.folder}' ({error.strerror}); it is in "
            f"'{spare}': copy it there when there is space, and the same command goes on"
        ) from None
    remove(scratch)
    return record


def clean(store: RunStore) -> tuple[int, int]:
    """Remove what unfinished runs left in a folder of runs; what some process works on stays.

    Records that workers left are added to the store. Returns how many runs were cleaned up, and the bytes.
    """
    folder = store.folder / "unfinished"
    names = {path.name.removesuffix(".lock") for path in folder.iterdir()} if folder.is_dir() else ()
    count = size = 0
    for scratch in (folder / name for name in sorted(names)):
        with suppress(InUse), claim(scratch), checkpoints(scratch, alone=True):
            size += sum(path.stat().st_size for path in scratch.rglob("*") if path.is_file())
            count += 1
            name, _, data_hash = scratch.name.partition("-")
            record = left(scratch, name, data_hash)
            if record and not store.find(record.config, record.data_hash):
                store.add(record)
            for path in [*scratch.glob("checkpoint-*"), scratch / _RECORD]:
                remove(path)
    return count, size
