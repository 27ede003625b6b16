"""One notebook: run through papermill and written whole, or not at all."""

from __future__ import annotations

import logging
import os
import re
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nbformat
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from papermill import PapermillExecutionError, execute_notebook
from papermill.exceptions import strip_color
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook
from traitlets import default

from sparsebert.chapters.notebooks import find_notebook, read_notebook, write_notebook
from sparsebert.chapters.parameters import parameters_of, parse_parameters
from sparsebert.chapters.tidying import named_folders, tidy
from sparsebert.errors import ChapterError, InputError, UnknownName
from sparsebert.paths import output_file

KERNEL = "python3"
logging.getLogger("papermill").setLevel(logging.CRITICAL)  # it logs the failures that are reported here

# Libraries keep quiet unless the environment says otherwise: the terminal shows the progress of runs.
QUIET = {
    "PYTHONWARNINGS": "ignore",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
}


def run_notebook(
    name: str | Path,
    texts: Mapping[str, str] | None = None,
    *,
    profile: str = "quick",
    out: str | Path | None = None,
    root: str | Path | None = None,
) -> Path:
    """Runs a notebook and writes the executed, tidied copy, whole, to `out` (default NAME.executed.ipynb).

    It runs in the caller's working folder, so that a relative `file:` path means what it means there; what it
    writes to stderr is passed on while it runs. Raises `InputError` before anything runs if the notebook, the
    profile, a parameter or `out` is wrong, or from a cell that finds its parameters wrong, and `ChapterError`
    if a cell fails otherwise.
    """
    notebook = find_notebook(name, root)
    out = output_file(out or f"{notebook.stem}.executed.ipynb", "--out", ".ipynb")
    parameters = parse_parameters(notebook, texts, profile)
    if out.resolve() == notebook.resolve():
        raise InputError(f"'{out}' is the notebook itself; write the executed one to another file")
    if out.exists() and not (out.is_file() and was_executed(out)):
        raise InputError(f"'{out}' is not a notebook that this command wrote; give --out another file")
    execute(notebook, parameters, profile, out.resolve(), Path.cwd())
    return out


def was_executed(file: Path) -> dict[str, Any] | None:
    """What `execute` noted in a notebook that it wrote; None for any other file."""
    try:
        return nbformat.read(file, as_version=4).metadata["sparsebert"]
    except Exception:  # absent, truncated, or written by something else
        return None


def execute(
    notebook: Path,
    parameters: dict,
    profile: str,
    out: Path,
    cwd: Path,
    key: str = "",
    place: str = "",
    folders: list[tuple[str, str]] | None = None,
) -> float:
    """Runs `notebook`, writes it to `out`, returns the seconds taken; `place` begins its lines on stderr.

    `folders` are renamed in what is written, by default those of this machine (`named_folders`).
    """
    folders = named_folders() if folders is None else folders
    failed = out.with_suffix(".failed.ipynb")
    failed.unlink(missing_ok=True)
    out.parent.mkdir(parents=True, exist_ok=True)
    record: dict[str, Any] = {"profile": profile, "parameters": parameters, "key": key}
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        given, done = Path(folder, "given.ipynb"), Path(folder, "done.ipynb")
        nbformat.write(_with_parameters(notebook, parameters, profile), given)
        try:
            execute_notebook(
                str(given),
                str(done),
                kernel_name=KERNEL,
                language="python",
                cwd=str(cwd),
                progress_bar=False,
                stderr_file=_PlainStderr(place),
                kernel_manager_class=_RunningInterpreter,
                extra_arguments=[f"--ipython-dir={folder}", "--log-level=CRITICAL"],  # nobody's own settings
            )
        except KeyboardInterrupt:
            # The running cell fails too, in a task that nobody awaits any more; asyncio would print that.
            logging.getLogger("asyncio").setLevel(logging.CRITICAL)
            raise
        except (PapermillExecutionError, RuntimeError) as error:  # RuntimeError if the kernel dies
            if getattr(error, "ename", "") in (InputError.__name__, UnknownName.__name__):
                where = f"{notebook.stem} stopped at cell [{error.exec_count}]"
                raise InputError(f"{where}: {strip_color(error.evalue)}") from None
            write_notebook(failed, tidy(read_notebook(done), record, folders))
            kept = f"what was executed is kept in {failed}"
            if not isinstance(error, PapermillExecutionError):
                died = "its Python process died, perhaps for want of memory"
                raise ChapterError(f"{notebook.stem} stopped: {died} ({error}); {kept}") from None
            where = f"{notebook.stem} stopped at cell [{error.exec_count}] with {error.ename}; {kept}"
            traceback = strip_color("\n".join(error.traceback)).splitlines()[-12:]
            raise ChapterError("\n    ".join([where, *traceback])) from None
        record["seconds"] = round(time.perf_counter() - start, 1)
        write_notebook(out, tidy(read_notebook(done), record, folders))
    return record["seconds"]


def _with_parameters(notebook: Path, parameters: dict[str, Any], profile: str) -> nbformat.NotebookNode:
    """The notebook with a cell that sets every parameter, if any differs from the notebook's own value."""
    defaults = {name: parameter.default for name, parameter in parameters_of(notebook).items()}
    notes = {
        name: f"  # default: {defaults[name]!r}" for name in defaults if parameters[name] != defaults[name]
    }
    book = load_notebook_node(str(notebook))
    if notes:
        comment = f"Parameters of this run (profile {profile}); what they mean is folded above."
        book = parameterize_notebook(book, parameters, comment=comment, kernel_name=KERNEL, language="python")
        cell = next(cell for cell in book.cells if "injected-parameters" in cell.metadata.tags)
        cell.id = "injected-parameters"
        lines = [line + notes.get(line.partition(" =")[0], "") for line in cell.source.splitlines()]
        cell.source = "\n".join(lines)
    return book


class _RunningInterpreter(AsyncKernelManager):
    """Starts the kernel with the interpreter that runs us, not the one an installed kernelspec names.

    What a cell calls behind `!` is found beside that interpreter.
    """

    @default("kernel_spec_manager")
    def _ignore_installed_specs(self) -> KernelSpecManager:
        return KernelSpecManager(kernel_dirs=[])

    async def start_kernel(self, **options: Any) -> None:
        commands = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
        await super().start_kernel(env=QUIET | os.environ | {"PATH": commands}, **options)


class _PlainStderr:
    """What the notebook writes to stderr, passed on to the terminal without colours."""

    def __init__(self, place: str):
        self.place = place

    def write(self, text: str) -> None:
        sys.stderr.write(re.sub(r"^(?=.)", self.place, strip_color(text), flags=re.MULTILINE))

    def flush(self) -> None:
        sys.stderr.flush()
