"""The book's page of components: what each registry holds, in its own words."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from sparsebert.registry import ARCHITECTURES, KERNELS, METHODS, PATTERNS, Registry


def components_page() -> str:
    """Markdown with a table for each kind of component: patterns, kernels, methods, architectures, tasks."""
    import sparsebert.degrees
    import sparsebert.kernels
    import sparsebert.models.architectures  # noqa: F401  (each wing fills its registry)
    from sparsebert.data.tasks import registered

    parts = [
        "# Components",
        "What can be asked for by name, in the words of the classes themselves. Components of your own join "
        "them: derive a class from the base class of its kind and call `sparsebert.register`.",
        _table(
            "Patterns",
            PATTERNS,
            {
                "pattern": lambda pattern: f"`{pattern.signature()}`",
                "family": lambda pattern: pattern.family.label,
                "pairs": lambda pattern: pattern.summary(),
            },
        ),
        _table("Kernels", KERNELS, {"kernel": _name, "how attention is computed": _summary}),
        _table("Methods of learning degrees", METHODS, {"method": _name, "what is learned": _summary}),
        _table(
            "Architectures",
            ARCHITECTURES,
            {"architecture": _name, "about": _summary},
        ),
        _table(
            "Tasks",
            registered(),
            {"task": _name, "about": lambda task: task.summary, "metric": lambda task: task.metrics[0]},
        ),
    ]
    return "\n\n".join(parts) + "\n"


def _table(title: str, components: Registry | dict, columns: dict[str, Callable[[Any], str]]) -> str:
    rows = [[cell(component) for cell in columns.values()] for component in components.values()]
    lines = [list(columns), ["---"] * len(columns), *rows]
    return f"## {title}\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _name(component: Any) -> str:
    return f"`{component.name}`"


def _summary(component: Any) -> str:
    """The first sentence or line of a component's documentation."""
    return " ".join((inspect.getdoc(component) or "").partition("\n\n")[0].split())
