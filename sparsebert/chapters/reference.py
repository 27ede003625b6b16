"""Pages made from the package itself: its components, its names with their docstrings, and links to these."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import nbformat

import sparsebert
from sparsebert.registry import ARCHITECTURES, KERNELS, METHODS, PATTERNS, REDUCTIONS, first_paragraph

PAGE = "reference"
# Wings in the order in which a user meets them; the others follow in the order of the alphabet.
_FIRST = ("patterns", "models", "degrees", "training", "sweeps")
_CHAPTERS = r"[Cc]hapters? (?:\d\d(?:, | and )?)+"
_MARKED = re.compile(r"(?<![`:])`([^`\n]+)`(?!`)")


@dataclass(frozen=True)
class Entry:
    """A class or function of the reference: its wing, and the numbers of the chapters that explain it.

    `path` is what a user imports, such as `sparsebert.Plan`; `home` is where it is defined.
    """

    name: str
    path: str
    home: str
    is_class: bool
    chapters: tuple[str, ...]

    @property
    def wing(self) -> str:
        """The part of the package that it belongs to, such as `patterns`; empty beside the parts."""
        parts = self.home.split(".")
        return parts[1] if len(parts) > 3 else ""


@cache
def entries() -> tuple[Entry, ...]:
    """What a user imports from `sparsebert`, and what else a chapter explains; read without importing it."""
    package = Path(sparsebert.__file__).parent
    found = []
    for file in sorted(package.rglob("*.py")):
        module = ".".join(["sparsebert", *file.relative_to(package).with_suffix("").parts])
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef):
                public = _is_public(node.name, module)
                numbers = re.findall(
                    _CHAPTERS + " explain", " ".join((ast.get_docstring(node) or "").split())
                )
                if public or (numbers and not node.name.startswith("_")):
                    home = f"{module}.{node.name}"
                    path = f"sparsebert.{node.name}" if public else home
                    chapters = tuple(re.findall(r"\d\d", " ".join(numbers)))
                    found.append(Entry(node.name, path, home, isinstance(node, ast.ClassDef), chapters))
    return tuple(found)


def _is_public(name: str, module: str) -> bool:
    """Whether `from sparsebert import NAME` gives what this module defines."""
    source = sparsebert._MODULE_OF.get(name, "")
    return module == source or module.startswith(f"{source}.") if source else False


def reference_page() -> str:
    """Markdown with all `entries`, a section for each part of the package; Sphinx's autodoc fills it."""
    found = entries()
    wings = [*_FIRST, *sorted({entry.wing for entry in found} - {*_FIRST, ""}), ""]
    parts = [
        "# Package reference",
        "What you import from `sparsebert`, and what else a chapter explains, in the docstrings' words. "
        "An entry links the chapter that explains it, and each chapter ends with links to its entries. "
        "The {ref}`index <genindex>` lists all of them by name.",
    ]
    for wing in wings:
        about = importlib.import_module(f"sparsebert.{wing}").__doc__ if wing else None
        parts += [
            f"## {wing.capitalize() or 'Shared by all'}",
            (about or "What every part of the package uses.").split("\n\n")[0].strip(),
        ]
        parts += [_directive(entry) for entry in found if entry.wing == wing]
    return "\n\n".join(parts) + "\n"


def _directive(entry: Entry) -> str:
    """Two colons would end a fence of colons, so the fence is of backticks."""
    kind, members = ("autoclass", "   :members:\n") if entry.is_class else ("autofunction", "")
    return f"```{{eval-rst}}\n.. {kind}:: {entry.path}\n{members}```"


def with_reference(
    chapter: nbformat.NotebookNode, number: str, found: Iterable[Entry]
) -> nbformat.NotebookNode:
    """Adds a last section to a chapter, in place: links to what it explains and to what its code imports."""
    imported = _imported(chapter)
    explained = [entry for entry in found if number in entry.chapters]
    used = [entry for entry in found if entry not in explained and entry.name in imported]
    lines = [
        f"{said}: {', '.join(f'{{py:obj}}`{entry.name} <{entry.path}>`' for entry in some)}."
        for said, some in (("Explained in this chapter", explained), ("Used here", used))
        if some
    ]
    if lines:
        section = "\n\n".join(["## In the package", *lines])
        chapter.cells.append(nbformat.v4.new_markdown_cell(section, id="in-the-package"))
    return chapter


def _imported(chapter: nbformat.NotebookNode) -> set[str]:
    """The names that a notebook's code imports from the package."""
    names = set()
    for cell in chapter.cells:
        if cell.cell_type == "code" and "sparsebert" in cell.source:
            try:
                tree = ast.parse(cell.source)
            except SyntaxError:  # a magic of IPython
                continue
            for node in ast.walk(tree):
                if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("sparsebert"):
                    names |= {alias.name for alias in node.names}
    return names


def components_page() -> str:
    """Markdown with a table for each kind of component: patterns, kernels, methods, reductions and so on."""
    import sparsebert.degrees
    import sparsebert.kernels
    import sparsebert.models.architectures
    import sparsebert.reductions  # noqa: F401  (each wing fills its registry)
    from sparsebert.data.tasks import registered

    patterns = [(f"`{kind.signature()}`", kind.family.label, _said(kind)) for kind in PATTERNS.values()]
    kernels, methods, encoders, reductions = (
        [(f"`{kind.name}`", _said(kind)) for kind in registry.values()]
        for registry in (KERNELS, METHODS, ARCHITECTURES, REDUCTIONS)
    )
    tasks = [(f"`{task.name}`", task.summary, task.metrics[0]) for task in registered().values()]
    parts = [
        "# Components",
        "What can be asked for by name, in the words of the classes themselves. Components of your own join "
        "them: derive a class from the base class of its kind and call `sparsebert.register`.",
        "## Patterns\n\n" + table(("pattern", "family", "pairs"), patterns),
        "## Kernels\n\n" + table(("kernel", "how attention is computed"), kernels),
        "## Methods of learning degrees\n\n" + table(("method", "what is learned"), methods),
        "## Reductions\n\n" + table(("reduction", "which tokens stay"), reductions),
        "## Architectures\n\n" + table(("architecture", "about"), encoders),
        "## Tasks\n\n" + table(("task", "about", "metric"), tasks),
    ]
    return "\n\n".join(parts) + "\n"


def table(columns: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """A table in Markdown."""
    return "\n".join(f"| {' | '.join(line)} |" for line in (columns, ["---"] * len(columns), *rows))


def _said(component: Any) -> str:
    """The first sentence or line of a component's documentation."""
    return first_paragraph(inspect.getdoc(component))


def in_rst(lines: list[str], pages: dict[str, str], paths: dict[str, str]) -> list[str]:
    """The lines of a docstring as reStructuredText.

    The package's docstrings mark code with one backtick, as Markdown does. `pages` has the page of each
    chapter's number, `paths` the path of each name of the reference: both become links.
    """

    def marked(match: re.Match) -> str:
        name = match[1].removesuffix("()")
        return f":py:obj:`{match[1]} <{paths[name]}>`" if name in paths else f"``{match[1]}``"

    def linked(match: re.Match) -> str:
        numbers = re.findall(r"\d\d", match[0])
        if len(numbers) == 1 and numbers[0] in pages:
            said = match[0].strip()
            return f":doc:`{said} </{pages[numbers[0]]}>`" + match[0][len(said) :]
        return re.sub(r"\d\d", lambda number: _chapter(number[0], pages), match[0])

    return re.sub(_CHAPTERS, linked, _MARKED.sub(marked, "\n".join(lines))).split("\n")


def _chapter(number: str, pages: dict[str, str]) -> str:
    return f":doc:`{number} </{pages[number]}>`" if number in pages else number


def field_lines(item: object) -> list[str]:
    """A list of the fields of a pydantic model with what they mean, in reStructuredText; else nothing."""
    fields = getattr(item, "model_fields", None) if inspect.isclass(item) else None
    told = {name: field.description for name, field in (fields or {}).items() if field.description}
    return ["", *(f"- **{name}**: {text}" for name, text in told.items()), ""] if told else []
