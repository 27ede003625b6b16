"""What a pattern is made of where positions decide: a band, global tokens, random keys, kinds of tokens.

This is all that a kernel needs that never builds a [length, length] tensor.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sparsebert.patterns.batches import KINDS, Batch
from sparsebert.patterns.hard_degrees import quantiles

_AT_ONCE = 2**20  # pairs that are looked at together when they are counted
_FARTHEST = 2**20  # tokens apart that a table of distances holds

Table = Float[Tensor, "head distance"]
_ITSELF: Table = torch.ones(1, 1)

Looks = frozenset[tuple[str, str]]  # kinds of a query and of a key: a pair for which of them there are pairs
_CLS: Looks = frozenset(pair for kind in KINDS for pair in (("cls", kind), (kind, "cls")))
_ALL: Looks = frozenset((a, b) for a in KINDS for b in KINDS)


@dataclass(frozen=True, eq=False)
class Layout:
    """The pairs of a pattern, by parts that may overlap; a pair that several parts allow exists once.

    The band: query i of head h keeps distance o if `quantiles(i)` is below `kept[h, o]` (see `HardDegrees`);
    a table of one row is that of all heads. Where the band is `open_ended`, the last column stands for all
    larger distances, too. `tokens` first tokens are global. `random` lists (k, seed) as in `Random`.
    `weights[h, o]` is added to the scores of the band's pairs, with `weigh_all` to those of all pairs, the
    last column for all larger distances. With a `window` no pair is farther apart than that, whatever allows
    it.

    Kinds of a query and of a key (see `Batch.kinds`) that are `seen` have all pairs, and those that are
    `barred` none but of a token with itself. With either there is one band for all heads, and nothing else.
    """

    kept: Table = _ITSELF
    open_ended: bool = False
    layer: int = 0  # whose quantiles decide about shares between 0 and 1
    tokens: int = 0
    random: tuple[tuple[int, int], ...] = ()
    weights: Table | None = None
    weigh_all: bool = False
    window: int | None = None
    seen: Looks = frozenset()
    barred: Looks = frozenset()

    @classmethod
    def of_distances(cls, width: int, step: int = 1) -> Layout | None:
        """Multiples of `step` up to `width`; None where the table would be too long."""
        return cls((torch.arange(width + 1) % step == 0).float()[None]) if width <= _FARTHEST else None

    @property
    def width(self) -> int:
        """The largest distance that the table of the band tells apart."""
        return self.kept.shape[1] - 1

    @property
    def plain(self) -> bool:
        """Whether every head keeps all distances of the table."""
        return bool((self.kept == 1).all())

    @property
    def irregular(self) -> bool:
        """Whether some queries keep distances that others don't."""
        return bool(((self.kept > 0) & (self.kept < 1)).any())

    @property
    def dense(self) -> bool:
        """Whether these are all pairs, whatever the length, without weights."""
        return self.open_ended and self.plain and self.weights is None

    def has_all(self, length: int) -> bool:
        """Whether these are all pairs of so many tokens, without weights."""
        far = self.dense or (self.width >= length - 1 and self.plain and self.weights is None)
        return far and self.window is None and not self.barred

    def __or__(self, other: Layout) -> Layout | None:
        """The union; None where its parts can't be told apart, such as two with weights of their own."""
        if self.by_kind or other.by_kind:
            return self._beside(other)
        if self.weigh_all or other.weigh_all or (self.weights is not None and other.weights is not None):
            return None
        open_ended = self.open_ended or other.open_ended
        # A band that ends needs a column of its own behind it, if another goes on.
        width = max(part.width + (open_ended and not part.open_ended) for part in (self, other))
        weighted, free = (self, other) if self.weights is not None else (other, self)
        weights = weighted.weights
        if weights is not None and (weights := free._spare(weights)) is None:
            return None
        return Layout(
            torch.maximum(self._shares(width), other._shares(width)),
            open_ended,
            max(self.layer, other.layer),
            max(self.tokens, other.tokens),
            (*self.random, *(keys for keys in other.random if keys not in self.random)),
            weights,
        )

    @property
    def by_kind(self) -> bool:
        """Whether kinds of tokens decide about pairs."""
        return bool(self.seen or self.barred)

    def _beside(self, other: Layout) -> Layout | None:
        """The union where kinds of tokens decide; None if they would for a part of the band alone."""
        a, b = self._of_kinds(), other._of_kinds()
        if a is None or b is None or (a.width and b.width and a.barred != b.barred):
            return None
        seen = a.seen | b.seen
        width = max(a.width, b.width)
        kept = torch.maximum(a._shares(width), b._shares(width))
        barred = (a if a.width else b).barred
        return Layout(open_ended=True) if seen == _ALL else Layout(kept, seen=seen, barred=barred - seen)

    def __sub__(self, other: Layout) -> Layout | None:
        """Without the pairs of some kinds of tokens; None if anything else is taken away."""
        band = other.width or other.open_ended or other.tokens or other.random
        left = self._of_kinds() if other.seen else self
        if left is None or band or other.barred or other.weights is not None:
            return None
        return replace(left, seen=left.seen - other.seen, barred=left.barred | other.seen)

    def _of_kinds(self) -> Layout | None:
        """The same as a band and kinds of tokens; None if there are more global tokens, random keys, ..."""
        if self.random or self.weights is not None or self.tokens > 1 or len(self.kept) > 1 or self.irregular:
            return None
        if self.open_ended and not self.plain:
            return None
        seen = _ALL - self.barred if self.open_ended else self.seen | (_CLS if self.tokens else frozenset())
        return Layout(_ITSELF if self.open_ended else self.kept, seen=seen, barred=self.barred - seen)

    def weighted(self, weights: Table | None) -> Layout | None:
        """The same pairs, all with these weights; None if they have others."""
        if self.weights is not None or (self.by_kind and weights is not None):
            return None
        beside = bool(self.tokens or self.random)
        return replace(self, weights=weights, weigh_all=weights is not None and beside)

    def up_to(self, distance: int) -> Layout:
        """The same with a band that ends there."""
        if self.width <= distance and not self.open_ended:
            return self
        return self._ending(self._shares(max(distance, self.width))[:, : distance + 1])

    def within(self, window: int) -> Layout | None:
        """The pairs that are at most so far apart; None where kinds of tokens decide."""
        return None if self.by_kind else replace(self.up_to(window), window=window)

    def _ending(self, kept: Table) -> Layout:
        """With a band of these shares, as far as any is above 0."""
        return replace(self, kept=kept[:, : int(kept.any(0).nonzero().max()) + 1], open_ended=False)

    # ---- which pairs there are in a sequence of some length, padding left out -----------------------

    def count(self, batch: Batch, heads: int) -> float:
        """Allowed pairs of real tokens in a batch whose rows have no gaps, averaged over the heads."""
        lengths = batch.real.sum(-1).tolist()
        if self.by_kind:
            return sum(map(self._count_by_kind, lengths, batch.second.tolist()))
        return sum(lengths.count(n) * self._count(n, heads, batch.real.device) for n in set(lengths) if n)

    def random_keys(
        self, length: int, heads: int, device: torch.device
    ) -> tuple[Int[Tensor, "query own"], Bool[Tensor, "#head query own"]]:
        """The random keys of each query, and which of them neither the band has nor a global token."""
        from sparsebert.patterns.random import random_keys

        each = [random_keys(k, seed, length) for k, seed in self.random if length > 1]
        keys = torch.cat([torch.zeros(length, 0, dtype=torch.long), *each], 1).to(device)
        place = torch.arange(length, device=device)[:, None]
        new = (keys >= self.tokens) & (place >= self.tokens)
        if len(each) > 1:  # one alone has no key twice
            new &= ~(keys[:, :, None] == keys[:, None]).tril(-1).any(-1)
        distance = (place - keys).abs()
        if self.window is not None:
            new &= distance <= self.window
        shares = self._shares(max(length - 1, self.width)).to(device)
        if not self.irregular:
            return keys, new & (shares == 0)[:, distance]
        own = quantiles(place.T, self.layer, heads)[0, :, :, None]
        return keys, new & (own >= shares.expand(heads, -1)[:, distance])

    def _count(self, n: int, heads: int, device: torch.device) -> float:
        tokens = min(self.tokens, n)
        window = n - 1 if self.window is None else self.window
        with_globals = _within(n, window) - _within(n - tokens, window)
        own = self.random_keys(n, heads, device)[1].sum((1, 2)).float().mean().item() if self.random else 0
        return with_globals + self._count_band(tokens, n, heads, device) + own

    def _count_by_kind(self, n: int, second: int) -> int:
        """Allowed pairs of one sequence: all of two kinds, or those in the band."""
        spans, total = spans_of_kinds(n, second), 0
        far = self.kept[0, 1:].nonzero()[:, 0] + 1
        near = torch.cat([-far, torch.zeros(1).long(), far])  # place of the key less place of the query
        for query, (start, stop) in spans.items():
            for key, (first, last) in spans.items():
                if (query, key) in self.seen:
                    total += (stop - start) * (last - first)
                elif (query, key) not in self.barred:
                    there = (last - near).clamp(max=stop) - (first - near).clamp(min=start)
                    total += int(there.clamp(min=0).sum())
                elif query == key:
                    total += stop - start
        return total

    def _count_band(self, first: int, n: int, heads: int, device: torch.device) -> float:
        """Pairs of the band among the tokens from `first` to n, averaged over the heads."""
        shares = self._shares(max(n - 1, self.width))[:, : n - first].to(device)
        there = 2 * (n - first - torch.arange(shares.shape[1], device=device))
        there[:1] //= 2
        total = (there * (shares == 1)).sum().item() * (heads / len(shares))
        some = ((shares > 0) & (shares < 1)).any(0).nonzero()[:, 0]
        if len(some):
            place = torch.arange(first, n, device=device)[:, None]
            own = quantiles(torch.arange(n, device=device)[None], self.layer, heads)[0, :, first:, None]
            limits = torch.where(shares < 1, shares, 0).expand(heads, -1)
            for distances in some.split(max(1, _AT_ONCE // (heads * (n - first)))):
                sides = (place - distances >= first).int() + (place + distances < n).int()
                total += ((own < limits[:, None, distances]) * sides).sum().item()
        return total / heads

    def _shares(self, width: int) -> Table:
        missing = width + 1 - self.kept.shape[1]
        beyond = self.kept[:, -1:] * self.open_ended
        return torch.cat([self.kept, beyond.expand(-1, missing)], 1)

    def _spare(self, weights: Table) -> Table | None:
        """Weights of another part, without those for pairs of this one, which have none."""
        if self.random or self.irregular:
            return None
        missing = max(self.width + 2 - weights.shape[1], 0)  # with a column for what lies behind this band
        weights = torch.cat([weights, weights[:, -1:].expand(-1, missing)], 1)
        return weights * (self._shares(weights.shape[1] - 1) == 0).to(weights.device)


def spans_of_kinds(n: int, second: int) -> dict[str, tuple[int, int]]:
    """Where the tokens of each kind begin and end in a sequence of n whose second text begins at `second`."""
    second = max(min(second, n), 1)
    return {"cls": (0, min(n, 1)), "first": (1, second), "second": (second, max(n, 1))}


def layout_of_shares(kept: Table, layer: int, weights: Table | None = None) -> Layout:
    """Of a table with columns for distances 0, 1, ..., and one for all beyond."""
    kept = kept.detach().cpu()
    layout = Layout(kept, True, layer, weights=weights)
    return layout if kept[:, -1].any() else layout._ending(kept)


def _within(n: int, width: int) -> int:
    """Pairs of n tokens that are at most `width` apart."""
    width = min(width, n - 1)
    return n + 2 * n * width - width * (width + 1) if n else 0
