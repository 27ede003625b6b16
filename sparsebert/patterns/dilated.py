"""Neighbours with gaps between them, as in the dilated windows of Longformer (Beltagy et al., 2020)."""

from __future__ import annotations

from dataclasses import dataclass

from sparsebert.errors import InputError
from sparsebert.patterns.batches import Batch
from sparsebert.patterns.layouts import Layout
from sparsebert.patterns.pattern import Family, Pattern, Relation
from sparsebert.registry import register


@register
@dataclass(frozen=True)
class Dilated(Pattern):
    """Tokens at the distances `step`, 2 `step`, ..., `w` `step` on either side: degree 2w, farther apart.

    Chapter 01 explains it.
    """

    w: int
    step: int
    name = "dilated"
    examples = ("dilated(2, 3)",)
    family = Family("dilated", "#56b4e9", "*")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.step:
            raise InputError("dilated takes step as a whole number from 1 up, not '0'")

    def related(self, batch: Batch) -> Relation:
        distance = batch.distances
        return ((distance % self.step == 0) & (distance <= self.w * self.step))[:, None]

    def layout(self) -> Layout | None:
        return Layout.of_distances(self.w * self.step, self.step)
