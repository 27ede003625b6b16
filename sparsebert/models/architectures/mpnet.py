"""MPNet, whose attention does not go through transformers' AttentionInterface."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sparsebert.models.architectures.architecture import Architecture
from sparsebert.registry import register

_FARTHEST = 128  # offsets from here on share a bucket


@register
class MPNet(Architecture):
    """MPNet (Song et al., 2020): a bias for each head and relative position, one table for all layers.

    `attach` puts another forward pass into its self-attention. What the layers share reaches them in the
    place of the bias, which the encoder hands to each layer and which would be [batch, head, length, length].
    """

    name = "mpnet"
    attention = "MPNetSelfAttention"
    reserved = 2  # whatever the config says of padding

    def attach(self) -> None:
        for module in self.modules:
            module.forward = partial(_forward, module)
        self.hand_down(None, {})
        self.config._attn_implementation_internal = "sparsebert"  # for its mask; there is no public way

    def detach(self, implementation: str) -> None:
        vars(self._encoder).pop("compute_position_bias", None)
        for module in self.modules:
            vars(module).pop("forward", None)
        self.config._attn_implementation_internal = implementation

    def hand_down(self, shared: object, kwargs: dict[str, Any]) -> dict[str, Any]:
        self._encoder.compute_position_bias = partial(_shared, shared)
        return kwargs

    def by_offset(self, length: int) -> Float[Tensor, "head offset"]:
        reach = min(length - 1, _FARTHEST)
        table = self._encoder.relative_attention_bias
        offsets = torch.arange(-reach, reach + 1, device=table.weight.device)
        return table(self._encoder.relative_position_bucket(offsets)).T

    @property
    def _encoder(self) -> nn.Module:
        return self.model.base_model.encoder


def _shared(shared: object, hidden_states: Tensor) -> object:
    return shared


def _forward(
    self: nn.Module,
    hidden_states: Float[Tensor, "batch length width"],
    attention_mask: None,
    position_bias: Any,
    output_attentions: bool = False,
) -> tuple[Tensor, None]:
    """`MPNetSelfAttention.forward`, with the attention itself done elsewhere."""
    split = (*hidden_states.shape[:-1], -1, self.attention_head_size)
    heads = (project(hidden_states).view(split).transpose(1, 2) for project in (self.q, self.k, self.v))
    mixed = position_bias.attend(self, *heads, dropout=self.dropout.p if self.training else 0.0)
    return self.o(mixed.transpose(1, 2).flatten(2)), None
