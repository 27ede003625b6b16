"""What every kernel is, and the choice of one for a layer's pattern and a batch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from sparsebert.errors import InputError, check_names
from sparsebert.patterns import Dense, Pattern
from sparsebert.patterns.batches import Batch
from sparsebert.patterns.layouts import Layout
from sparsebert.registry import KERNELS, Registry

Heads = Float[Tensor, "batch head length width"]
ByOffset = Float[Tensor, "head offset"]
_EASIEST = Batch.of_lengths([1])


@dataclass(frozen=True, eq=False)
class Context:
    """Where a pattern's attention is computed: one batch, and what the layer's calls will ask for."""

    pattern: Pattern
    batch: Batch
    heads: int
    dropout: float = 0.0
    gradient: bool = False
    window: int | None = None  # how far the encoder itself lets tokens see at this layer

    @property
    def length(self) -> int:
        return self.batch.real.shape[1]

    @property
    def device(self) -> torch.device:
        return self.batch.real.device

    @cached_property
    def allowed(self) -> Tensor:
        """The pairs as a mask, of shape [batch, 1 or heads, length, length]."""
        with torch.no_grad():
            allowed = self.pattern.allowed(self.batch)
            if self.window is None:
                return allowed
            place = torch.arange(self.length, device=self.device)
            return allowed & ((place - place[:, None]).abs() <= self.window)


class Kernel(ABC):
    """One way to compute attention over a pattern's pairs; an instance is prepared for one batch.

    A kernel of your own is a class with a `name`, registered by `sparsebert.register`: then it can be asked
    for by that name, and `auto` takes it where it `supports` what is wanted at the lowest `cost`.
    """

    registry: ClassVar[Registry] = KERNELS
    name: str

    @classmethod
    def supports(cls, layout: Layout | None, context: Context) -> str | None:
        """Why this kernel can't compute these pairs here, as a clause that follows "since"; None if it can.

        `layout` is None for patterns that are not made of a band, global tokens and random keys.
        """
        return None

    @classmethod
    @abstractmethod
    def cost(cls, layout: Layout | None, context: Context) -> float:
        """About how long a head takes for one sequence, in scores of dense attention; dense: length²."""

    def __init__(self, layout: Layout | None, context: Context):
        """Make what it needs for this batch, such as masks."""
        self.layout, self.context = layout, context

    @abstractmethod
    def __call__(
        self,
        query: Heads,
        key: Heads,
        value: Heads,
        dropout: float = 0.0,
        scale: float | None = None,
        by_offset: ByOffset | None = None,
    ) -> Heads:
        """The attention's output; what padding queries get has no meaning.

        `by_offset` [heads, 2D + 1] is added to the scores: entry D + o to those of keys that stand o places
        behind their query, the first and the last entry also where they are more than D apart.
        """

    @cached_property
    def count(self) -> float:
        """Allowed pairs of real tokens, averaged over heads."""
        if self.layout is not None and self.context.batch.gapless:
            return self.layout.count(self.context.batch, self.context.heads)
        return self.context.allowed.sum().item() / self.context.allowed.shape[1]


def kernel_for(
    pattern: Pattern,
    batch: Batch,
    heads: int,
    kernel: str = "auto",
    dropout: float = 0.0,
    gradient: bool = False,
    window: int | None = None,
) -> Kernel:
    """The kernel for one layer's pattern and one batch, with its masks.

    `auto` takes the fastest kernel, by pattern, length and device; `dropout` and `gradient` say whether there
    will be any. `window` is how far the encoder itself lets tokens see at this layer, on each side. All
    kernels give the same result, that of `reference`. Raises `InputError` if a kernel is asked for that can't
    compute the pattern here.
    """
    if window is not None and window >= batch.real.shape[1] - 1:
        window = None
    context = Context(pattern, batch, heads, dropout, gradient, window)
    layout = pattern.layout()
    dense = layout is not None and layout.dense and window is None
    if layout is not None:
        layout = layout.up_to(context.length - 1) if window is None else layout.within(window)
    _check(kernel, layout, context, dense)
    if layout is not None and layout.by_kind:
        pattern.check_columns(batch)
    if kernel in KERNELS and not dense:
        return KERNELS[kernel](layout, context)
    # A plan's dense layers are computed as fast as can be, whatever kernel is asked for.
    able = [kind for kind in KERNELS.values() if kind.supports(layout, context) is None]
    return min(able, key=lambda kind: kind.cost(layout, context))(layout, context)


def check_kernel(kernel: str, pattern: Pattern) -> None:
    """`InputError` if there is no such kernel, or if it never computes such a pattern and that is not dense.

    Degrees that are learned have no layout yet and may get one.
    """
    soft = any(part.changes for part in pattern.walk())
    layout = Layout() if soft else pattern.layout()
    _check(kernel, layout, Context(pattern, _EASIEST, 1), layout is not None and layout.dense)


def needs_band(kernel: str) -> bool:
    """Whether a kernel computes bands, global tokens and random keys only; `auto` computes anything."""
    return kernel in KERNELS and bool(KERNELS[kernel].supports(None, Context(Dense(), _EASIEST, 1)))


def kernel_names() -> tuple[str, ...]:
    """What can be asked for: `auto` or a kernel."""
    return "auto", *KERNELS


def needs_layout(layout: Layout | None, context: Context) -> str | None:
    """`supports` of a kernel that builds no mask."""
    if layout is None:
        return f"'{context.pattern}' is not made of a band, global tokens and random keys alone"
    if layout.by_kind:
        return f"in '{context.pattern}' kinds of tokens decide about pairs"
    return None if context.batch.gapless else "a row has padding between its tokens"


def _check(name: str, layout: Layout | None, context: Context, dense: bool) -> None:
    check_names("kernel", [name], kernel_names())
    reason = KERNELS[name].supports(layout, context) if name in KERNELS and not dense else None
    if reason:
        raise InputError(f"kernel={name} can't be used here, since {reason}; write kernel=auto")
