"""Adaptive sparse token pruning (Liu et al., 2023): learned thresholds for what [CLS] reads of a token."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import dropout as dropped

from sparsebert.kernels import Kernel
from sparsebert.kernels.kernel import Heads
from sparsebert.models.architectures import Architecture
from sparsebert.models.companions import Logits, apart
from sparsebert.models.sparsified import Pass
from sparsebert.reductions.reduction import Reduction, ReductionSettings, Scores, Weights, cls_first
from sparsebert.registry import register

_STAGES = 3  # at a quarter, half and three quarters of the layers
_ALL = slice(None)


class Settings(ReductionSettings):
    budget: float = Field(
        0.65, gt=0, le=1, description="Multiply-adds to aim at, as a share of those with all tokens"
    )
    start: float = Field(
        0.02,
        gt=0,
        le=100,
        description="First stage's threshold, before any is learned; later ones' are 2 x, 3 x",
    )
    temperature: float = Field(
        0.3, gt=0, le=100, description="Softness of thresholds in their gradient, in thresholds"
    )
    rate: float = Field(0.2, gt=0, le=10, description="Learning rate of the logarithms of the thresholds")


@register
class Adaptive(Reduction):
    """A token stays while what [CLS] reads of it is above its stage's learned threshold, within a budget.

    From the paper: a token's score is the attention that [CLS] pays it, a mean over heads weighted by the
    norm of the head's output at the token. It decides at a quarter, half and three quarters of the layers.
    In training all tokens stay: those below the threshold are nobody's key but their own, and the threshold
    gets the gradient of a sigmoid. The loss also pays for multiply-adds that miss the budget, and for an
    answer other than with all tokens. The paper's tokens leave before the layer that follows a stage; here
    they leave before the feed-forward part of the stage's own layer, which changes no answer.

    Ours: scores are multiplied by the tokens of the text, so that 1 is the average until tokens leave, and a
    threshold means the same for short and long texts. The logarithms of thresholds are learned, so that a
    token that left never comes back; the temperature is a share of the threshold. An encoder in training
    reads most tokens far less than average. So thresholds start low and have a high rate: few tokens leave at
    first, and some ten steps are enough. The answer with all tokens is the encoder's own, not that of a
    second one.

    When it is used, each text has its own count of tokens. The paper's texts all keep the mean count of
    their batch, so that an answer would depend on the other texts.
    """

    name = "adaptive"
    Settings = Settings

    def __init__(self, settings: Settings, architecture: Architecture):
        super().__init__(settings, architecture)
        stages = {self.layers * part // (_STAGES + 1) for part in range(1, _STAGES + 1)}
        self.stages = {layer: stage for stage, layer in enumerate(sorted(stages))}
        self.logarithms = nn.Parameter((settings.start * torch.arange(1.0, len(self.stages) + 1)).log())
        self._multiply_adds = architecture.multiply_adds
        self._whole = False  # whether all tokens are asked for
        self._kernels: list[Kernel] = []  # of the layers of the pass, as far as it has come
        self._scores: Scores | None = None
        self._gate: Scores | None = None  # in training: 1 for tokens that are keys, 0 for others
        self._gates: dict[int, Scores] = {}  # of each stage's layer

    @property
    def waits(self) -> bool:
        return super().waits or self._whole

    def groups(self) -> list[dict[str, Any]]:
        return [{"params": [self.logarithms], "lr": self.settings.rate, "weight_decay": 0.0}]

    def begin(self, passing: Pass) -> None:
        self._kernels, self._gate, self._gates = [], None, {}
        self._real, self._lengths = passing.batch.real, passing.batch.real.sum(-1, keepdim=True)

    def attend(self, layer: int, kernel: Kernel, *heads: Heads, **how: Any) -> Heads:
        self._kernels.append(kernel)
        (query, key, value), scale = heads, how.get("scale")
        decides = layer in self.stages and not self.waits
        if self._gate is not None:
            weights = gated(Weights(kernel, query, key, scale)(_ALL, _ALL), self._gate)
            output = dropped(weights, how.get("dropout", 0.0)) @ value
        else:
            output = kernel(*heads, **how)
            weights = Weights(kernel, query[:, :, :1], key, scale)(_ALL, slice(0, 1)) if decides else None
        if decides:
            self._scores = read_by_first(weights[:, :, 0], output) * self._lengths
        return output

    def leave(
        self, layer: int, hidden: Float[Tensor, "batch length width"], passing: Pass
    ) -> Float[Tensor, "batch fewer width"]:
        if layer not in self.stages or self.waits:
            return hidden
        real, threshold = passing.batch.real, self.logarithms[self.stages[layer]].exp()
        above = cls_first(self._scores / threshold - 1)
        if not self.training:
            return passing.keep((above > 0) & real, hidden)
        soft = (above / self.settings.temperature).sigmoid()
        self._gate = self._gates[layer] = straight_through((above > 0).to(soft), soft) * real
        return hidden

    def added_loss(self, logits: Logits, again: Callable[[], Logits]) -> Float[Tensor, ""] | float:
        """What multiply-adds miss the budget by, and how far the answer is from that with all tokens."""
        if self.waits:
            return 0.0
        missed = (self.cost() - self.settings.budget).abs()
        self._whole = True
        with torch.no_grad():
            whole = again()
        self._whole = False
        return 2 * missed + 0.5 * apart(logits, whole)

    def cost(self) -> Float[Tensor, ""]:
        """Multiply-adds of the layers of the pass in training that was last, as a share of all tokens'."""
        everyone = left = self._real.to(self.logarithms)
        spent = whole = torch.zeros_like(self.logarithms[0])
        for layer, kernel in enumerate(self._kernels):
            before, left = left, self._gates.get(layer, left)
            squares = (tokens.sum(-1).square().sum() for tokens in (before, everyone))
            pairs = kernel.count * torch.div(*squares)
            spent = spent + self._multiply_adds(before.sum(), pairs, left.sum())
            whole = whole + self._multiply_adds(everyone.sum(), kernel.count, everyone.sum())
        return spent / whole


def straight_through(
    hard: Float[Tensor, "batch length"], soft: Float[Tensor, "batch length"]
) -> Float[Tensor, "batch length"]:
    """The values of `hard`, with the gradient of `soft`."""
    return hard + soft - soft.detach()


def gated(
    weights: Float[Tensor, "batch head length length"], gate: Scores
) -> Float[Tensor, "batch head length length"]:
    """Attention weights when each key's exponential is multiplied by its gate; a token's own key stays."""
    own = torch.eye(gate.shape[1], dtype=torch.bool, device=gate.device)
    weights = weights * torch.where(own, 1.0, gate[:, None, None, :]).to(weights.dtype)
    return weights / weights.sum(-1, keepdim=True).clamp(min=torch.finfo(weights.dtype).tiny)


def read_by_first(paid: Float[Tensor, "batch head length"], output: Heads) -> Scores:
    """What the first token pays each: a mean over heads, weighted by the norms of their outputs there."""
    norms = output.norm(dim=-1)
    return (paid * norms).sum(1) / norms.sum(1).clamp(min=torch.finfo(norms.dtype).tiny)
