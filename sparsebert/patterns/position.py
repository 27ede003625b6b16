"""Patterns that position alone decides."""

from __future__ import annotations

from dataclasses import dataclass

from sparsebert.patterns.batches import Batch
from sparsebert.patterns.layouts import Layout
from sparsebert.patterns.pattern import Family, Pattern, Relation, parts_of
from sparsebert.registry import register


@register
@dataclass(frozen=True)
class Dense(Pattern):
    """Every token attends to every token: the encoder as it was trained.

    Chapter 01 explains it.
    """

    name = "dense"
    examples = ("dense",)
    family = Family("dense", "#262626", "P", kind="other")

    def related(self, batch: Batch) -> Relation:
        return batch.pairs

    def layout(self) -> Layout:
        return Layout(open_ended=True)


@register
@dataclass(frozen=True)
class Neighbour(Pattern):
    """Tokens at most `w` positions away on either side: degree 2w in the middle of a sequence.

    Chapter 01 explains it.
    """

    w: int
    name = "neighbour"
    examples = ("neighbour(2)",)
    family = Family("neighbour", "#0173b2", "o")

    def related(self, batch: Batch) -> Relation:
        return (batch.distances <= self.w)[:, None]

    def layout(self) -> Layout | None:
        return Layout.of_distances(self.w)

    def mixture(self) -> tuple[str, int]:
        return "w", self.w


@register
@dataclass(frozen=True)
class Global(Pattern):
    """The first `tokens` tokens attend to all and all attend to them; `"cls"` is the first one, [CLS].

    Chapter 01 explains it.
    """

    tokens: int | str
    name = "global"
    examples = ("global(cls)", "global(2)")
    forms = "global(cls) or (n)"
    words = ("cls",)
    family = Family("global", "#cc78bc", "v", kind="other")

    @property
    def count(self) -> int:
        """How many tokens are global."""
        return 1 if self.tokens == "cls" else self.tokens

    def related(self, batch: Batch) -> Relation:
        chosen = batch.positions < self.count
        return (chosen[:, :, None] | chosen[:, None, :])[:, None]

    def layout(self) -> Layout:
        return Layout(tokens=self.count)

    def mixture(self) -> tuple[str, int]:
        return "g", self.count


def globals_apart(pattern: Pattern) -> tuple[list[Pattern], list[Global]]:
    """The parts of a pattern that are no global tokens, and those that are."""
    parts = parts_of(pattern)
    globals_ = [part for part in parts if isinstance(part, Global)]
    return [part for part in parts if part not in globals_], globals_
