"""All chapters: those that changed are run, then the book is rendered."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, wait
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from packaging.markers import Marker
from packaging.requirements import Requirement
from papermill.exceptions import strip_color

import sparsebert
from sparsebert import paths
from sparsebert.chapters.components import components_page
from sparsebert.chapters.notebooks import find_root, read_notebook, write_notebook
from sparsebert.chapters.parameters import parse_parameters
from sparsebert.chapters.printing import find_browser, print_page
from sparsebert.chapters.reference import PAGE, entries, reference_page, with_reference
from sparsebert.chapters.running import execute, was_executed
from sparsebert.chapters.site import write_pages
from sparsebert.chapters.tidying import without_solutions
from sparsebert.errors import ChapterError, InputError
from sparsebert.reading import read_yaml
from sparsebert.sweeps.executors import WorkerDied, open_executor


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def build_book(
    root: str | Path | None = None,
    profile: str = "quick",
    *,
    build: str | Path | None = None,
    pdf: bool = False,
    say: Callable[[str], None] = _to_stderr,
) -> Path:
    """Runs every chapter of `book/_toc.yml` that changed, renders the book, returns the path of index.html.

    With `pdf` the path is that of the whole book as one PDF, `sparsebert.pdf` in `build`.

    Everything made goes into `build` (by default `_build/` in the project): `notebooks/PROFILE/` the executed
    notebooks, `source/` what is rendered, `html/` the book, replaced only by a whole one, and `book.log` what
    jupyter-book said. `say` is called with a line per chapter. A second call for the same `build` waits.
    Raises `InputError` if a chapter is missing or the profile is wrong, and `ChapterError` if a notebook or
    the rendering fails.
    """
    browser = find_browser() if pdf else ""
    root = find_root(root)
    build = Path(build).resolve() if build else root / "_build"
    todo = [(notebook, parse_parameters(notebook, profile=profile)) for notebook in _chapters_in_toc(root)]
    executed = build / "notebooks" / profile
    with _one_at_a_time(build, say):
        try:
            _execute_changed(todo, profile, executed, root, say)
            _assemble(root, build / "source", [executed / notebook.name for notebook, _ in todo], profile)
            index = _rendered(root, build, say)
            return _printed(root, build, browser, say) if pdf else index
        except KeyboardInterrupt:
            say("\nstopped; the same command continues from here: finished runs and chapters are kept")
            raise


@contextmanager
def _one_at_a_time(build: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Two builds in one folder would overwrite each other's files."""
    build.mkdir(parents=True, exist_ok=True)
    lock = FileLock(build / ".lock")
    try:
        held = lock.acquire(timeout=0)
    except Timeout:
        say(f"another command is building the book in {build}; this one waits until that is done")
        held = lock.acquire()
    with held:
        yield


def _execute_changed(
    todo: list[tuple[Path, dict[str, Any]]],
    profile: str,
    executed: Path,
    root: Path,
    say: Callable[[str], None],
) -> None:
    """Runs the chapters whose key differs from that of their executed copy."""
    waiting = []
    for number, (notebook, parameters) in enumerate(todo, start=1):
        out, key = executed / notebook.name, notebook_key(notebook, parameters, profile)
        place = f"[{number}/{len(todo)}]"
        if (was_executed(out) or {}).get("key") == key:
            say(f"{place} {notebook.stem}: unchanged")
        else:
            call = (notebook, parameters, profile, out, root, key, place)
            waiting.append((f"{place} {notebook.stem}", call))
    at_once = 1
    if profile == "quick" and not paths.fresh_runs():  # else a single one trains on all cores
        at_once = min(2, len(waiting), os.cpu_count() or 1)
    running = {}
    with open_executor("processes", at_once) if at_once > 1 else open_executor() as executor:
        while waiting or running:
            while waiting and len(running) < max(1, at_once):
                place, call = waiting.pop(0)
                say(f"{place}: running (profile {profile})")
                running[executor.submit(execute, *call)] = place
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                place = running.pop(future)
                try:
                    say(f"{place}: done in {future.result():.0f} s")
                except WorkerDied as error:
                    raise ChapterError(f"{place}: {error}") from None


def notebook_key(notebook: Path, parameters: Mapping[str, Any], profile: str) -> str:
    """A hash of everything that an executed notebook depends on; if it is unchanged, so is the result.

    The notebook, its parameters, the recorded runs and whether they may be used, the package's source, the
    versions of Python and of what the package requires, and the folders of runs and data in use.
    """
    package = Path(sparsebert.__file__).parent
    results = notebook.parent.parent / "book" / "results"
    facts = {
        "notebook": _hash(notebook),
        "parameters": dict(parameters),
        "profile": profile,
        "fresh": paths.fresh_runs(),
        "recorded": _hashes(results, "*.json*"),
        "package": _hashes(package, "*.py"),
        "versions": versions(),
        "folders": [str(folder and folder.resolve()) for folder in (paths.runs_dir(), paths.data_dir())],
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def versions() -> dict[str, str]:
    """Versions of Python and of every distribution that the package and its book require directly."""
    required = [Requirement(text) for text in importlib.metadata.requires("sparsebert") or []]
    names = sorted(
        requirement.name
        for requirement in required
        if requirement.name != "sparsebert" and _for_the_book(requirement.marker)
    )
    return {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in names}


def _for_the_book(marker: Marker | None) -> bool:
    return marker is None or any(marker.evaluate({"extra": extra}) for extra in ("train", "data", "book"))


def _chapters_in_toc(root: Path) -> list[Path]:
    """The notebooks that the table of contents lists, in its order."""
    toc = read_yaml(root / "book" / "_toc.yml")
    listed = [root / f"{page}.ipynb" for page in pages_in_toc(toc) if page.startswith("notebooks/")]
    for notebook in listed:
        if not notebook.is_file():
            raise InputError(
                f"book/_toc.yml lists notebooks/{notebook.stem}, but there is no {notebook}; "
                "add the notebook or take the line out"
            )
    return listed


def pages_in_toc(toc: Any) -> list[str]:
    """Every page that a (part of a) table of contents names, in order."""
    if isinstance(toc, list):
        return [page for entry in toc for page in pages_in_toc(entry)]
    if not isinstance(toc, Mapping):
        return []
    own = [toc[key] for key in ("root", "file") if key in toc]
    return own + [page for value in toc.values() for page in pages_in_toc(value)]


def _assemble(root: Path, source: Path, executed: list[Path], profile: str) -> None:
    """The folder that is rendered: prose pages, executed notebooks, pages of components and of this build."""
    config = read_yaml(root / "_config.yml")
    students = config["sphinx"]["config"].get("hide_solutions", False)
    shutil.rmtree(source, ignore_errors=True)
    shutil.copytree(root / "book", source, ignore=shutil.ignore_patterns(".ipynb_checkpoints", ".*"))
    (source / "notebooks").mkdir()
    reference = entries()
    for notebook in executed:
        chapter = with_reference(read_notebook(notebook), notebook.stem[:2], reference)
        write_notebook(
            source / "notebooks" / notebook.name, without_solutions(chapter) if students else chapter
        )
    (source / f"{PAGE}.md").write_text(reference_page(), encoding="utf-8")
    (source / "components.md").write_text(components_page(), encoding="utf-8")
    (source / "this_build.md").write_text(_about_this_build(executed, profile), encoding="utf-8")
    sources = [root / "notebooks" / notebook.name for notebook in executed]
    write_pages(root, source, [*sorted((root / "book").glob("*.md")), *sources])


def _about_this_build(executed: list[Path], profile: str) -> str:
    from sparsebert.machine import device_name  # late: it brings torch

    records = [(notebook.stem, read_notebook(notebook).metadata["sparsebert"]) for notebook in executed]
    rows = [f"| {{doc}}`notebooks/{stem}` | {record['seconds']:.0f} |" for stem, record in records]
    total = sum(record["seconds"] for _, record in records)
    installed = [f"| {name} | {version} |" for name, version in versions().items()]
    return "\n".join(
        [
            "# This build",
            "",
            f"The chapters were run in the profile `{profile}` on {device_name()} under {platform.system()}. "
            "A fine-tuning run that was finished before is found again, so a chapter's time can be shorter "
            "than the work behind it; each chapter tells what its runs took. Chapters whose runs are "
            "recorded are run two at a time.",
            "",
            "| chapter | seconds |",
            "| --- | ---: |",
            *rows,
            f"| together | {total:.0f} |",
            "",
            "| installed | version |",
            "| --- | --- |",
            *installed,
            "",
        ]
    )


def _rendered(root: Path, build: Path, say: Callable[[str], None]) -> Path:
    """The first page of the book, rendered anew if anything that it is made from has changed."""
    index, made_from = build / "html" / "index.html", build / "rendered.json"
    facts = {
        "source": _hashes(build / "source", "*"),
        "config": _hash(root / "_config.yml"),
        "package": _hashes(Path(sparsebert.__file__).parent, "*.py"),
        "repository": os.environ.get("SPARSEBERT_REPOSITORY"),
        "versions": versions(),
    }
    text = json.dumps(facts, indent=1)
    if index.is_file() and made_from.is_file() and made_from.read_text(encoding="utf-8") == text:
        say("the pages: unchanged")
        return index
    say("rendering the book")
    start = time.perf_counter()
    made_from.unlink(missing_ok=True)
    _render(root, build)
    paths.write_whole(made_from, text)
    say(f"rendered in {time.perf_counter() - start:.0f} s")
    return index


def _printed(root: Path, build: Path, browser: str, say: Callable[[str], None]) -> Path:
    """The book as one PDF, made anew if the pages are newer."""
    pdf, single = build / "sparsebert.pdf", build / "singlehtml"
    if pdf.is_file() and pdf.stat().st_mtime > (build / "rendered.json").stat().st_mtime:
        say("the PDF: unchanged")
        return pdf
    say("printing the book")
    _render(root, build, "singlehtml")
    print_page(browser, single / f"{pages_in_toc(read_yaml(root / 'book' / '_toc.yml'))[0]}.html", pdf)
    shutil.rmtree(single)
    return pdf


def _render(root: Path, build: Path, builder: str = "html") -> None:
    """Runs jupyter-book with every warning an error, always from nothing: a second try hides warnings."""
    work, log, html = build / "sphinx", build / "book.log", build / builder
    shutil.rmtree(work, ignore_errors=True)
    command = [sys.executable, "-c", "from jupyter_book.cli.main import main; main()"]
    command += ["build", build / "source", "-W", "-n", "--keep-going", "--path-output", work]
    command += [
        "--builder",
        builder,
        "--config",
        root / "_config.yml",
        "--toc",
        build / "source" / "_toc.yml",
    ]
    with log.open("w", encoding="utf-8") as stream:
        rendered = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            env={**os.environ, "NO_COLOR": "1", "PYTHONWARNINGS": "ignore"},
        )
    if rendered.returncode:
        lines = [strip_color(line) for line in log.read_text(encoding="utf-8").splitlines()]
        said = [line for line in lines if re.search(r"\b(WARNING|ERROR|CRITICAL)\b", line)] or lines[-20:]
        said = [line.replace(str(build / "source"), "book") for line in said]
        raise ChapterError("\n    ".join([f"the book could not be rendered (all of it in {log}):", *said]))
    shutil.rmtree(html, ignore_errors=True)
    os.replace(work / "_build" / builder, html)
    shutil.rmtree(work, ignore_errors=True)


def _hashes(folder: Path, pattern: str) -> dict[str, str]:
    files = sorted(file for file in folder.rglob(pattern) if file.is_file())
    return {str(file.relative_to(folder)): _hash(file) for file in files}


def _hash(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
