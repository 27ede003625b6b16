"""Pairs of real tokens by their distance, and the density that shares of the edges lead to."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from sparsebert.patterns import Neighbour, Pattern
from sparsebert.patterns.batches import Batch

Table = Float[Tensor, "layer head distance"]  # distances 0, ..., max_distance and one column for all beyond


@dataclass
class Pairs:
    """Pairs of real tokens in some data, for each layer that learns."""

    by_distance: Float[Tensor, "layer distance"]  # that no other part of the plan allows
    fixed: Float[Tensor, " layer"]  # self-pairs, and what other parts of the plan allow
    total: float

    def density(self, share: Table) -> Float[Tensor, " layer"]:
        """Allowed pairs / all pairs, if each edge exists with the share of its layer, head and distance."""
        return (self.fixed + (self.by_distance * share.mean(1)).sum(-1)) / self.total

    def __add__(self, other: Pairs) -> Pairs:
        return Pairs(self.by_distance + other.by_distance, self.fixed + other.fixed, self.total + other.total)


def count_pairs(
    batch: Batch,
    others: dict[int, Pattern | None],
    max_distance: int,
    windows: dict[int, int] | None = None,
) -> Pairs:
    """Count a batch's pairs for each layer in `others`, which gives the rest of its plan.

    Layers in `windows` have no pairs of tokens farther apart than that, whatever the plan.
    """
    counted = {}
    last = max_distance + 1
    total = batch.real.sum(-1).double().square().sum()
    kinds = [(other, (windows or {}).get(layer)) for layer, other in others.items()]
    for kind in set(kinds):
        other, window = kind
        pairs = batch.pairs if window is None else batch.pairs & (batch.distances <= window)[:, None]
        allowed = (other or Neighbour(0)).allowed(batch) & pairs  # self-pairs are always allowed
        heads = allowed.shape[1]
        left = pairs & ~allowed
        distance = batch.distances.clamp(max=last)[:, None].expand_as(left)
        found = torch.bincount(distance[left], minlength=last + 1) / heads
        counted[kind] = found, allowed.sum() / heads
    return Pairs(
        torch.stack([counted[kind][0] for kind in kinds]),
        torch.stack([counted[kind][1] for kind in kinds]),
        total.item(),
    )
