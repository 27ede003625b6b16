"""What every pattern is, and how two are joined: `|` and `-`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Protocol

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sparsebert.errors import InputError
from sparsebert.patterns.batches import Batch
from sparsebert.patterns.layouts import Layout

Relation = Bool[Tensor, "batch head query key"]  # head is 1 where all heads share the relation
Bias = Float[Tensor, "#batch #head query key"]  # what is added to the scores of a pattern's pairs


class Learner(Protocol):
    """What gives the patterns `learned` and `weighted(P)` their content while it is being learned."""

    def learned(self, layer: int) -> Pattern: ...

    def weighted(self, layer: int, pattern: Pattern) -> Pattern: ...

    def follow(self, patterns: Sequence[Pattern]) -> None:
        """Called once, with the pattern of each layer."""

    def prepare(self, batch: Batch) -> None:
        """Called with each batch before its patterns are asked."""


class Pattern(ABC):
    """A relation between tokens; `str(pattern)` is its text and `parse_pattern` reads it back."""

    needs: frozenset[str] = frozenset()  # fields of `Batch` beyond `real` that it reads

    @abstractmethod
    def related(self, batch: Batch) -> Relation:
        """The bare relation, before self-loops are added and padding is taken out."""

    def bias(self, batch: Batch) -> Bias | None:
        """What is added to the attention scores of its pairs: logarithms of weights. None: nothing."""
        return None

    def layout(self) -> Layout | None:
        """Its pairs as a band, global tokens and drawn keys; None if they can't be told by position alone."""
        return None

    def at(self, layer: int, learner: Learner | None = None) -> Pattern:
        """The pattern as it is at one layer of the encoder; only learned parts differ between layers."""
        return self

    def with_files(self, renamed: Callable[[str | None], str | None]) -> Pattern:
        """The same pattern with other paths in its learned parts."""
        changed = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Pattern):
                changed[field.name] = value.with_files(renamed)
            elif isinstance(value, tuple):
                changed[field.name] = tuple(part.with_files(renamed) for part in value)
            elif field.name == "path":
                changed[field.name] = renamed(value)
        return replace(self, **changed) if changed else self

    def walk(self) -> Iterator[Pattern]:
        """The pattern and all patterns it is made of."""
        yield self
        for field in fields(self):
            value = getattr(self, field.name)
            for part in value if isinstance(value, tuple) else (value,):
                if isinstance(part, Pattern):
                    yield from part.walk()

    def allowed(self, batch: Batch) -> Relation:
        """True where the query may attend to the key, shape [batch, 1 or heads, length, length].

        Every real query attends to itself and to no padding. Rows of padding queries are all False. Raises
        `InputError` if the batch lacks a column that the pattern reads.
        """
        missing = sorted(column for column in self.needs if getattr(batch, column) is None)
        if missing:
            raise InputError(
                f"the pattern '{self}' reads {' and '.join(missing)}, which this batch lacks; "
                "prepare the data with parses (sparsebert.data.tokenizing) or choose a pattern by position"
            )
        itself = torch.eye(batch.real.shape[1], dtype=torch.bool, device=batch.real.device)
        return (self.related(batch) | itself) & batch.pairs

    def __or__(self, other: Pattern) -> Pattern:
        return Union(parts_of(self) + parts_of(other))

    def __sub__(self, other: Pattern) -> Pattern:
        return Difference(self, other)


@dataclass(frozen=True)
class Union(Pattern):
    """Pairs that any of the parts allows. A pair that a part without weights allows has none either."""

    parts: tuple[Pattern, ...]

    @property
    def needs(self) -> frozenset[str]:
        return needed(*self.parts)

    def related(self, batch: Batch) -> Relation:
        relation = self.parts[0].related(batch)
        for part in self.parts[1:]:
            relation = relation | part.related(batch)
        return relation

    def bias(self, batch: Batch) -> Bias | None:
        biases = {part: bias for part in self.parts if (bias := part.bias(batch)) is not None}
        if not biases:
            return None
        with torch.no_grad():
            free = torch.zeros_like(batch.pairs)
            for part in self.parts:
                free = free if part in biases else free | part.related(batch)
        if len(biases) > 1:  # a part's weights are for its own pairs
            biases = {part: bias * part.related(batch) for part, bias in biases.items()}
        return sum(biases.values()).masked_fill(free, 0)

    def layout(self) -> Layout | None:
        layout = self.parts[0].layout()
        for part in self.parts[1:]:
            other = part.layout()
            layout = None if layout is None or other is None else layout | other
        return layout

    def at(self, layer: int, learner: Learner | None = None) -> Pattern:
        return Union(tuple(part.at(layer, learner) for part in self.parts))

    def __str__(self) -> str:
        return " | ".join(map(str, self.parts))


@dataclass(frozen=True)
class Difference(Pattern):
    """Pairs of `left` that `right` does not relate; self-loops stay."""

    left: Pattern
    right: Pattern

    @property
    def needs(self) -> frozenset[str]:
        return needed(self.left, self.right)

    def related(self, batch: Batch) -> Relation:
        return self.left.related(batch) & ~self.right.related(batch)

    def bias(self, batch: Batch) -> Bias | None:
        return self.left.bias(batch)

    def at(self, layer: int, learner: Learner | None = None) -> Pattern:
        return Difference(self.left.at(layer, learner), self.right.at(layer, learner))

    def __str__(self) -> str:
        left = f"({self.left})" if isinstance(self.left, Union) else str(self.left)
        right = f"({self.right})" if isinstance(self.right, Union | Difference) else str(self.right)
        return f"{left} - {right}"


def needed(*patterns: Pattern | None) -> frozenset[str]:
    return frozenset().union(*(pattern.needs for pattern in patterns if pattern is not None))


def parts_of(pattern: Pattern) -> tuple[Pattern, ...]:
    """The patterns that a union joins, or else the pattern alone."""
    return pattern.parts if isinstance(pattern, Union) else (pattern,)
