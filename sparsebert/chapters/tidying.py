"""An executed notebook made fit to be read, compared and rendered."""

from __future__ import annotations

import re
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nbformat
from papermill.exceptions import strip_color

from sparsebert import paths


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
            cell.metadata["mystnb"] = {
                "code_prompt_show": "Show what the parameters mean and their defaults",
                "code_prompt_hide": "Hide what the parameters mean",
            }
        if tags:
            cell.metadata["tags"] = tags
        if cell.cell_type == "code":
            cell.outputs = [
                _tidied(output, folders) for output in cell.outputs if output.get("name") != "stderr"
            ]
            cells += _one_figure_per_cell(cell)
        else:
            cells.append(cell)
    kept = {key: book.metadata[key] for key in book.metadata if key not in ("papermill", "widgets")}
    book.metadata = nbformat.from_dict(_plain(kept | {"sparsebert": record}, folders))
    book.cells = cells
    return book


def _tidied(output: nbformat.NotebookNode, folders: list[tuple[str, str]]) -> nbformat.NotebookNode:
    """One output without widgets, colours and paths; images other than SVG are base64, not text."""
    data = {mime: content for mime, content in output.get("data", {}).items() if "widget" not in mime}
    images = {mime: data.pop(mime) for mime in list(data) if re.fullmatch("image/(?!svg).*", mime)}
    texts = {key: output[key] for key in output if key != "data"}
    if data or images:
        texts["data"] = data
    tidied = _plain(texts, folders)
    if images:
        tidied["data"] |= images
    return nbformat.from_dict(tidied)


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
    cells = []
    for number, run in enumerate(runs):
        part = nbformat.from_dict(dict(cell, outputs=run))
        if number:
            tags = [tag for tag in part.metadata.get("tags", []) if tag != "hide-input"]
            part.metadata["tags"] = [*tags, "remove-input"]
            part.source = "# more output of the cell above"  # myst-nb skips cells without a source
            part.id = f"{cell.id}-{number}"
        if figure := _figure(run[0]):
            part.metadata["mystnb"] = {
                **part.metadata.get("mystnb", {}),
                "figure": {"name": figure["name"], "caption": figure["caption"]},
                "image": {"alt": figure["alt"]},
            }
        cells.append(part)
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


def _plain(value: Any, folders: list[tuple[str, str]]) -> Any:
    """The same text, list or dictionary without colours, and with this machine's folders renamed."""
    if isinstance(value, Mapping):
        return {key: _plain(item, folders) for key, item in value.items()}
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
    names = {
        str(form): name for path, name in named.items() if path for form in (path.absolute(), path.resolve())
    }
    return sorted(
        ((folder, names[folder]) for folder in names if folder != "/"), key=lambda pair: -len(pair[0])
    )
