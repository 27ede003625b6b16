"""Pruned token compression, in the style of Yun et al. (2023): fewer keys, then slots in place of tokens."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import gumbel_softmax

from sparsebert.errors import InputError
from sparsebert.kernels import Kernel
from sparsebert.kernels.kernel import Heads
from sparsebert.models.architectures import Architecture
from sparsebert.models.sparsified import Pass
from sparsebert.patterns.batches import Batch
from sparsebert.reductions.reduction import (
    Keys,
    Reduction,
    ReductionSettings,
    attend_and_score,
    highest,
    pairs_with,
)
from sparsebert.registry import register

_SLACK = 1e-6  # so that 0.7 of 10 keys are 7, whatever binary fractions make of it


class Settings(ReductionSettings):
    share: float = Field(0.9, gt=0, le=1, description="Share of a layer's keys that stay in the next layer")
    protected: float = Field(
        0.5, ge=0, le=2, description="Score, from 0 to 1 within a text, from which on a key stays anyway"
    )
    slots: int = Field(8, ge=0, le=1000, description="Slots that tokens are combined in; 0: they are not")
    at: int = Field(-2, description="Layer that combines them, from 0, or from -1 for the last one")
    temperature: float = Field(1.0, gt=0, le=100, description="Softness of the choice of a slot in training")
    rate: float = Field(0.001, gt=0, le=1, description="Learning rate of the slots")


@register
class Compressed(Reduction):
    """Tokens that get little attention stop being keys, and late in the encoder a few slots take all in.

    In the style of a paper (pruned token compression) of whose method we have no full text. From it: keys
    and values are pruned by the attention that they receive, and queries stay; of t keys the top
    share · t, rounded down, stay for the next layer; important tokens are protected; a combining module in
    the manner of slot attention takes the place of one layer, and the blocks behind it see its few tokens.

    Ours: scores are stretched to 0 to 1 over a text's keys. The paper's fuzzy membership, a falling sigmoid
    of the score that must be above a level, comes to one number, `protected`. [CLS] is always a key. Each
    learned slot c takes the tokens that are most like it, by (W_q c) · (W_k x) / √d with Gumbel noise and a
    straight-through gradient in training, and becomes c + the mean of their W_v x. The module takes the
    place of the attention of one layer, whose feed-forward part follows, from the first step on; pruning
    starts after `dense_share`. [CLS] goes on before the slots as it is, and slots without a token leave. To
    the patterns of later layers a slot has [CLS]'s embedding and no word, and bands go by the slots' order.

    What is counted: a pruned key takes its pairs away, not the projections of its token. Combining counts as
    two projections of each token and a pair of each with each slot.
    """

    name = "compressed"
    Settings = Settings

    def __init__(self, settings: Settings, architecture: Architecture):
        super().__init__(settings, architecture)
        self._keys: Keys | None = None  # of the next layer; None: all
        self._last: Keys | None = None  # of the layer that attended last
        if not settings.slots:
            return
        self.skipped = settings.at % self.layers
        if not -self.layers <= settings.at < self.layers:
            raise InputError(f"at={settings.at}: this encoder has {self.layers} layers; write one of them")
        if not architecture.between or architecture.shares_layers:
            raise InputError(
                f"no layer of a '{architecture.name}' encoder can be replaced; write slots=0, or choose "
                "a BERT, RoBERTa or ELECTRA"
            )
        width = architecture.config.hidden_size
        self.combine = Combining(width, settings.slots, settings.temperature)

    def groups(self) -> list[dict[str, Any]]:
        return [{"params": list(self.parameters()), "lr": self.settings.rate}] if self.settings.slots else []

    def begin(self, passing: Pass) -> None:
        self._keys = None

    def attend(self, layer: int, kernel: Kernel, *heads: Heads, **how: Any) -> Heads:
        self._last = keys = self._keys
        if self.waits or (self.skipped is not None and layer > self.skipped):
            return kernel(*heads, **how)
        output, received = attend_and_score(kernel, *heads, **how, keys=keys)
        if keys is None:
            real = kernel.context.batch.real
            keys = Keys(torch.arange(real.shape[1], device=real.device).expand(real.shape), real)
        left, places = Batch(keys.real).keep(self.important(received.detach(), keys.real))
        self._keys = Keys(keys.places.gather(1, places), left.real)
        return output

    def pairs(self, kernel: Kernel) -> float:
        if self._last is None:
            return kernel.count
        allowed = pairs_with(kernel, self._last)
        return (allowed & kernel.context.batch.real[:, None, :, None]).sum().item() / allowed.shape[1]

    def important(
        self, received: Float[Tensor, "batch key"], real: Bool[Tensor, "batch key"]
    ) -> Bool[Tensor, "batch key"]:
        """The keys that stay, the first among them."""
        low = received.masked_fill(~real, torch.inf).amin(-1, keepdim=True)
        high = received.masked_fill(~real, -torch.inf).amax(-1, keepdim=True)
        scores = (received - low) / (high - low).clamp(min=torch.finfo(received.dtype).tiny)
        counts = (self.settings.share * real.sum(-1, keepdim=True).double() + _SLACK).floor().clamp(min=1)
        return highest(received, real, counts) | ((scores >= self.settings.protected) & real)

    def leave(
        self, layer: int, hidden: Float[Tensor, "batch length width"], passing: Pass
    ) -> Float[Tensor, "batch fewer width"]:
        if layer != self.skipped:
            return hidden
        real, slots = passing.batch.real, self.settings.slots
        if passing.meter:
            passing.meter.count_layer(layer, slots * real.sum().item(), passing.batch, 0.5)
        others = real & (torch.arange(real.shape[1], device=real.device) > 0)
        combined, filled = self.combine(hidden, others)
        self._keys, filled = None, torch.cat([real[:, :1], filled], 1)
        passing.go_on_with(passing.batch.like_first(filled))
        return passing.keep(filled, torch.cat([hidden[:, :1], combined], 1))


class Combining(nn.Module):
    """Learned slots, among which tokens are shared out.

    Keys and values start as the tokens themselves, so that a slot starts as a mean of like tokens.
    """

    def __init__(self, width: int, slots: int, temperature: float):
        super().__init__()
        self.slots = nn.Parameter(0.02 * torch.randn(slots, width))
        self.query, self.key, self.value = (nn.Linear(width, width, bias=False) for _ in range(3))
        self.temperature = temperature
        nn.init.normal_(self.query.weight, std=50 * width**-0.5)  # so that queries are of usual size
        nn.init.eye_(self.key.weight)
        nn.init.eye_(self.value.weight)

    def forward(
        self, hidden: Float[Tensor, "batch length width"], real: Bool[Tensor, "batch length"]
    ) -> tuple[Float[Tensor, "batch slot width"], Bool[Tensor, "batch slot"]]:
        """The slots of each text, and which of them have a token."""
        alike = self.query(self.slots) @ self.key(hidden).transpose(1, 2) * hidden.shape[-1] ** -0.5
        if self.training:
            share = gumbel_softmax(alike, self.temperature, hard=True, dim=1)
        else:
            share = torch.zeros_like(alike).scatter(1, alike.argmax(1, keepdim=True), 1.0)
        share = share * real[:, None, :]
        count = share.sum(-1, keepdim=True)
        empty = count.detach() < 0.5
        means = share @ self.value(hidden) / (count + empty)
        return self.slots + means, ~empty[..., 0]
