"""Pairs of texts: which of them may look at which, as in sparse cross-encoders (Schlatt et al., 2024)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch

from sparsebert.errors import InputError, shown
from sparsebert.patterns.batches import KINDS, Batch
from sparsebert.patterns.layouts import Layout, Looks
from sparsebert.patterns.pattern import Family, Pattern, Relation
from sparsebert.registry import register


@register
@dataclass(frozen=True)
class Segments(Pattern):
    """Which text may look at which: `segments(a > b)` lets queries of `a` attend to keys of `b`.

    Each side is `cls` (the first token), `first` (the rest of the first text), `second` (the second text) or
    `all`. A separator belongs to the text that it ends. RoBERTa has two between its texts, and the other one
    belongs to the second text. A single text is the first one. Commas separate rules. Raises `InputError` for
    any other rule. Chapter 01 explains patterns.

    In the asymmetric cross-encoder (Schlatt et al., 2024) the second text looks at the first and at [CLS].
    The first text looks at neither, and [CLS] looks at both:

    `neighbour(4) - segments(first > second, first > cls) | segments(second > first, second > cls, cls > all)`
    """

    rules: str
    name = "segments"
    examples = ("segments(second > first)", "segments(second > first, second > cls, cls > all)")
    forms = "segments(a > b, ...)"
    free_text = True
    family = Family("segments", kind="other")
    reads = frozenset({"second"})

    def __post_init__(self) -> None:
        rules = [_rule(rule) for rule in str(self.rules).split(",")]
        object.__setattr__(self, "rules", ", ".join(f"{a} > {b}" for a, b in rules))

    @cached_property
    def looks(self) -> Looks:
        """The kinds of a query and of a key, for all pairs that it allows."""
        rules = (rule.split(" > ") for rule in self.rules.split(", "))
        return frozenset((a, b) for left, right in rules for a in _kinds(left) for b in _kinds(right))

    def related(self, batch: Batch) -> Relation:
        table = torch.tensor([[(a, b) in self.looks for b in KINDS] for a in KINDS])
        kinds = batch.kinds
        return table.to(kinds.device)[kinds[:, :, None], kinds[:, None, :]][:, None]

    def layout(self) -> Layout:
        return Layout(seen=self.looks)


def _rule(rule: str) -> tuple[str, str]:
    """Both sides of a rule; `InputError` says how one is written."""
    sides = tuple(side.strip().lower() for side in rule.split(">"))
    if len(sides) != 2 or not {*sides} <= {*KINDS, "all"}:
        raise InputError(
            f"segments takes rules such as second > first, with {', '.join(KINDS)} or all on each side and "
            f"commas between rules, not '{shown(rule.strip())}'"
        )
    return sides


def _kinds(side: str) -> tuple[str, ...]:
    return KINDS if side == "all" else (side,)
