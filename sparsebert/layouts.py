"""What a pattern is made of where position alone decides: a band, global tokens and drawn keys.

This is all that a kernel needs that never builds a [length, length] tensor.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

Table = Float[Tensor, "head distance"]


@dataclass(frozen=True, eq=False)
class Layout:
    """The pairs of a pattern, by parts that may overlap; a pair that several parts allow exists once.

    The band: tokens up to `width` apart, or, with `kept`, query i of head h keeps distance o if
    `quantiles(i)` is below `kept[h, o]` (see `HardDegrees`). `tokens` first tokens are global. `random` lists
    (k, seed) as in `Random`. `weights[h, o]` is added to the scores of the band's pairs, with `weigh_all` to
    those of all pairs, the last column for all larger distances.
    """

    width: int = 0
    kept: Table | None = None
    layer: int = 0  # whose quantiles decide about shares between 0 and 1
    tokens: int = 0
    random: tuple[tuple[int, int], ...] = ()
    weights: Table | None = None
    weigh_all: bool = False

    def __or__(self, other: Layout) -> Layout | None:
        """The union; None where pairs of both would need different weights."""
        if self.weigh_all or other.weigh_all or (self.weights is not None and other.weights is not None):
            return None
        width = max(self.width, other.width)
        kept = None
        if self.kept is not None or other.kept is not None:
            kept = torch.maximum(self._shares(width), other._shares(width))
        weights = None
        for weighted, free in ((self, other), (other, self)):
            if weighted.weights is not None:
                weights = free._spare(weighted.weights)
                if weights is None:
                    return None
        return Layout(
            width,
            kept,
            max(self.layer, other.layer),
            max(self.tokens, other.tokens),
            (*self.random, *(drawn for drawn in other.random if drawn not in self.random)),
            weights,
        )

    def weighted(self, weights: Table | None) -> Layout | None:
        """The same pairs, all with these weights; None if they have others."""
        if self.weights is not None:
            return None
        return (
            self
            if weights is None
            else replace(self, weights=weights, weigh_all=bool(self.tokens or self.random))
        )

    def _shares(self, width: int) -> Table:
        if self.kept is None:
            return (torch.arange(width + 1) <= self.width).float()[None]
        return pad(self.kept, (0, width + 1 - self.kept.shape[1]))

    def _spare(self, weights: Table) -> Table | None:
        """Weights of another part, without those for pairs of this one, which have none."""
        if self.random or (self.kept is not None and not ((self.kept == 0) | (self.kept == 1)).all()):
            return None
        last = weights.shape[1] - 1
        weights = torch.cat([weights, weights[:, -1:].expand(-1, max(self.width - last, 0))], 1)
        return weights * (self._shares(weights.shape[1] - 1) == 0).to(weights.device)


def layout_of_shares(kept: Table, layer: int, weights: Table | None = None) -> Layout | None:
    """Of a table with columns for distances 0, 1, ..., and one for all beyond; None if that keeps any."""
    if kept[:, -1].any():
        return None
    used = kept[:, :-1].any(0).nonzero()
    width = int(used.max()) if len(used) else 0
    return Layout(width, kept[:, : width + 1].detach().cpu(), layer, weights=weights)
