"""The length-adaptive transformer (Kim and Cho, 2021): each layer keeps a share of its tokens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Bool, Float
from pydantic import Field, field_validator
from torch import Tensor

from sparsebert.errors import InputError, shown
from sparsebert.kernels import Kernel
from sparsebert.kernels.kernel import Heads
from sparsebert.models.architectures import Architecture
from sparsebert.models.companions import Logits, apart
from sparsebert.models.sparsified import Pass
from sparsebert.patterns.plans import Placement
from sparsebert.reductions.reduction import (
    Reduction,
    ReductionSettings,
    Scores,
    attend_and_score,
    highest,
)
from sparsebert.registry import register

_SLACK = 1e-6  # so that 0.7 of 10 tokens are 7, whatever binary fractions make of it


class Settings(ReductionSettings):
    keep: str = Field(
        "0.8",
        description="Share of a layer's tokens that stay when the model is used, at all layers or as in "
        "`0.5 @ 2` or `0.5 @ 2; 0.8 @ 4-`",
    )
    least: float = Field(0.8, gt=0, le=1, description="Smallest share of each layer that is trained")

    @field_validator("keep")
    @classmethod
    def _canonical(cls, text: str) -> str:
        return "; ".join(f"{share:g} @ {where}".removesuffix(" @ all") for share, where in schedule(text))


@register
class Lat(Reduction):
    """At each layer a share of the tokens stays, those that receive the most attention.

    One training serves all shares: beside the whole text each step sees three shortened ones, one in which
    as many tokens leave as ever may and two in which a random share of each layer leaves, and learns to
    answer as with the whole text. The paper also skips layers in training and searches a share for each
    layer; here `keep` says them.
    """

    name = "lat"
    Settings = Settings

    def __init__(self, settings: Settings, architecture: Architecture):
        super().__init__(settings, architecture)
        self.shares = [1.0] * self.layers  # when the model is used
        for share, where in schedule(settings.keep):
            for layer in where.layers(self.layers):
                self.shares[layer] = share
        self.lowest = [min(share, settings.least) for share in self.shares]
        self._drawn: list[float] | None = None
        self._scores: Scores | None = None

    def attend(self, layer: int, kernel: Kernel, *heads: Heads, **how: Any) -> Heads:
        self._scores = None
        if self._now[layer] == 1:
            return kernel(*heads, **how)
        output, self._scores = attend_and_score(kernel, *heads, **how)
        return output

    def leave(
        self, layer: int, hidden: Float[Tensor, "batch length width"], passing: Pass
    ) -> Float[Tensor, "batch fewer width"]:
        if self._scores is None:
            return hidden
        return passing.keep(best(self._scores, passing.batch.real, self._now[layer]), hidden)

    def added_loss(self, logits: Logits, again: Callable[[], Logits]) -> Float[Tensor, ""] | float:
        """How far the answers of three shortened passes are from that of the whole text."""
        if self.waits:
            return 0.0
        added = torch.zeros((), device=logits.device)
        for spread in (0.0, 1.0, 1.0):
            drawn = torch.rand(self.layers).mul(spread).tolist()
            self._drawn = [low + (1 - low) * x for low, x in zip(self.lowest, drawn, strict=True)]
            added = added + apart(again(), logits)
        self._drawn = None
        return added

    @property
    def _now(self) -> list[float]:
        """The share of each layer in the pass that runs."""
        if not self.training:
            return self.shares
        return self._drawn or [1.0] * self.layers


def best(scores: Scores, real: Bool[Tensor, "batch length"], share: float) -> Bool[Tensor, "batch length"]:
    """This share of each text's tokens, rounded up: [CLS] and the highest scores, then the earliest."""
    counts = (share * real.sum(-1, keepdim=True).double() - _SLACK).ceil().clamp(min=1)
    return highest(scores, real, counts)


def schedule(text: str) -> list[tuple[float, Placement]]:
    """Shares and where they hold, from a text such as `0.5 @ 2; 0.8 @ 4-`."""
    found = []
    for step in text.split(";"):
        number, at, where = step.partition("@")
        try:
            share = float(number)
        except ValueError:
            share = 0.0
        if not 0 < share <= 1:
            raise InputError(f"keep={shown(text)}: write a share above 0 and up to 1, as in 0.8 or 0.5 @ 2")
        found.append((share, Placement(where.strip() if at else "all")))
    return found
