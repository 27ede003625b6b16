"""Dropout that a processor draws quickly.

On many processors torch draws one random number after the other, a 64-bit one for each value and with one
thread, which takes longer than most layers of a small encoder. Here four values share 64 bits.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


def kept(
    shape: Sequence[int],
    p: float,
    dtype: torch.dtype,
    device: torch.device | str = "cpu",
    generator: torch.Generator | None = None,
) -> Tensor:
    """Factors of dropout: 0 with probability `p`, else 1 / (1 - p), independent of each other.

    On a processor `p` is rounded to a multiple of 2⁻¹⁶, and the factors' mean is 1 for the rounded one.
    """
    if torch.device(device).type != "cpu" or not 0 < p < 1:
        drawn = torch.empty(shape, dtype=dtype, device=device).bernoulli_(1 - p, generator=generator)
        return drawn.div_(1 - p) if p < 1 else drawn
    count = torch.Size(shape).numel()
    drawn = torch.empty(-(-count // 4), dtype=torch.int64)
    drawn.random_(-(2**63), None, generator=generator)  # all 64 bits
    values = drawn.view(torch.int16)[:count].view(shape)
    dropped = min(round(p * 2**16), 2**16 - 1)
    return (values >= dropped - 2**15).to(dtype).mul_(1 / (1 - dropped / 2**16))


class Dropout(nn.Dropout):
    """`nn.Dropout` with factors from `kept`, on a processor."""

    def forward(self, values: Tensor) -> Tensor:
        if not self.training or self.p == 0 or values.device.type != "cpu":
            return super().forward(values)
        return values * kept(values.shape, self.p, values.dtype)


def speed_up_dropout(model: nn.Module) -> None:
    """Put `Dropout` in the place of each `nn.Dropout` of a model; its weights and settings stay."""
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if type(child) is nn.Dropout:
                setattr(parent, name, Dropout(child.p, child.inplace).train(child.training))
