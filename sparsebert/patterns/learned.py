"""Patterns whose degrees or weights are learned, at each layer and head its own."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from sparsebert.errors import InputError
from sparsebert.patterns.batches import Batch
from sparsebert.patterns.hard_degrees import HardDegrees, by_distance, kept_edges, load_degrees
from sparsebert.patterns.layouts import Layout, layout_of_shares
from sparsebert.patterns.pattern import Bias, Family, Learner, Pattern, Relation
from sparsebert.registry import register


@register
@dataclass(frozen=True)
class Learned(Pattern):
    """Neighbours in degrees that were learned for each layer and head; without a FILE, a run learns them.

    Each layer has its own pairs, so a plan asks `at(layer)`: `InputError` where nothing was learned yet
    and no run learns, and for a file that holds no degrees. Chapter 05 explains it.
    """

    path: str | None = None
    name = "learned"
    examples = ("learned", 'learned("FILE")')
    forms = 'learned or ("FILE")'
    family = Family("learned", kind="learned")
    learns = "degrees"
    file_name = "degrees.json"

    def related(self, batch: Batch) -> Relation:
        raise InputError(f"'{self}' is different at each layer; take the pattern of one layer, .at(0)")

    def contents(self) -> bytes:
        return load_degrees(self.path).to_json().encode()

    def at(self, layer: int, learner: Learner | None = None) -> Pattern:
        if self.path:
            return HardLayer(load_degrees(self.path), layer)
        if learner is None:
            raise InputError(
                "the pattern 'learned' names no file: write learned(\"FILE\"), or have a run learn the "
                "degrees (--learn-degrees, in a grid `degrees: {}`)"
            )
        return learner.learned(layer)


@register
@dataclass(frozen=True)
class Weighted(Pattern):
    """The pairs of a pattern, with a learned weight for each head and distance: `weighted(P, "FILE")`.

    Without a file the weights are what a run learns, from equal weights on. Raises `InputError` for
    a file without weights. Chapter 05 explains it.
    """

    pattern: Pattern
    path: str | None = None
    name = "weighted"
    examples = ("weighted(neighbour(2))", 'weighted(neighbour(2), "FILE")')
    forms = 'weighted(P) or (P, "FILE")'
    family = Family("weighted", kind="other")
    learns = "weights"
    file_name = "degrees.json"

    def related(self, batch: Batch) -> Relation:
        return self.pattern.related(batch)

    def contents(self) -> bytes:
        return load_degrees(self.path).to_json().encode()

    def at(self, layer: int, learner: Learner | None = None) -> Pattern:
        pattern = self.pattern.at(layer, learner)
        if self.path:
            degrees = load_degrees(self.path)
            if degrees.weights is None:
                raise InputError(f"'{self.path}' has degrees without weights; write weighted({self.pattern})")
            return Biased(pattern, HardLayer(degrees, layer))
        return Biased(pattern, learner.learned(layer)) if learner else pattern


@dataclass(frozen=True, eq=False)
class HardLayer(Pattern):
    """One layer of hard degrees."""

    degrees: HardDegrees
    layer: int

    def __str__(self) -> str:
        return "learned"

    def check_heads(self, heads: int) -> None:
        self.degrees.check(self.layer, heads)

    def related(self, batch: Batch) -> Relation:
        return kept_edges(self.degrees.table(self.layer).to(batch.real.device), self.layer, batch)

    def bias(self, batch: Batch) -> Bias | None:
        weights = self.weight_table()
        return None if weights is None else by_distance(weights.to(batch.real.device), batch)

    def weight_table(self) -> Float[Tensor, "head distance"] | None:
        """Its weights at distances 0, 1, ..., and one for all beyond."""
        return self.degrees.weight_table(self.layer)

    def layout(self) -> Layout | None:
        return layout_of_shares(self.degrees.table(self.layer), self.layer, self.weight_table())


@dataclass(frozen=True)
class Biased(Pattern):
    """The pairs of a pattern with the weights of another."""

    pattern: Pattern
    weights: Pattern

    def __str__(self) -> str:
        return f"weighted({self.pattern})"

    def related(self, batch: Batch) -> Relation:
        return self.pattern.related(batch)

    def bias(self, batch: Batch) -> Bias | None:
        return self.weights.bias(batch)

    def layout(self) -> Layout | None:
        layout = self.pattern.layout()
        return layout and layout.weighted(self.weights.weight_table())
