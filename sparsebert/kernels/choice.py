"""Which kernel computes a layer, and that kernel, prepared for one batch."""

from __future__ import annotations

from functools import cached_property
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from sparsebert.batches import Batch
from sparsebert.errors import InputError, unknown_name
from sparsebert.kernels.banded import Band, banded, block_size
from sparsebert.kernels.flex import Flex
from sparsebert.layouts import Layout
from sparsebert.patterns import Bias, Dense, Pattern, Relation

KERNELS = ("auto", "reference", "banded", "flex")

# What a score costs in `banded`, in units of dense attention's: once its block is there, and for each block
# of one head before any work is done. Without dropout dense attention is a fused kernel on a processor, with
# it it is not. Measured with `sparsebert bench attention`, as are the lengths below.
_SCORE = {"fused": 1.8, "dropout": 1.1}
_START = 45_000
_SHORTEST_ON_GPU = 1024

Heads = Float[Tensor, "batch head length width"]


class Kernel(Protocol):
    """Attention over a pattern's pairs in one batch."""

    name: str

    def count(self) -> float:
        """Allowed pairs of real tokens, averaged over heads."""

    def __call__(
        self, query: Heads, key: Heads, value: Heads, dropout: float = 0.0, scale: float | None = None
    ) -> Heads:
        """The attention's output; what padding queries get has no meaning."""


def prepare(
    pattern: Pattern,
    batch: Batch,
    heads: int,
    kernel: str = "auto",
    dropout: float = 0.0,
    gradient: bool = False,
) -> Kernel:
    """The kernel for one layer's pattern and one batch, with its masks.

    `auto` takes the fastest kernel, by pattern, length and device; `dropout` and `gradient` say whether there
    will be any. All kernels give the same result, that of `reference`. Raises `InputError` if a kernel is
    asked for that can't compute the pattern here.
    """
    if kernel not in KERNELS:
        raise unknown_name("kernel", kernel, KERNELS)
    if isinstance(pattern, Dense):
        return Reference(pattern, batch)
    layout = pattern.layout() if kernel != "reference" else None
    if kernel == "auto":
        kernel = _fastest(layout, batch, heads, dropout)
    elif kernel != "reference":
        _check(kernel, pattern, layout, batch, dropout, gradient)
    if kernel == "banded":
        return Banded(Band(layout, batch, heads))
    if kernel == "flex":
        return Flex(layout, batch, heads)
    return Reference(pattern, batch)


class Reference:
    """Dense scores and a mask: what any pattern can be computed with, and the specification of the others."""

    def __init__(self, pattern: Pattern, batch: Batch):
        self.batch, self.heads = batch, 1
        self.mask: Relation | None = None
        self.bias: Bias | None = None
        if not isinstance(pattern, Dense):
            with torch.no_grad():
                allowed = pattern.allowed(batch)
            self.bias = pattern.bias(batch)
            if self.bias is not None or not (allowed == batch.pairs).all():
                self.mask = allowed
        self.name = "dense" if self.mask is None else "reference"

    def count(self, own: Relation | None = None) -> float:
        pairs = self.batch.pairs if self.mask is None else self.mask
        if own is not None and own.ndim == 4:
            pairs = pairs & own
        return pairs.sum().item() / pairs.shape[1]

    def __call__(
        self,
        query: Heads,
        key: Heads,
        value: Heads,
        dropout: float = 0.0,
        scale: float | None = None,
        own: Relation | None = None,
    ) -> Heads:
        """`own` is what the encoder itself allows beside padding, such as its local windows."""
        mask = self._added(query.dtype) if own is None else self._within(own, query.dtype)
        return scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout, scale=scale)

    @cached_property
    def _all_real(self) -> bool:
        return bool(self.batch.real.all())

    def _added(self, dtype: torch.dtype) -> Float[Tensor, "#batch #head #query key"] | None:
        """What is added to the scores; a layer of the same pattern finds it there."""
        if self.mask is None:
            return None if self._all_real else self.batch.real[:, None, None]
        if not hasattr(self, "_cached") or self._cached.dtype != dtype:
            # A padding query may attend anywhere: its row must not be empty; no one reads it.
            allowed = self.mask if self._all_real else self.mask | ~self.batch.real[:, None, :, None]
            zero = torch.zeros((), dtype=dtype, device=allowed.device) if self.bias is None else self.bias
            self._cached = torch.where(allowed, zero, -torch.inf).to(dtype)
        return self._cached

    def _within(self, own: Relation, dtype: torch.dtype) -> Tensor:
        allowed = own
        if self.mask is not None:
            allowed = (self.mask | ~self.batch.real[:, None, :, None]) & own
        return allowed if self.bias is None else self.bias.masked_fill(~allowed, -torch.inf).to(dtype)


class Banded:
    """Blocks of queries and the windows of their keys: see `sparsebert.kernels.banded`."""

    name = "banded"

    def __init__(self, band: Band):
        self.band = band

    def count(self) -> float:
        return self.band.pairs()

    def __call__(
        self, query: Heads, key: Heads, value: Heads, dropout: float = 0.0, scale: float | None = None
    ) -> Heads:
        return banded(query, key, value, self.band, dropout, scale)


def _fastest(layout: Layout | None, batch: Batch, heads: int, dropout: float) -> str:
    length = batch.real.shape[1]
    if layout is None or not _gapless(batch):
        return "reference"
    if batch.real.is_cuda:
        if length >= _SHORTEST_ON_GPU and not dropout and _flexible(layout):
            return "flex"
        return "banded" if 4 * _keys(layout) <= length >= _SHORTEST_ON_GPU else "reference"
    score = _SCORE["dropout" if dropout else "fused"]
    return "banded" if length * _keys(layout) * score + _START <= length**2 else "reference"


def _keys(layout: Layout) -> float:
    """Scores that `banded` computes for each query, on average over the heads."""
    widths = [layout.width]
    if layout.kept is not None:
        widths = [int(shares.nonzero().max()) for shares in layout.kept]
    in_windows = sum(block_size(width) + 2 * width for width in widths) / len(widths)
    return in_windows + 2 * layout.tokens + 8 * sum(k for k, _ in layout.random)  # gathering keys is slow


def _flexible(layout: Layout) -> bool:
    return not layout.random and not (layout.weights is not None and layout.weights.requires_grad)


def _gapless(batch: Batch) -> bool:
    real = batch.real
    runs = real[:, 0].int() + (real[:, 1:] & ~real[:, :-1]).sum(-1)
    return bool((runs <= 1).all())


def _check(
    kernel: str, pattern: Pattern, layout: Layout | None, batch: Batch, dropout: float, gradient: bool
) -> None:
    why = None
    if layout is None:
        why = f"'{pattern}' is not made of a band, global tokens and drawn keys alone"
    elif not _gapless(batch):
        why = "a row has padding between its tokens"
    elif kernel == "flex" and not _flexible(layout):
        why = f"'{pattern}' has drawn keys or trains weights"
    elif kernel == "flex" and dropout:
        why = "it has no dropout"
    elif kernel == "flex" and gradient and not batch.real.is_cuda:
        why = "it has gradients on a GPU only"
    if why:
        raise InputError(f"kernel={kernel} can't be used here, since {why}; write kernel=auto")
