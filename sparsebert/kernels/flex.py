"""FlexAttention (Dong et al., 2024): a compiled kernel that skips blocks of scores without pairs."""

from __future__ import annotations

from functools import cache

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

from sparsebert.kernels.banded import Band
from sparsebert.patterns.batches import Batch
from sparsebert.patterns.hard_degrees import quantiles
from sparsebert.patterns.layouts import Layout

Heads = Float[Tensor, "batch head length width"]


class Flex:
    """A band with global tokens; its weights, if any, are fixed. No dropout; gradients on a GPU only."""

    name = "flex"

    def __init__(self, layout: Layout, batch: Batch, heads: int):
        self.layout, self.batch, self.heads = layout, batch, heads
        self.device = batch.real.device
        self.start = batch.real.int().argmax(-1)
        self.mask = self._block_mask()

    def count(self) -> float:
        return Band(self.layout, self.batch, self.heads).pairs()

    def __call__(
        self, query: Heads, key: Heads, value: Heads, dropout: float = 0.0, scale: float | None = None
    ) -> Heads:
        run = compiled_flex() if query.is_cuda else flex_attention
        return run(query, key, value, score_mod=self._score(), block_mask=self.mask, scale=scale)

    def _block_mask(self) -> BlockMask:
        layout, real, start = self.layout, self.batch.real, self.start
        length, width, tokens = real.shape[1], layout.width, layout.tokens
        if layout.kept is not None:
            kept = layout.kept.expand(self.heads, -1).to(self.device)
            places = torch.arange(length, device=self.device) - start[:, None]
            own = quantiles(places, layout.layer, self.heads)

        def mask(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
            apart = (q - k).abs()
            near = apart <= width
            if layout.kept is not None:
                near = near & (own[b, h, q] < kept[h, apart.clamp(max=width)])
            with_globals = (q - start[b] < tokens) | (k - start[b] < tokens)
            # A padding query may attend to itself: its row must not be empty; no one reads it.
            return ((near | with_globals) & real[b, k] & real[b, q]) | (q == k)

        heads = None if layout.kept is None else self.heads
        rows = None if real.all() and not (start > 0).any() else len(real)
        compiled = {"_compile": True} if real.is_cuda else {}
        if compiled:
            allow_many_graphs()
        return create_block_mask(mask, rows, heads, length, length, device=self.device, **compiled)

    def _score(self):
        layout, start = self.layout, self.start
        if layout.weights is None:
            return None
        weights = layout.weights.detach().to(self.device).expand(self.heads, -1)
        last, tokens = weights.shape[1] - 1, 0 if layout.weigh_all else layout.tokens

        def score(value: Tensor, b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
            weight = weights[h, (q - k).abs().clamp(max=last)]
            with_globals = (q - start[b] < tokens) | (k - start[b] < tokens)
            return value + torch.where(with_globals, 0.0, weight)

        return score


def allow_many_graphs() -> None:
    """A graph per length and mask: by default the ninth would be an error."""
    torch._dynamo.config.recompile_limit = 64


@cache
def compiled_flex():
    allow_many_graphs()
    return torch.compile(flex_attention, fullgraph=True)
