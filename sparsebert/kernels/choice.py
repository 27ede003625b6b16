"""Which kernel computes a layer, and that kernel, prepared for one batch."""

from __future__ import annotations

from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from sparsebert.errors import InputError, unknown_name
from sparsebert.kernels.banded import Band, banded, block_size, head_groups
from sparsebert.kernels.flex import Flex
from sparsebert.kernels.reference import Reference
from sparsebert.patterns import Dense, Pattern
from sparsebert.patterns.batches import Batch
from sparsebert.patterns.layouts import Layout

KERNELS = ("auto", "reference", "banded", "flex")

# What `banded` costs on a processor, in scores of dense attention: each of its own scores, the keys of
# windows that take as long as a query's columns, and what every sequence takes for each group of heads and,
# since it is done by one thread alone, for each thread. With dropout neither has a fused kernel. Fitted to
# `sparsebert bench attention`, on the careful side.
_SCORE = {"fused": 1.3, "dropout": 1.8}
_GLOBAL_COLUMNS, _DRAWN_COLUMN = 20, 100
_START, _START_OF_COLUMNS = 20_000, 30_000
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


def kernel_for(
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
    layout = layout and layout.up_to(batch.real.shape[1] - 1)
    if kernel == "auto":
        kernel = _fastest(layout, batch, heads, dropout)
    elif kernel != "reference":
        _check(kernel, pattern, layout, batch, dropout, gradient)
    if kernel == "banded":
        return Banded(Band(layout, batch, heads))
    if kernel == "flex":
        return Flex(layout, batch, heads)
    return Reference(pattern, batch)


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
    if layout is None or not batch.gapless:
        return "reference"
    if batch.real.is_cuda:
        if length >= _SHORTEST_ON_GPU and not dropout and _flexible(layout):
            return "flex"
        return "banded" if 4 * _keys(layout, heads, length) <= length >= _SHORTEST_ON_GPU else "reference"
    groups = head_groups(layout, heads)
    start = _START + (_START_OF_COLUMNS if layout.tokens or layout.random else 0)
    cost = (
        length * _keys(layout, heads, length) * _SCORE["dropout" if dropout else "fused"]
        + start * len(groups) * torch.get_num_threads()
    )
    return "banded" if cost <= length**2 else "reference"


def _keys(layout: Layout, heads: int, length: int) -> float:
    """Keys that `banded` computes each query's scores with, or what takes as long; the mean over heads."""
    groups = head_groups(layout, heads)
    windows = [(group, min(block_size(width) + 2 * width, length)) for group, width in groups]
    in_windows = sum((group.stop - group.start) * window for group, window in windows) / heads
    in_columns = layout.tokens and _GLOBAL_COLUMNS + 2 * layout.tokens
    return in_windows + in_columns + _DRAWN_COLUMN * sum(k for k, _ in layout.random)


def _flexible(layout: Layout) -> bool:
    return not layout.random and not (layout.weights is not None and layout.weights.requires_grad)


def check_kernel(kernel: str, pattern: Pattern) -> None:
    """`InputError` if this kernel never computes such a pattern; degrees that are soft yet may harden."""
    soft = any(part.changes for part in pattern.walk())
    if kernel in ("banded", "flex") and not soft and pattern != Dense() and pattern.layout() is None:
        raise InputError(f"kernel={kernel} can't be used here, since {_no_band(pattern)}; write kernel=auto")


def _no_band(pattern: Pattern) -> str:
    return f"'{pattern}' is not made of a band, global tokens and drawn keys alone"


def _check(
    kernel: str, pattern: Pattern, layout: Layout | None, batch: Batch, dropout: float, gradient: bool
) -> None:
    why = None
    if layout is None:
        why = _no_band(pattern)
    elif not batch.gapless:
        why = "a row has padding between its tokens"
    elif kernel == "flex" and not _flexible(layout):
        why = f"'{pattern}' has drawn keys or trains weights"
    elif kernel == "flex" and dropout:
        why = "it has no dropout"
    elif kernel == "flex" and gradient and not batch.real.is_cuda:
        why = "it has gradients on a GPU only"
    if why:
        raise InputError(f"kernel={kernel} can't be used here, since {why}; write kernel=auto")
