"""Pairs of texts: which of them may look at which, as in sparse cross-encoders (Schlatt et al., 2024)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from itertools import product

import torch

from sparsebert.errors import InputError, shown
from sparsebert.patterns.batches import KINDS, Batch
from sparsebert.patterns.layouts import Layout, Looks
from sparsebert.patterns.pattern import Family, Pattern, Relation
from sparsebert.registry import register


@register
@dataclass(frozen=True)
class Segments(Pattern):
    """Which text sees which: `segments(a sees b)` lets queries of `a` attend to keys of `b`.

    `a` and `b` are `cls` (the first token), `first` (the rest of the first text), `second` (the second text),
    several of these joined by "and", or `all`. Commas separate rules. Raises `InputError` for any other rule.
    Chapter 01 explains patterns.

    A separator belongs to the text that it ends. RoBERTa has two separators between its texts, and the later
    one belongs to the second text. A single text is the first one.

    In the asymmetric cross-encoder (Schlatt et al., 2024) the second text sees the first one and [CLS]. The
    first text sees neither, and [CLS] sees both:

    `neighbour(4) - segments(first sees cls and second) | segments(second sees cls and first, cls sees all)`
    """

    rules: str
    name = "segments"
    examples = ("segments(second sees first)", "segments(second sees cls and first, cls sees all)")
    forms = "segments(a sees b, ...)"
    free_text = True
    family = Family("segments", kind="other")
    reads = frozenset({"second"})

    def __post_init__(self) -> None:
        rules = [" ".join(rule.lower().split()) for rule in str(self.rules).split(",")]
        object.__setattr__(self, "rules", ", ".join(rules))
        for rule in rules:
            if not _RULE.fullmatch(rule):
                raise InputError(
                    "segments takes rules such as 'second sees cls and first', of cls, first, second and "
                    f"all, with commas between rules, not '{shown(rule)}'"
                )

    @cached_property
    def looks(self) -> Looks:
        """The kinds of a query and of a key, for all pairs that it allows."""
        sides = (map(_kinds, rule.split(" sees ")) for rule in self.rules.split(", "))
        return frozenset(look for queries, keys in sides for look in product(queries, keys))

    def related(self, batch: Batch) -> Relation:
        table = torch.tensor([[(a, b) in self.looks for b in KINDS] for a in KINDS])
        kinds = batch.kinds
        return table.to(kinds.device)[kinds[:, :, None], kinds[:, None, :]][:, None]

    def layout(self) -> Layout:
        return Layout(seen=self.looks)


_KIND = f"(?:{'|'.join((*KINDS, 'all'))})"
_SIDE = f"{_KIND}(?: and {_KIND})*"
_RULE = re.compile(f"{_SIDE} sees {_SIDE}")


def _kinds(side: str) -> tuple[str, ...]:
    kinds = tuple(side.split(" and "))
    return KINDS if "all" in kinds else kinds
