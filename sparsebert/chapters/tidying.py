"""An executed notebook made fit to be read, compared and rendered, and an edition for students."""

from __future__ import annotations

import re
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nbformat
import yaml
from papermill.exceptions import strip_color

from sparsebert import paths
from sparsebert.reading import read_yaml


def tidy(
    book: nbformat.NotebookNode, record: dict[str, Any], folders: list[tuple[str, str]]
) -> nbformat.NotebookNode:
    """Makes an executed notebook fit to be read and compared, in place.

    Timestamps, stderr, terminal colours, widgets and this machine's absolute `folders` go; `record` (profile,
    parameters, seconds) is kept in the metadata; where values were injected, the default cell is folded; and
    each figure shown by `sparsebert.figures.show` gets a cell of its own, with caption, label and alt text.
    """
    injected = any("injected-parameters" in cell.metadata.get("tags", []) for cell in book.cells)
    cells = []
    for cell in book.cells:
        tags = cell.metadata.pop("tags", [])
        for timing in ("papermill", "execution"):
            cell.metadata.pop(timing, None)
        if injected and "parameters" in tags:
            tags.append("hide-input")
            shown = "Show what the parameters mean and their defaults", "Hide what the parameters mean"
            cell.metadata["mystnb"] = dict(zip(("code_prompt_show", "code_prompt_hide"), shown, strict=True))
        if tags:
            cell.metadata["tags"] = tags
        if cell.cell_type == "code":
            told = [output for output in cell.outputs if output.get("name") != "stderr"]
            cell.outputs = [nbformat.from_dict(_plain(output, folders)) for output in told]
        cells += _one_figure_per_cell(cell) if cell.cell_type == "code" else [cell]
    book.metadata.pop("papermill", None)
    book.metadata = nbformat.from_dict(_plain(book.metadata | {"sparsebert": record}, folders))
    book.cells = cells
    return book


def _one_figure_per_cell(cell: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    """myst-nb captions every displayed output of a cell alike, so a figure's cell must show nothing else."""
    runs: list[list[nbformat.NotebookNode]] = []
    for output in cell.outputs:
        if runs and not _figure(output) and not _figure(runs[-1][0]):
            runs[-1].append(output)
        else:
            runs.append([output])
    if not any(_figure(run[0]) for run in runs):
        return [cell]
    cells = [nbformat.from_dict(dict(cell, outputs=run)) for run in runs]
    for number, part in enumerate(cells):
        if number:
            tags = [tag for tag in part.metadata.get("tags", []) if tag != "hide-input"]
            part.metadata["tags"] = [*tags, "remove-input"]
            part.source = "# more output of the cell above"  # myst-nb skips cells without a source
            part.id = f"{cell.id}-{number}"
        if told := _figure(part.outputs[0]):
            figure = {"name": told["name"], "caption": told["caption"]}
            part.metadata.setdefault("mystnb", {}).update(figure=figure, image={"alt": told["alt"]})
    return cells


def _figure(output: nbformat.NotebookNode) -> dict[str, str] | None:
    """Name, caption and alt text, if the output is a figure of `sparsebert.figures.show`."""
    return output.get("metadata", {}).get("sparsebert")


_FENCED = r"^(?P<fence>[`:]{{3,}})\{{{}\}}.*?^(?P=fence)[ \t]*(?:\n|\Z)"  # a MyST directive, whole
_SOLUTION, _START, _END = (
    re.compile(_FENCED.format(name), re.MULTILINE | re.DOTALL)
    for name in ("solution", "solution-start", "solution-end")
)


def without_solutions(book: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Takes solutions out of a notebook, in place: `{solution}`, and `{solution-start}` to `{solution-end}`.

    sphinx-exercise's own `hide_solutions` leaves the code cells of a solution standing.
    """
    kept, inside = [], False
    for cell in book.cells:
        if cell.cell_type == "markdown":
            text, rest = "", _SOLUTION.sub("", cell.source)
            while boundary := (_END if inside else _START).search(rest):
                text += "" if inside else rest[: boundary.start()]
                rest, inside = rest[boundary.end() :], not inside
            cell.source = (text if inside else text + rest).strip()
        if cell.source and not (inside and cell.cell_type != "markdown"):
            kept.append(cell)
    book.cells = kept
    return book


_FOR_TEACHERS = re.compile(r"^% for teachers only\n.*?(?:^% for all\n|\Z)", re.MULTILINE | re.DOTALL)


def without_teachers_parts(folder: Path) -> None:
    """Takes out of the Markdown pages of a folder what is between `% for teachers only` and `% for all`.

    A page of which nothing is left goes, and so does its line in the table of contents, `_toc.yml`.
    """
    gone = set()
    for page in folder.glob("*.md"):
        text = page.read_text(encoding="utf-8")
        left = _FOR_TEACHERS.sub("", text)
        if not left.strip():
            gone.add(page.stem)
            page.unlink()
        elif left != text:
            page.write_text(left, encoding="utf-8")
    toc = folder / "_toc.yml"
    listed = yaml.safe_dump(_without(read_yaml(toc), gone), sort_keys=False)
    toc.write_text(listed, encoding="utf-8")


def _without(entry: Any, pages: set[str]) -> Any:
    """A table of contents, or a part of it, without these pages."""
    if isinstance(entry, list):
        kept = [one for one in entry if not (isinstance(one, Mapping) and one.get("file") in pages)]
        return [_without(one, pages) for one in kept]
    return (
        {key: _without(value, pages) for key, value in entry.items()} if isinstance(entry, Mapping) else entry
    )


def _plain(value: Any, folders: list[tuple[str, str]]) -> Any:
    """The same data without colours and widgets, and with this machine's folders renamed.

    Images other than SVG stay as they are: they are base64, not text.
    """
    if isinstance(value, Mapping):
        kept = [(key, item) for key, item in value.items() if "widget" not in key]
        return {k: item if re.match("image/(?!svg)", k) else _plain(item, folders) for k, item in kept}
    if isinstance(value, list | tuple):
        return [_plain(item, folders) for item in value]
    if not isinstance(value, str):
        return value
    value = strip_color(value)
    for folder, name in folders:
        value = re.sub(re.escape(folder) + r"(?![\w.-])", lambda _, name=name: name, value)
    return value


def named_folders() -> list[tuple[str, str]]:
    """Absolute folders and what they are called in a notebook that others read; the deepest first."""
    named = {
        Path(tempfile.gettempdir()): "TMPDIR",
        Path.home(): "~",
        Path(sys.prefix): "PYTHON",
        Path.cwd(): ".",
        paths.project_root(): ".",
        paths.cache_dir(): "SPARSEBERT_CACHE_DIR",
        paths.data_dir(): "SPARSEBERT_DATA_DIR",
        paths.runs_dir(): "runs",
    }
    forms = {str(f): name for path, name in named.items() if path for f in (path.absolute(), path.resolve())}
    return sorted(((f, name) for f, name in forms.items() if f != "/"), key=lambda pair: -len(pair[0]))
