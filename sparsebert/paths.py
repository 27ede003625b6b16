"""Where things are kept: the cache, the runs, a person's data, and the project a command is called from."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from filelock import FileLock, Timeout

from sparsebert.errors import InputError, shown
from sparsebert.reading import path_of

Given = str | Path | None  # a folder that a person may name


def cache_dir() -> Path:
    """Folder of downloads and prepared data: SPARSEBERT_CACHE_DIR, or the user's cache."""
    if named := os.environ.get("SPARSEBERT_CACHE_DIR"):
        return path_of(named)
    from platformdirs import user_cache_dir  # not there on machines that are given prepared data

    return Path(user_cache_dir("sparsebert"))


def data_dir(given: Given = None) -> Path | None:
    """Folder with data sets in the GLUE layout: the argument, or SPARSEBERT_DATA_DIR, or None.

    Raises `InputError` if the folder that was named does not exist.
    """
    origin = "--data-dir" if given else "SPARSEBERT_DATA_DIR"
    refusal = f"{origin} names '%s', which is not a folder; give the folder that holds SST-2, MRPC, ..."
    return _existing(given, "SPARSEBERT_DATA_DIR", refusal)


def prepared_dir(given: Given = None) -> Path | None:
    """Folder that all tasks are read from as tokens: the argument, or SPARSEBERT_PREPARED_DIR, or None.

    Raises `InputError` if it does not exist.
    """
    refusal = "there is no folder '%s' of prepared data; give --prepared or SPARSEBERT_PREPARED_DIR one that"
    return _existing(given, "SPARSEBERT_PREPARED_DIR", f"{refusal} `sparsebert prepare` wrote")


def _existing(given: Given, variable: str, refusal: str) -> Path | None:
    named = given or os.environ.get(variable)
    path = path_of(named) if named else None
    if path and not path.is_dir():
        raise InputError(refusal % shown(path))
    return path


def project_root() -> Path | None:
    """This project's clone: the nearest one above the working folder, else the package's own, or None."""
    here = Path.cwd()
    for folder in (here, *here.parents, Path(__file__).resolve().parent.parent):
        if (folder / "_config.yml").is_file() and (folder / "notebooks").is_dir():
            return folder
    return None


def fresh_runs() -> bool:
    """Whether SPARSEBERT_FRESH is set: chapters then make their runs themselves and read no recorded ones."""
    return os.environ.get("SPARSEBERT_FRESH", "") not in ("", "0")


def runs_dir(given: Given = None) -> Path:
    """Folder of run records: the argument, or SPARSEBERT_RUNS_DIR, or `runs/` in the project.

    Outside a project it is `runs/` in the working folder.
    """
    named = given or os.environ.get("SPARSEBERT_RUNS_DIR")
    return path_of(named) if named else (project_root() or Path.cwd()) / "runs"


@dataclass(frozen=True)
class Folders:
    """Where a command reads and writes, looked up once and then handed on.

    `data` holds data sets in the GLUE layout. `prepared` holds tasks as tokens, and is then the only source
    of tasks. `runs` holds the records.
    """

    data: Path | None
    prepared: Path | None
    runs: Path

    @classmethod
    def named(cls, data: Given = None, prepared: Given = None, runs: Given = None) -> Folders:
        """The folders that are given, and for others those of the environment variables or the defaults.

        Raises `InputError` for a folder of data that does not exist.
        """
        return cls(data_dir(data), prepared_dir(prepared), runs_dir(runs))

    @property
    def environment(self) -> dict[str, str]:
        """Environment variables that give a child process the same folders."""
        found = {"DATA": self.data, "PREPARED": self.prepared, "RUNS": self.runs}
        return {f"SPARSEBERT_{name}_DIR": str(path.absolute()) for name, path in found.items() if path}


def check_writable(folder: Path, name: str, instead: str) -> None:
    """See that files can be written in a folder, or that it can be made, to be told before long work.

    Leaves nothing behind. `InputError` otherwise, which calls the folder by its `name` and says what to give
    `instead`.
    """
    try:
        nearest = path_of(folder).absolute()
        while not os.path.lexists(nearest):  # a link that leads nowhere is there, and no folder can be
            nearest = nearest.parent
        with tempfile.TemporaryFile(dir=nearest):
            pass
    except OSError as error:
        raise InputError(f"{name} cannot be written: {error.strerror}; give another {instead}") from None


def output_file(given: str | Path, option: str, suffix: str = "") -> Path:
    """The path of a file to write. Raises `InputError` where none of this ending can be written."""
    path = path_of(given)
    if path.is_dir():
        raise InputError(f"{option} {given}: it is a folder; write the name of a file in it")
    if not path.name.endswith(suffix):
        raise InputError(f"{option} {given}: write a name that ends in {suffix}")
    check_writable(path.absolute().parent, f"'{given}'", option)
    return path


def write_whole(path: Path, content: str | bytes) -> Path:
    """Write a file whole or not at all: the name appears, or changes hands, when all of it is on the disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".writing-{uuid4().hex}")
    try:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)
        flush_to_disk(temporary)
        os.replace(temporary, path)
        flush_to_disk(path.parent)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def flush_to_disk(path: Path) -> None:
    """Wait until a file, or what a folder lists, would survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class InUse(RuntimeError):
    """Another process, or another thread of this one, holds what was asked for."""


@contextmanager
def locked(path: Path, wait: bool = True) -> Iterator[None]:
    """Hold a lock that is a file, which is there as long as it is held.

    Waits while another process holds it, or without `wait` raises `InUse`.
    """
    lock = FileLock(path, blocking=wait, thread_local=False)
    try:
        for attempt in range(9):
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                lock.acquire()
                break
            except (FileNotFoundError, FileExistsError):  # another process has just removed it
                if attempt == 8:
                    raise
    except Timeout:
        raise InUse from None
    try:
        yield
    finally:
        path.unlink(missing_ok=True)  # while it is held: whoever waits for it makes a new one
        lock.release()
