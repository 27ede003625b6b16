"""Dense scores and a mask: what any pattern can be computed with, and the specification of other kernels."""

from __future__ import annotations

from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from sparsebert.kernels.dropout import kept
from sparsebert.patterns import Bias, Dense, Pattern, Relation
from sparsebert.patterns.batches import Batch

Heads = Float[Tensor, "batch head length width"]
Added = Float[Tensor, "#batch #head #query key"]


class Reference:
    """A pattern's mask in one batch; called "dense" where it allows all pairs of real tokens."""

    def __init__(self, pattern: Pattern, batch: Batch):
        self.batch = batch
        self.mask: Relation | None = None
        self.bias: Bias | None = None
        if not isinstance(pattern, Dense):
            with torch.no_grad():
                allowed = pattern.allowed(batch)
            self.bias = pattern.bias(batch)
            if self.bias is not None or not (allowed == batch.pairs).all():
                self.mask = allowed
        self.name = "dense" if self.mask is None else "reference"
        self._cached: Added | None = None

    def count(self, own: Relation | None = None) -> float:
        """Allowed pairs of real tokens, averaged over heads."""
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
        added = self._added(query.dtype) if own is None else self._within(own, query.dtype)
        if dropout and not query.is_cuda:
            return _with_dropout(query, key, value, added, dropout, scale)
        return scaled_dot_product_attention(
            query, key, value, attn_mask=added, dropout_p=dropout, scale=scale
        )

    @cached_property
    def _all_real(self) -> bool:
        return bool(self.batch.real.all())

    def _added(self, dtype: torch.dtype) -> Added | None:
        """What is added to the scores; a layer of the same pattern finds it there."""
        if self.mask is None and self._all_real:
            return None
        if self._cached is None or self._cached.dtype != dtype:
            allowed = self.batch.real[:, None, None] if self.mask is None else self._rows_not_empty()
            self._cached = self._where(allowed, dtype)
        return self._cached

    def _within(self, own: Relation, dtype: torch.dtype) -> Added:
        allowed = own if self.mask is None else self.mask & own
        return self._where(allowed | ~self.batch.real[:, None, :, None], dtype)

    def _rows_not_empty(self) -> Relation:
        """A padding query may attend anywhere: its row must not be empty; no one reads it."""
        return self.mask if self._all_real else self.mask | ~self.batch.real[:, None, :, None]

    def _where(self, allowed: Relation, dtype: torch.dtype) -> Added:
        zero = torch.zeros((), dtype=dtype, device=allowed.device) if self.bias is None else self.bias
        return torch.where(allowed, zero, -torch.inf).to(dtype)


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
