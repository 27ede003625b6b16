"""Learned token pruning (Kim et al., 2022): a threshold per layer for the attention that a token receives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from sparsebert.kernels import Kernel
from sparsebert.kernels.kernel import Heads
from sparsebert.models.architectures import Architecture
from sparsebert.models.companions import Logits
from sparsebert.models.sparsified import Pass
from sparsebert.reductions.reduction import Reduction, ReductionSettings, Scores, attend_and_score, cls_first
from sparsebert.registry import register


class Settings(ReductionSettings):
    price: float = Field(0.05, ge=0, le=1000, description="Loss per layer for a text whose tokens all stay")
    soft_share: float = Field(
        0.3, gt=0, lt=1, description="Share of the training steps in which thresholds are learned"
    )
    start: float = Field(0.5, ge=0, le=100, description="Threshold of the last layer before it is learned")
    temperature: float = Field(0.1, gt=0, le=100, description="Softness of thresholds while they are learned")
    rate: float = Field(0.02, gt=0, le=10, description="Learning rate of the thresholds")


@register
class Ltp(Reduction):
    """A token stays while the attention that it receives is above its layer's learned threshold.

    While thresholds are learned, all tokens stay, and what leaves a layer's attention is multiplied by
    sigmoid((score - threshold) / temperature); then the thresholds are fixed and tokens leave. A score is the
    attention that a token receives, times the tokens of the text, so that 1 is the average and a threshold
    means the same for texts of all lengths. Once tokens have left, the average is above 1, so later
    thresholds spare more than they did while they were learned. The paper's score is a mean over padded rows,
    and its thresholds are for one length.
    """

    name = "ltp"
    Settings = Settings

    def __init__(self, settings: Settings, architecture: Architecture):
        super().__init__(settings, architecture)
        last = self.layers
        self.thresholds = nn.Parameter(settings.start * torch.arange(1, last + 1) / last)
        self._lengths: Float[Tensor, "batch 1"] | None = None
        self._scores: Scores | None = None
        self._stay: list[Float[Tensor, ""]] = []  # of each layer, the share that stays

    @property
    def soft(self) -> bool:
        """Whether the thresholds are being learned."""
        end = self.settings.dense_share + self.settings.soft_share
        return self.training and not self.waits and bool(self.done < end)

    def groups(self) -> list[dict[str, Any]]:
        return [{"params": [self.thresholds], "lr": self.settings.rate, "weight_decay": 0.0}]

    def begin(self, passing: Pass) -> None:
        self._lengths, self._stay = passing.batch.real.sum(-1, keepdim=True), []

    def attend(self, layer: int, kernel: Kernel, *heads: Heads, **how: Any) -> Heads:
        if self.waits:
            return kernel(*heads, **how)
        output, received = attend_and_score(kernel, *heads, **how)
        self._scores = received * self._lengths
        return output

    def leave(
        self, layer: int, hidden: Float[Tensor, "batch length width"], passing: Pass
    ) -> Float[Tensor, "batch fewer width"]:
        if self.waits:
            return hidden
        real, above = passing.batch.real, cls_first(self._scores - self.thresholds[layer])
        if not self.soft:
            return passing.keep((above > 0) & real, hidden)
        stay = (above / self.settings.temperature).sigmoid()
        self._stay.append((stay * real).sum() / real.sum())
        return hidden * stay.to(hidden)[..., None]

    def added_loss(self, logits: Logits, again: Callable[[], Logits]) -> Float[Tensor, ""] | float:
        """The price of the tokens that stay."""
        return self.settings.price * sum(self._stay) if self.soft else 0.0
