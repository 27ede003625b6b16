"""The book's page of components: what each registry holds, in its own words."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import Any

from sparsebert.registry import ARCHITECTURES, KERNELS, METHODS, PATTERNS, REDUCTIONS


def components_page() -> str:
    """Markdown with a table for each kind of component: patterns, kernels, methods, reductions and so on."""
    import sparsebert.degrees
    import sparsebert.kernels
    import sparsebert.models.architectures
    import sparsebert.reductions  # noqa: F401  (each wing fills its registry)
    from sparsebert.data.tasks import registered

    patterns = [(f"`{kind.signature()}`", kind.family.label, kind.summary()) for kind in PATTERNS.values()]
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
    return " ".join((inspect.getdoc(component) or "").partition("\n\n")[0].split())
