"""What a pattern is made of where position alone decides: a band, global tokens and drawn keys.

This is all that a kernel needs that never builds a [length, length] tensor.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

Table = Float[Tensor, "head distance"]


@dataclass(frozen=True, eq=False)
class Layout:
    """The pairs of a pattern, by parts that may overlap; a pair that several parts allow exists once.

    The band: tokens up to `width` apart, or, with `kept`, query i of head h keeps distance o if
    `quantiles(i)` is below `kept[h, o]` (see `HardDegrees`); where it is `open_ended`, the last column, that
    of `width`, stands for all larger distances, too. `tokens` first tokens are global. `random` lists
    (k, seed) as in `Random`. `weights[h, o]` is added to the scores of the band's pairs, with `weigh_all` to
    those of all pairs, the last column for all larger distances.
    """

    width: int = 0
    kept: Table | None = None
    open_ended: bool = False
    layer: int = 0  # whose quantiles decide about shares between 0 and 1
    tokens: int = 0
    random: tuple[tuple[int, int], ...] = ()
    weights: Table | None = None
    weigh_all: bool = False

    def __or__(self, other: Layout) -> Layout | None:
        """The union; None where pairs of both would need different weights."""
        if self.weigh_all or other.weigh_all or (self.weights is not None and other.weights is not None):
            return None
        open_ended = self.open_ended or other.open_ended
        # A band that ends needs a column of its own behind it, if another goes on.
        width = max(part.width + (open_ended and not part.open_ended) for part in (self, other))
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
            open_ended,
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

    def up_to(self, distance: int) -> Layout:
        """The same where no two tokens are farther apart than that: a band that ends."""
        if not self.open_ended:
            return self
        return _banded(self._shares(max(distance, self.width))[:, : distance + 1], self)

    def _shares(self, width: int) -> Table:
        if self.kept is None:
            return (torch.arange(width + 1) <= self.width).float()[None]
        missing = width + 1 - self.kept.shape[1]
        beyond = self.kept[:, -1:] * self.open_ended
        return torch.cat([self.kept, beyond.expand(-1, missing)], 1)

    def _spare(self, weights: Table) -> Table | None:
        """Weights of another part, without those for pairs of this one, which have none."""
        if self.random or (self.kept is not None and not ((self.kept == 0) | (self.kept == 1)).all()):
            return None
        missing = max(self.width + 2 - weights.shape[1], 0)  # with a column for what lies behind this band
        weights = torch.cat([weights, weights[:, -1:].expand(-1, missing)], 1)
        return weights * (self._shares(weights.shape[1] - 1) == 0).to(weights.device)


def layout_of_shares(kept: Table, layer: int, weights: Table | None = None) -> Layout:
    """Of a table with columns for distances 0, 1, ..., and one for all beyond."""
    kept = kept.detach().cpu()
    rest = Layout(layer=layer, weights=weights)
    if kept[:, -1].any():
        return replace(rest, width=kept.shape[1] - 1, kept=kept, open_ended=True)
    return _banded(kept, rest)


def _banded(kept: Table, rest: Layout) -> Layout:
    """A layout with these shares, as far as any is above 0."""
    used = kept.any(0).nonzero()
    width = int(used.max()) if len(used) else 0
    return replace(rest, width=width, kept=kept[:, : width + 1], open_ended=False)
