"""FlexAttention (Dong et al., 2024): a compiled kernel that skips blocks of scores without pairs."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

from sparsebert.kernels.kernel import ByOffset, Context, Heads, Kernel, needs_layout
from sparsebert.patterns.hard_degrees import quantiles
from sparsebert.patterns.layouts import Layout
from sparsebert.registry import register

_SHORTEST, _BLOCK = 1024, 128


@register
class Flex(Kernel):
    """A band with global tokens; its weights, if any, are fixed. No dropout; gradients on a GPU only."""

    name = "flex"

    @classmethod
    def supports(cls, layout: Layout | None, context: Context) -> str | None:
        if reason := needs_layout(layout, context):
            return reason
        if layout.random or (layout.weights is not None and layout.weights.requires_grad):
            return f"'{context.pattern}' has random keys or trains weights"
        if context.dropout:
            return "it has no dropout"
        if context.gradient and context.device.type != "cuda":
            return "it has gradients on a GPU only"
        return None

    @classmethod
    def cost(cls, layout: Layout, context: Context) -> float:
        if context.device.type != "cuda" or context.length < _SHORTEST:
            return torch.inf
        return context.length * (min(2 * layout.width + _BLOCK, context.length) + layout.tokens + 1)

    def __init__(self, layout: Layout, context: Context):
        super().__init__(layout, context)
        self.start = context.batch.real.int().argmax(-1)
        self.mask = self._block_mask()

    def __call__(self, query, key, value, dropout=0.0, scale=None, by_offset=None) -> Heads:
        run = compiled_flex() if query.is_cuda else flex_attention
        return run(query, key, value, score_mod=self._score(by_offset), block_mask=self.mask, scale=scale)

    def _block_mask(self) -> BlockMask:
        layout, real, start = self.layout, self.context.batch.real, self.start
        length, heads, device = self.context.length, self.context.heads, self.context.device
        width, tokens, plain = layout.width, layout.tokens, layout.plain
        window = length if layout.window is None else layout.window
        if not plain:
            kept = layout.kept.expand(heads, -1).to(device)
            own = quantiles(torch.arange(length, device=device) - start[:, None], layout.layer, heads)

        def mask(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
            apart = (q - k).abs()
            near = apart <= width
            if not plain:
                near = near & (own[b, h, q] < kept[h, apart.clamp(max=width)])
            with_globals = (q - start[b] < tokens) | (k - start[b] < tokens)
            # A padding query may attend to itself: its row must not be empty; no one reads it.
            pairs = (near | with_globals) & (apart <= window)
            return (pairs & real[b, k] & real[b, q]) | (q == k)

        of_heads = None if plain else heads
        rows = None if real.all() and not (start > 0).any() else len(real)
        if real.is_cuda:
            allow_many_graphs()
        return create_block_mask(mask, rows, of_heads, length, length, device=device, _compile=real.is_cuda)

    def _score(self, by_offset: ByOffset | None):
        layout, start = self.layout, self.start
        weighted = layout.weights is not None
        if weighted:
            weights = layout.weights.detach().to(self.context.device).expand(self.context.heads, -1)
            last, tokens = weights.shape[1] - 1, 0 if layout.weigh_all else layout.tokens
        reach = 0 if by_offset is None else by_offset.shape[1] // 2

        def score(value: Tensor, b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
            if weighted:
                weight = weights[h, (q - k).abs().clamp(max=last)]
                with_globals = (q - start[b] < tokens) | (k - start[b] < tokens)
                value = value + torch.where(with_globals, 0.0, weight)
            if by_offset is not None:
                value = value + by_offset[h, (k - q).clamp(-reach, reach) + reach]
            return value

        return score if weighted or by_offset is not None else None


def allow_many_graphs() -> None:
    """A graph per length and mask: by default the ninth would be an error."""
    torch._dynamo.config.recompile_limit = 64


@cache
def compiled_flex():
    allow_many_graphs()
    return torch.compile(flex_attention, fullgraph=True)
