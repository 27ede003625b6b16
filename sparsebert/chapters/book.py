"""All chapters: those that changed are run, then the book is rendered."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import platform
import shutil
import time
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_COMPLETED, wait
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from sphinx_external_toc.parsing import MalformedError, parse_toc_yaml
from yaml import YAMLError

import sparsebert
from sparsebert import paths
from sparsebert.chapters.notebooks import find_root, read_notebook, write_notebook
from sparsebert.chapters.parameters import parse_parameters
from sparsebert.chapters.reference import (
    PAGE,
    components_page,
    entries,
    reference_page,
    table,
    with_reference,
)
from sparsebert.chapters.rendering import find_browser, print_page, render
from sparsebert.chapters.running import execute, was_executed
from sparsebert.chapters.site import write_pages
from sparsebert.chapters.slides import build_slides
from sparsebert.chapters.tidying import without_solutions, without_teachers_parts
from sparsebert.errors import ChapterError, InputError, say
from sparsebert.sweeps.executors import WorkerDied, open_executor


def build_book(
    root: str | Path | None = None,
    profile: str = "quick",
    *,
    build: str | Path | None = None,
    students: bool = False,
    pdf: bool = False,
    slides: bool = False,
    say: Callable[[str], None] = say,
) -> Path:
    """Runs every chapter of `book/_toc.yml` that changed, renders the book, returns the path of index.html.

    With `pdf` the path is that of the whole book as one PDF, `sparsebert.pdf` in `build`. With `slides` the
    pages are not rendered, and the path is that of a lecture's slides, `slides/lecture.html` in `build`.

    Everything made goes into `build` (by default `_build/` in the project): `notebooks/PROFILE/` the executed
    notebooks, `source/` what is rendered, `html/` the book, replaced only by a whole one, and `book.log` what
    jupyter-book said. With `students` the last three are made in `student/`, without solutions in pages and
    downloads, and without what is for teachers only; `notebooks/` is shared with the whole book. `say` is
    called with a line per chapter. A second call for the same `build` waits.
    Raises `InputError` if a chapter is missing or the profile is wrong, and `ChapterError` if a notebook or
    the rendering fails.
    """
    browser = find_browser() if pdf else ""
    root = find_root(root)
    build = Path(build).resolve() if build else root / "_build"
    listed = [root / f"{page}.ipynb" for page in pages_in_toc(root) if page.startswith("notebooks/")]
    for notebook in listed:
        if not notebook.is_file():
            missing = f"lists notebooks/{notebook.stem}, but there is no {notebook}"
            raise InputError(f"book/_toc.yml {missing}; add the notebook or remove the line")
    todo = [(notebook, parse_parameters(notebook, profile=profile)) for notebook in listed]
    executed = build / "notebooks" / profile
    build.mkdir(parents=True, exist_ok=True)
    alone = ExitStack()  # two builds in one folder would overwrite each other's files
    try:
        alone.enter_context(paths.locked(build / ".lock", wait=False))
    except paths.InUse:
        say(f"another command is building the book in {build}; this one waits until that is done")
        alone.enter_context(paths.locked(build / ".lock"))
    try:
        _execute_changed(todo, profile, executed, root, say)
        ran = [executed / notebook.name for notebook, _ in todo]
        if slides:
            return build_slides(root, ran, build)
        edition = build / "student" if students else build
        _assemble(root, edition / "source", ran, profile, students)
        index = _rendered(root, edition, say)
        return _printed(root, edition, browser, say) if pdf else index
    except KeyboardInterrupt:
        say("\nstopped; the same command continues from here: finished runs and chapters are kept")
        raise
    finally:
        alone.close()


def _execute_changed(
    todo: list[tuple[Path, dict]], profile: str, executed: Path, root: Path, say: Callable[[str], None]
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
        at_once = max(1, min(2, len(waiting), os.cpu_count() or 1))
    running = {}
    with open_executor("processes", at_once) if at_once > 1 else open_executor() as executor:
        while waiting or running:
            while waiting and len(running) < at_once:
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
    folders = paths.runs_dir(), paths.data_dir(), paths.prepared_dir()
    facts = {
        "notebook": _hash(notebook),
        "parameters": dict(parameters),
        "profile": profile,
        "fresh": paths.fresh_runs(),
        "recorded": _hashes(notebook.parent.parent / "book" / "results", "*.json*"),
        "package": _hashes(Path(sparsebert.__file__).parent, "*.py"),
        "versions": required_versions(),
        "folders": [str(folder and folder.resolve()) for folder in folders],
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def required_versions() -> dict[str, str]:
    """Versions of Python and of every distribution that the package and its book require directly."""
    required = map(Requirement, importlib.metadata.requires("sparsebert") or [])
    extras = [{"extra": extra} for extra in ("train", "data", "book")]
    names = [
        one.name for one in required if not one.marker or any(one.marker.evaluate(extra) for extra in extras)
    ]
    found = {name: importlib.metadata.version(name) for name in sorted(names) if name != "sparsebert"}
    return {"python": platform.python_version()} | found


def pages_in_toc(root: Path) -> list[str]:
    """Every page that the table of contents of a project names, in order; `InputError` if it is malformed."""
    try:
        return list(parse_toc_yaml(root / "book" / "_toc.yml"))
    except (MalformedError, OSError, YAMLError) as error:
        raise InputError(f"book/_toc.yml can't be read: {error}") from None


def _assemble(root: Path, source: Path, executed: list[Path], profile: str, students: bool) -> None:
    """The folder that is rendered: prose pages, executed notebooks, pages of components and of this build."""
    shutil.rmtree(source, ignore_errors=True)
    shutil.copytree(root / "book", source, ignore=shutil.ignore_patterns(".*"))
    (source / "notebooks").mkdir()
    if students:
        without_teachers_parts(source)
    chapters = [(notebook, read_notebook(notebook)) for notebook in executed]
    seconds = {notebook.stem: chapter.metadata["sparsebert"]["seconds"] for notebook, chapter in chapters}
    for notebook, chapter in chapters:
        chapter = with_reference(chapter, notebook.stem[:2], entries())
        chapter = without_solutions(chapter) if students else chapter
        write_notebook(source / "notebooks" / notebook.name, chapter)
    (source / f"{PAGE}.md").write_text(reference_page(), encoding="utf-8")
    (source / "components.md").write_text(components_page(), encoding="utf-8")
    (source / "this_build.md").write_text(_about_this_build(seconds, profile), encoding="utf-8")
    sources = [root / "notebooks" / notebook.name for notebook in executed]
    write_pages(root, source, [*sorted((root / "book").glob("*.md")), *sources])


def _about_this_build(seconds: dict[str, float], profile: str) -> str:
    from sparsebert.machine import device_name  # late: it brings torch

    taken = [(f"{{doc}}`notebooks/{stem}`", f"{own:.0f}") for stem, own in seconds.items()]
    return f"""# This build

The chapters were run in the profile `{profile}` on {device_name()} under {platform.system()}. A fine-tuning
run that was finished before is found again, so a chapter's time can be shorter than the work behind it; each
chapter tells what its runs took. Chapters whose runs are recorded are run two at a time.

{table(("chapter", "seconds"), [*taken, ("together", f"{sum(seconds.values()):.0f}")])}

{table(("installed", "version"), required_versions().items())}
"""


def _rendered(root: Path, build: Path, say: Callable[[str], None]) -> Path:
    """The first page of the book, rendered anew if anything that it is made from has changed."""
    index, made_from = build / "html" / "index.html", build / "rendered.json"
    facts = {
        "source": _hashes(build / "source", "*"),
        "config": _hash(root / "_config.yml"),
        "package": _hashes(Path(sparsebert.__file__).parent, "*.py"),
        "repository": os.environ.get("SPARSEBERT_REPOSITORY"),
        "versions": required_versions(),
    }
    text = json.dumps(facts, indent=1)
    if index.is_file() and made_from.is_file() and made_from.read_text(encoding="utf-8") == text:
        say("the pages: unchanged")
        return index
    say("rendering the book")
    start = time.perf_counter()
    made_from.unlink(missing_ok=True)
    render_pages("the book", root, build)
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
    render_pages("the book", root, build, "singlehtml")
    print_page(browser, single / f"{pages_in_toc(root)[0]}.html", pdf)
    shutil.rmtree(single)
    return pdf


def render_pages(what: str, root: Path, build: Path, builder: str = "html", log: Path | None = None) -> None:
    """Renders the pages in `build/source` as the project's `_config.yml` says; they are then in `build/html`.

    jupyter-book runs with every warning an error, always from nothing: a second try hides warnings.
    `ChapterError`, which calls the pages `what`, if it fails; all that it said is in `log`.
    """
    work, html, log = build / "sphinx", build / builder, log or build / "book.log"
    shutil.rmtree(work, ignore_errors=True)
    command = ["-c", "from jupyter_book.cli.main import main; main()", "build", build / "source"]
    command += ["-W", "-n", "--keep-going", "--path-output", work, "--builder", builder]
    command += ["--config", root / "_config.yml", "--toc", build / "source" / "_toc.yml"]
    render(what, command, log, build / "source")
    shutil.rmtree(html, ignore_errors=True)
    os.replace(work / "_build" / builder, html)
    shutil.rmtree(work, ignore_errors=True)


def _hashes(folder: Path, pattern: str) -> dict[str, str]:
    files = sorted(file for file in folder.rglob(pattern) if file.is_file())
    return {str(file.relative_to(folder)): _hash(file) for file in files}


def _hash(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
