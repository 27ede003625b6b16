"""Dense scores and a mask: what any pattern can be computed with, and the specification of other kernels."""

from __future__ import annotations

from functools import cached_property

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from sparsebert.kernels.dropout import kept
from sparsebert.kernels.kernel import ByOffset, Context, Heads, Kernel
from sparsebert.patterns.layouts import Layout
from sparsebert.registry import register

Added = Float[Tensor, "#batch #head #query key"]


@register
class Reference(Kernel):
    """A pattern's mask in one batch; called "dense" where all pairs of real tokens are allowed."""

    name = "reference"

    @classmethod
    def cost(cls, layout: Layout | None, context: Context) -> float:
        return context.length**2

    def __init__(self, layout: Layout | None, context: Context):
        super().__init__(layout, context)
        self.bias = context.pattern.bias(context.batch)
        dense = layout is not None and layout.has_all(context.length)  # then no pairs are built to see it
        self.masked = self.bias is not None or not (
            dense or bool((context.allowed == context.batch.pairs).all())
        )
        if not self.masked:
            self.name = "dense"
        self._cached: Added | None = None

    def __call__(self, query, key, value, dropout=0.0, scale=None, by_offset=None) -> Heads:
        added = self._added(query.dtype)
        if by_offset is not None:
            table = _by_place(by_offset.to(query.dtype), query.shape[2])
            added = table if added is None else added + table
        if dropout and not query.is_cuda:
            return _with_dropout(query, key, value, added, dropout, scale)
        return scaled_dot_product_attention(
            query, key, value, attn_mask=added, dropout_p=dropout, scale=scale
        )

    def _added(self, dtype: torch.dtype) -> Added | None:
        """What is added to the scores; a layer of the same pattern finds it there unless it is learned."""
        if self._rows is None:
            return None
        if self._cached is not None and self._cached.dtype == dtype:
            return self._cached
        zero = torch.zeros((), dtype=dtype, device=self._rows.device) if self.bias is None else self.bias
        added = torch.where(self._rows, zero, -torch.inf).to(dtype)
        if not zero.requires_grad:  # gradient checkpointing computes it twice, at first without a gradient
            self._cached = added
        return added

    @cached_property
    def _rows(self) -> Bool[Tensor, "#batch #head #query key"] | None:
        """Where queries may attend; None: anywhere.

        A row without any key would give NaN. So a padding query, which no one reads, may attend anywhere, and
        so may all of a sequence that is nothing but padding.
        """
        real = self.context.batch.real
        if self.masked:
            return self.context.allowed | ~real[:, None, :, None]
        return None if real.all() else (real | ~real.any(-1, keepdim=True))[:, None, None]


def _by_place(by_offset: ByOffset, length: int) -> Float[Tensor, "1 head query key"]:
    """The table's value for each pair of places."""
    reach = by_offset.shape[1] // 2
    offsets = torch.arange(1 - length, length, device=by_offset.device)
    by_query = by_offset[:, offsets.clamp(-reach, reach) + reach].unfold(1, length, 1)  # the last query first
    return by_query.flip(1)[None]


def _with_dropout(
    query: Heads, key: Heads, value: Heads, added: Added | None, dropout: float, scale: float | None
) -> Heads:
    """On a processor, where torch's own has no fused kernel and draws its random numbers slowly."""
    batch, heads, length, width = query.shape
    scale = width**-0.5 if scale is None else scale
    query, key, value = (x.reshape(batch * heads, length, width) for x in (query, key, value))
    if added is None:
        scores = torch.bmm(query * scale, key.transpose(1, 2))
    else:
        added = added.expand(batch, heads, length, length).reshape(batch * heads, length, length)
        scores = torch.baddbmm(added, query, key.transpose(1, 2), alpha=scale)
    weights = scores.softmax(-1)
    weights = weights * kept(weights.shape, dropout, weights.dtype)
    return torch.bmm(weights, value).view(batch, heads, length, width)
