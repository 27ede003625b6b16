"""Patterns that are the same at every layer and head: by position, by similarity, by the parse."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import ClassVar

import torch
from jaxtyping import Int
from torch import Tensor
from torch.nn.functional import normalize

from sparsebert.errors import InputError
from sparsebert.patterns.batches import Batch
from sparsebert.patterns.layouts import Layout
from sparsebert.patterns.pattern import Learner, Pattern, Relation, needed

_LARGEST = 2**31 - 1  # number in a pattern's text


@dataclass(frozen=True)
class Dense(Pattern):
    """Every token attends to every token: the encoder as it was trained."""

    def related(self, batch: Batch) -> Relation:
        return batch.pairs

    def layout(self) -> Layout:
        return Layout.everything()

    def __str__(self) -> str:
        return "dense"


@dataclass(frozen=True)
class Neighbour(Pattern):
    """Tokens at most `w` positions away on either side: degree 2w in the middle of a sequence."""

    w: int

    def __post_init__(self) -> None:
        _check_count("neighbour", "w", self.w)

    def related(self, batch: Batch) -> Relation:
        position = batch.positions
        return ((position[:, :, None] - position[:, None, :]).abs() <= self.w)[:, None]

    def layout(self) -> Layout:
        return Layout(self.w)

    def __str__(self) -> str:
        return f"neighbour({self.w})"


@dataclass(frozen=True)
class Global(Pattern):
    """The first `tokens` tokens attend to all and all attend to them; `"cls"` is the first one, [CLS]."""

    tokens: int | str

    def __post_init__(self) -> None:
        if self.tokens != "cls":
            _check_count("global", "tokens", self.tokens, also=" or cls")

    def related(self, batch: Batch) -> Relation:
        chosen = batch.positions < (1 if self.tokens == "cls" else self.tokens)
        return (chosen[:, :, None] | chosen[:, None, :])[:, None]

    def layout(self) -> Layout:
        return Layout(tokens=1 if self.tokens == "cls" else self.tokens)

    def __str__(self) -> str:
        return f"global({self.tokens})"


@dataclass(frozen=True)
class Random(Pattern):
    """`k` other tokens per query, drawn without replacement; the same draw whenever the seed is the same.

    Every query ranks all positions in an order fixed by the seed and takes the first that exist, so the
    graph does not depend on the batch, the padding or the device. With `like` a query takes as many keys as
    that pattern gives it, and with `besides` it draws only among pairs that pattern leaves out:
    `random(like=P, besides=Q) | Q` gives every token exactly the degree that `P | Q` gives it.
    """

    k: int | None = None
    seed: int = 0
    like: Pattern | None = None
    besides: Pattern | None = None

    def __post_init__(self) -> None:
        if (self.k is None) == (self.like is None):
            raise InputError(
                "random takes a number of keys or a pattern to match: random(3) or random(like=syntax)"
            )
        if self.k is not None:
            _check_count("random", "k", self.k)
        _check_count("random", "seed", self.seed)

    @property
    def needs(self) -> frozenset[str]:
        return needed(self.like, self.besides)

    def related(self, batch: Batch) -> Relation:
        itself = torch.eye(batch.real.shape[1], dtype=torch.bool, device=batch.real.device)
        candidates = batch.pairs & ~itself
        if self.besides is not None:
            candidates = candidates & ~self.besides.related(batch)
        if self.like is None:
            degree = torch.tensor(self.k, device=batch.real.device)
        else:
            wanted = self.like.allowed(batch) & ~itself
            if self.besides is not None:
                wanted = wanted & ~self.besides.related(batch)
            degree = wanted.sum(-1, keepdim=True)
        return _lowest(_shuffled(batch.positions, self.seed)[:, None], degree, candidates)

    def layout(self) -> Layout | None:
        return Layout(random=((self.k, self.seed),)) if self.like is None and self.besides is None else None

    def at(self, layer: int, learner: Learner | None = None) -> Pattern:
        like, besides = (part and part.at(layer, learner) for part in (self.like, self.besides))
        return replace(self, like=like, besides=besides)

    def __str__(self) -> str:
        arguments = [str(self.k)] if self.like is None else [f"like={self.like}"]
        if self.besides is not None:
            arguments.append(f"besides={self.besides}")
        if self.seed:
            arguments.append(f"seed={self.seed}")
        return f"random({', '.join(arguments)})"


@dataclass(frozen=True)
class Lexical(Pattern):
    """The `k` tokens with the most similar input embeddings (by cosine; ties go to the earlier one)."""

    k: int
    needs: ClassVar[frozenset[str]] = frozenset({"embeddings"})

    def __post_init__(self) -> None:
        _check_count("lexical", "k", self.k)

    def related(self, batch: Batch) -> Relation:
        with torch.autocast(batch.real.device.type, enabled=False):
            unit = normalize(batch.embeddings.float(), dim=-1)
            cosine = unit @ unit.transpose(1, 2)
        # Equal words must tie exactly, whatever order a matrix product adds in: compare cosines to 4 digits.
        dissimilarity = (-1e4 * cosine).round()[:, None]
        itself = torch.eye(cosine.shape[-1], dtype=torch.bool, device=cosine.device)
        return _lowest(dissimilarity, torch.tensor(self.k, device=cosine.device), batch.pairs & ~itself)

    def __str__(self) -> str:
        return f"lexical({self.k})"


@dataclass(frozen=True)
class Copies(Pattern):
    """The same token at other places, that is those of equal input embeddings."""

    needs: ClassVar[frozenset[str]] = frozenset({"embeddings"})

    def related(self, batch: Batch) -> Relation:
        _, token = batch.embeddings.flatten(0, 1).unique(dim=0, return_inverse=True)
        token = token.view(batch.real.shape)
        return (token[:, :, None] == token[:, None, :])[:, None]

    def __str__(self) -> str:
        return "copies"


@dataclass(frozen=True)
class Syntax(Pattern):
    """Pieces of one word, and words at most `hops` steps apart in the dependency parse.

    One step leads from a word to its head or to a dependant. Steps lead over words of the sequence: a word
    that truncation cut away connects nothing. Special tokens have no parse and attend to themselves alone.
    """

    hops: int = 1
    needs: ClassVar[frozenset[str]] = frozenset({"word_ids", "head_ids"})

    def __post_init__(self) -> None:
        _check_count("syntax", "hops", self.hops)

    def related(self, batch: Batch) -> Relation:
        word, head = batch.word_ids, batch.head_ids
        has_word = (word[:, :, None] >= 0) & (word[:, None, :] >= 0)
        same_word = (word[:, :, None] == word[:, None, :]) & has_word
        to_head = (head[:, :, None] == word[:, None, :]) & has_word
        step = same_word | to_head | to_head.transpose(1, 2)
        reached = step if self.hops else same_word
        for _ in range(min(self.hops, word.shape[1]) - 1):  # no path over more words than there are
            with torch.autocast(word.device.type, enabled=False):
                reached = reached.float() @ step.float() > 0
        return reached[:, None]

    def __str__(self) -> str:
        return "syntax" if self.hops == 1 else f"syntax(hops={self.hops})"


def _check_count(pattern: str, name: str, value: object, also: str = "") -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise InputError(f"{pattern} takes {name} as a whole number from 0 up{also}, not '{value}'")
    if value > _LARGEST:
        raise InputError(f"{pattern} takes {name} up to {_LARGEST}, not '{value}'")


def _lowest(scores: Tensor, degree: Tensor, candidates: Relation) -> Relation:
    """For each query the `degree` candidate keys of lowest score; ties go to the earlier key."""
    last = torch.iinfo(scores.dtype).max if not scores.is_floating_point() else torch.inf
    order = scores.masked_fill(~candidates, last).argsort(dim=-1, stable=True)
    taken = torch.arange(order.shape[-1], device=order.device) < degree
    shape = torch.broadcast_shapes(order.shape, taken.shape)  # degrees may differ between heads
    chosen = torch.zeros(shape, dtype=torch.bool, device=order.device)
    return chosen.scatter(-1, order.expand(shape), taken.expand(shape)) & candidates


@lru_cache(maxsize=64)
def drawn_keys(k: int, seed: int, length: int) -> Int[Tensor, "length k"]:
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
