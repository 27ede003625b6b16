"""Random connections, and the degree-matched control of any pattern."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from jaxtyping import Int
from torch import Tensor

from sparsebert.errors import InputError
from sparsebert.patterns.batches import Batch
from sparsebert.patterns.layouts import Layout
from sparsebert.patterns.pattern import Family, Pattern, Relation
from sparsebert.registry import register


@register
@dataclass(frozen=True)
class Random(Pattern):
    """`k` other tokens per query, drawn without replacement; the same draw whenever the seed is the same.

    Every query ranks all positions in an order fixed by the seed and takes the first that exist, so the
    graph does not depend on the batch, the padding or the device. With `like` a query takes as many keys as
    that pattern gives it, and with `besides` it draws only among pairs that pattern leaves out:
    `random(like=P, besides=Q) | Q` gives every token exactly the degree that `P | Q` gives it.
    Chapter 01 explains it.
    """

    k: int | None = None
    seed: int = 0
    like: Pattern | None = None
    besides: Pattern | None = None
    name = "random"
    examples = ("random(3)", "random(like=syntax)")
    forms = "random(k, seed=0) or (like=P, besides=Q)"
    family = Family("random", "#de8f05", "s")

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.k is None) == (self.like is None):
            raise InputError(
                "random takes a number of keys or a pattern to match: random(3) or random(like=syntax)"
            )

    def related(self, batch: Batch) -> Relation:
        candidates = batch.pairs & ~batch.itself
        if self.besides is not None:
            candidates = candidates & ~self.besides.related(batch)
        degree = self.k
        if self.like is not None:
            degree = (self.like.allowed(batch) & candidates).sum(-1, keepdim=True)
        return lowest(_shuffled(batch.positions, self.seed)[:, None], degree, candidates)

    def layout(self) -> Layout | None:
        if self.like is not None or self.besides is not None:
            return None
        return Layout(random=((self.k, self.seed),) if self.k else ())

    def mixture(self) -> tuple[str, int] | None:
        return None if self.k is None else ("r", self.k)

    @property
    def controls(self) -> Pattern | None:
        return self.like

    def __str__(self) -> str:
        arguments = [str(self.k)] if self.like is None else [f"like={self.like}"]
        arguments += [] if self.besides is None else [f"besides={self.besides}"]
        arguments += [f"seed={self.seed}"] if self.seed else []
        return f"random({', '.join(arguments)})"


def lowest(scores: Tensor, degree: Tensor | int, candidates: Relation) -> Relation:
    """For each query the `degree` candidate keys of lowest score; ties go to the earlier key."""
    last = torch.iinfo(scores.dtype).max if not scores.is_floating_point() else torch.inf
    order = scores.masked_fill(~candidates, last).argsort(dim=-1, stable=True)
    taken = torch.arange(order.shape[-1], device=order.device) < degree
    shape = torch.broadcast_shapes(order.shape, taken.shape)  # degrees may differ between heads
    chosen = torch.zeros(shape, dtype=torch.bool, device=order.device)
    return chosen.scatter(-1, order.expand(shape), taken.expand(shape)) & candidates


@lru_cache(maxsize=64)
def random_keys(k: int, seed: int, length: int) -> Int[Tensor, "length k"]:
    """The positions that `random(k, seed)` gives each query of a sequence; fewer than k if it is short.

    Queries are taken some at a time, so that memory grows with the length and not with its square.
    """
    places = torch.arange(length)
    some = max(1, 2**20 // length)
    chosen = []
    for queries in places.split(some):
        order = _mix(_mix(queries + _mix(torch.tensor(seed + 1)))[:, None] + places)
        order[torch.arange(len(queries)), queries] = torch.iinfo(order.dtype).max
        chosen.append(order.topk(min(k, length - 1), largest=False).indices)
    return torch.cat(chosen)


def _shuffled(positions: Int[Tensor, "batch length"], seed: int) -> Int[Tensor, "batch query key"]:
    """A pseudo-random number per pair of positions: a hash of (seed, query, key), equal on every device."""
    query = _mix(positions + _mix(torch.tensor(seed + 1, device=positions.device)))
    return _mix(query[:, :, None] + positions[:, None, :])


def _mix(x: Int[Tensor, "..."]) -> Int[Tensor, "..."]:
    """The finaliser of splitmix64 (Steele, Lea and Flood, 2014) in wrapping 64-bit arithmetic."""
    x = x * -7046029254386353131  # the golden ratio 0x9E3779B97F4A7C15, as signed
    x = (x ^ _shift(x, 30)) * -4658895280553007687  # 0xBF58476D1CE4E5B9
    x = (x ^ _shift(x, 27)) * -7723592293110705685  # 0x94D049BB133111EB
    return x ^ _shift(x, 31)


def _shift(x: Tensor, bits: int) -> Tensor:
    """Right shift that fills with zeros; torch's own repeats the sign."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)
