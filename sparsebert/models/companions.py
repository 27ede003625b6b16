"""What is attached to an encoder and trained with it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import kl_div, mse_loss

Logits = Float[Tensor, "batch label"]


class Companion(nn.Module):
    """A part of a model that its own code knows nothing of: learned degrees, or a reduction.

    As a child of the model it is moved, kept in checkpoints and trained with it.
    """

    def advance(self, done: float) -> None:
        """Called before the first step and after each, with the share of the training that is over."""

    def groups(self) -> list[dict[str, Any]]:
        """Its parameters with their learning rates, as an optimizer takes them."""
        return []

    def added_loss(self, logits: Logits, again: Callable[..., Logits]) -> Float[Tensor, ""] | float:
        """What a training step pays beside the loss of its labels.

        `logits` are those of the step, and `again()` computes them anew; `again(call)` takes those that
        `call` gives to the same inputs.
        """
        return 0.0


def companions_of(model: nn.Module) -> list[Companion]:
    """The companions that a model has."""
    return [child for child in model.children() if isinstance(child, Companion)]


def apart(logits: Logits, teacher: Logits) -> Float[Tensor, ""]:
    """KL divergence of logits from a teacher's, which get no gradient; of numbers the squared error."""
    teacher = teacher.detach()
    if logits.shape[-1] == 1:
        return mse_loss(logits, teacher)
    return kl_div(logits.log_softmax(-1), teacher.log_softmax(-1), log_target=True, reduction="batchmean")
