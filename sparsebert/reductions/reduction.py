"""What every reduction is: a way to let tokens leave between attention and feed-forward part."""

from __future__ import annotations

import re
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Shaped
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor
from torch.nn.functional import dropout as dropped
from transformers import PreTrainedModel

from sparsebert.errors import InputError, first_mistake, shown, unknown_name
from sparsebert.kernels import Kernel
from sparsebert.kernels.kernel import ByOffset, Heads
from sparsebert.models.architectures import Architecture, architecture_of
from sparsebert.models.companions import Companion
from sparsebert.models.sparsified import Pass
from sparsebert.registry import REDUCTIONS, Registry

Scores = Float[Tensor, "batch length"]

_TEXT = re.compile(r"\s*([A-Za-z_]\w*)\s*(?:\((.*)\))?\s*", re.DOTALL)
_QUERIES = 64  # whose scores are held at once where no gradient needs them


class ReductionSettings(BaseModel):
    """What can be asked of a reduction; each has a subclass with what can be asked of it alone."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    dense_share: float = Field(
        0.4, ge=0, lt=1, description="Share of the training steps before any token leaves"
    )


class Reduction(Companion):
    """A way to let tokens leave; `sparsebert.register` adds one of your own.

    It needs a `name`, its `Settings` and `leave`. Tokens leave within each text by itself: neither padding
    nor the other texts of a batch change who does. [CLS] always stays.
    """

    registry: ClassVar[Registry] = REDUCTIONS
    name: ClassVar[str]
    Settings: ClassVar[type[ReductionSettings]] = ReductionSettings
    attribute = "sparsebert_reduction"  # of the model that it is attached to

    def __init__(self, settings: ReductionSettings, architecture: Architecture):
        super().__init__()
        self.settings, self.layers = settings, architecture.layers
        self.register_buffer("done", torch.tensor(1.0))  # share of the training that is over

    def __str__(self) -> str:
        return text_of(self.name, self.settings)

    @classmethod
    def summary(cls) -> str:
        """The first paragraph of its docstring, on one line."""
        return " ".join((cls.__doc__ or "").split("\n\n")[0].split())

    # in a forward pass

    def begin(self, passing: Pass) -> None:
        """Called before the first layer."""

    def attend(self, layer: int, kernel: Kernel, *heads: Heads, **how: Any) -> Heads:
        """The output of a layer's attention."""
        return kernel(*heads, **how)

    def leave(
        self, layer: int, hidden: Float[Tensor, "batch length width"], passing: Pass
    ) -> Float[Tensor, "batch fewer width"]:
        """The hidden states that go into the feed-forward part of a layer; `passing.keep` takes some away."""
        return hidden

    # in training

    @property
    def waits(self) -> bool:
        """Whether it is too early in the training for any token to leave."""
        return self.training and bool(self.done < self.settings.dense_share)

    def advance(self, done: float) -> None:
        """Called after each step, with the share of the training that is over."""
        self.done.fill_(done)


def attend_and_score(
    kernel: Kernel,
    query: Heads,
    key: Heads,
    value: Heads,
    dropout: float = 0.0,
    scale: float | None = None,
    by_offset: ByOffset | None = None,
) -> tuple[Heads, Scores]:
    """The output of a layer's attention, and the attention that each token receives in it.

    That is the mean over heads and over the queries of the text: padding changes nothing. The scores of a
    text sum to 1.
    """
    context, layout = kernel.context, kernel.layout
    real = context.batch.real
    everything = layout is not None and layout.dense and context.window is None
    allowed = real[:, None, None, :] if everything else context.allowed
    masked = not everything or not bool(real.all())
    bias = context.pattern.bias(context.batch)
    query = query * (query.shape[-1] ** -0.5 if scale is None else scale)
    counts = real.to(query.dtype)[:, None, None, :]
    length, texts, queries = context.length, len(real), context.length
    if not torch.is_grad_enabled():  # few scores at a time, which stay in a processor's cache
        texts, queries = (1 if query.device.type == "cpu" else texts), _QUERIES
    output, received = torch.empty_like(query), query.new_zeros(real.shape)
    for text in slices(len(real), texts):
        keys, values = key[text].transpose(-1, -2), value[text]
        for part in slices(length, queries):
            scores = query[text, :, part] @ keys
            if bias is not None:
                scores = scores + _rows(bias, text, part)
            if masked:
                scores = scores.masked_fill(~_rows(allowed, text, part), torch.finfo(scores.dtype).min)
            weights = scores.softmax(-1)
            received[text] += (counts[text, ..., part] @ weights).sum((1, 2))
            output[text, :, part] = (dropped(weights, dropout) if dropout else weights) @ values
    return output, received / (query.shape[1] * real.sum(-1, keepdim=True))


def slices(length: int, step: int) -> list[slice]:
    """Slices of `step` that make up a length."""
    return [slice(start, start + step) for start in range(0, length, step)]


def _rows(
    table: Shaped[Tensor, "#batch #head #query key"], text: slice, part: slice
) -> Shaped[Tensor, "#text #head part key"]:
    table = table if len(table) == 1 else table[text]
    return table if table.shape[2] == 1 else table[:, :, part]


# ---- as text --------------------------------------------------------------------------------------


def reduction_text(text: str) -> str:
    """The canonical form of a reduction's text, such as `lat(keep=0.8)`.

    Raises `InputError` for one that can't be read, and `UnknownName` for a reduction that isn't registered.

    >>> reduction_text("lat( keep = 0.80 )")
    'lat(keep=0.8)'
    """
    return text_of(*_parsed(text))


def attach_reduction(model: PreTrainedModel, text: str) -> Reduction:
    """Give a model the reduction that a text stands for, so that its optimizer and its checkpoints hold it.

    Hand it on to `sparsify`, too. Raises `InputError` for an encoder that tokens can't leave, and as
    `reduction_text` does.
    """
    name, settings = _parsed(text)
    architecture = architecture_of(model)
    if not architecture.ends_of_attention:
        raise InputError(
            f"tokens can't leave a '{architecture.name}' encoder, whose positions or sums don't allow "
            "it; choose a BERT, RoBERTa, ELECTRA, ALBERT or DistilBERT, or leave --reduce out"
        )
    reduction = REDUCTIONS[name](settings, architecture).to(model.device)
    setattr(model, Reduction.attribute, reduction)
    return reduction


def text_of(name: str, settings: ReductionSettings) -> str:
    """The text that stands for a reduction with these settings."""
    said = [f"{field}={value}" for field, value in settings.model_dump(exclude_defaults=True).items()]
    return f"{name}({', '.join(said)})" if said else name


def _parsed(text: str) -> tuple[str, ReductionSettings]:
    match = _TEXT.fullmatch(text)
    if not match:
        raise InputError(f"'{shown(text)}' is no reduction; write one such as lat(keep=0.8)")
    name, said = match.groups()
    kind, given = REDUCTIONS[name], {}
    for part in (said or "").split(",") if (said or "").strip() else ():
        field, equals, value = (piece.strip() for piece in part.partition("="))
        if field not in kind.Settings.model_fields:
            raise unknown_name(f"setting of {name}", field, kind.Settings.model_fields)
        if not equals:
            raise InputError(f"{name}({shown(said)}): write {field}=, with its value")
        given[field] = value
    try:
        return name, kind.Settings(**given)
    except ValidationError as error:
        cause = error.errors()[0].get("ctx", {}).get("error")
        if isinstance(cause, InputError):
            raise cause from None
        raise InputError(f"{name}({shown(said)}): {first_mistake(error)}") from None
