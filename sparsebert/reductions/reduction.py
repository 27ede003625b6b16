"""What every reduction is: a way to let tokens leave between attention and feed-forward part."""

from __future__ import annotations

import re
from typing import Any, ClassVar, NamedTuple

import torch
from jaxtyping import Bool, Float, Int, Shaped
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor, take_along_dim
from torch.nn.functional import dropout as dropped
from transformers import PreTrainedModel

from sparsebert.errors import InputError, first_mistake, first_refusal, shown, unknown_name
from sparsebert.kernels import Kernel
from sparsebert.kernels.kernel import Heads
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
    nor the other texts of a batch change who does. [CLS] always stays. The first paragraph of its docstring
    stands in lists. Chapter 10 explains it.
    """

    registry: ClassVar[Registry] = REDUCTIONS
    name: ClassVar[str]
    Settings: ClassVar[type[ReductionSettings]] = ReductionSettings
    attribute = "sparsebert_reduction"  # of the model that it is attached to
    skipped: int | None = None  # a layer without attention: what comes into it goes to `leave` as it is

    def __init__(self, settings: ReductionSettings, architecture: Architecture):
        super().__init__()
        self.settings, self.layers = settings, architecture.layers
        self.register_buffer("done", torch.tensor(1.0))  # share of the training that is over

    def __str__(self) -> str:
        return text_of(self.name, self.settings)

    # in a forward pass

    def begin(self, passing: Pass) -> None:
        """Called before the first layer."""

    def attend(self, layer: int, kernel: Kernel, *heads: Heads, **how: Any) -> Heads:
        """The output of a layer's attention."""
        return kernel(*heads, **how)

    def pairs(self, kernel: Kernel) -> float:
        """The pairs of real tokens in the attention that was computed last, averaged over heads."""
        return kernel.count

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
        """Called before the first step and after each, with the share of the training that is over."""
        self.done.fill_(done)


def attend_and_score(
    kernel: Kernel,
    query: Heads,
    key: Heads,
    value: Heads,
    dropout: float = 0.0,
    scale: float | None = None,
    by_offset: None = None,  # no encoder that tokens can leave has any
    keys: Keys | None = None,
) -> tuple[Heads, Float[Tensor, "batch key"]]:
    """The output of a layer's attention, and the attention that each token receives in it.

    That is the mean over heads and over the queries of the text: padding changes nothing. The scores of a
    text sum to 1. With `keys` those alone are attended to, and scores are theirs.
    """
    real = kernel.context.batch.real
    weigh = Weights(kernel, query, key, scale, keys)
    if keys is not None:
        value = take_along_dim(value, keys.places[:, None, :, None], 2)
    counts = real.to(query.dtype)[:, None, None, :]
    length, texts, queries = real.shape[1], len(real), real.shape[1]
    if not torch.is_grad_enabled():  # few scores at a time, which stay in a processor's cache
        texts, queries = (1 if query.device.type == "cpu" else texts), _QUERIES
    output, precise = torch.empty_like(query), torch.promote_types(query.dtype, torch.float32)
    received = query.new_zeros(len(real), value.shape[2], dtype=precise)
    for text in slices(len(real), texts):
        for part in slices(length, queries):
            weights = weigh(text, part)
            received[text] += (counts[text, ..., part] @ weights).sum((1, 2), dtype=precise)
            output[text, :, part] = (dropped(weights, dropout) if dropout else weights) @ value[text]
    return output, received / (query.shape[1] * real.sum(-1, keepdim=True))


class Keys(NamedTuple):
    """The tokens that are left as keys, the first token before all others, padded on the right."""

    places: Int[Tensor, "batch key"]
    real: Bool[Tensor, "batch key"]


class Weights:
    """The attention weights of a layer, for some texts and queries at a time."""

    def __init__(
        self, kernel: Kernel, query: Heads, key: Heads, scale: float | None = None, keys: Keys | None = None
    ):
        context = kernel.context
        real = context.batch.real if keys is None else keys.real
        self.allowed = pairs_with(kernel, keys)
        self.masked = self.allowed.shape[2] > 1 or not bool(real.all())
        self.bias = context.pattern.bias(context.batch)
        self.query = query * (query.shape[-1] ** -0.5 if scale is None else scale)
        if keys is not None:
            key = take_along_dim(key, keys.places[:, None, :, None], 2)
            if self.bias is not None:
                self.bias = take_along_dim(self.bias, keys.places[:, None, None, :], 3)
        self.key = key.transpose(-1, -2)

    def __call__(self, text: slice, part: slice) -> Float[Tensor, "text head part key"]:
        scores = self.query[text, :, part] @ self.key[text]
        if self.bias is not None:
            scores = scores + _rows(self.bias, text, part)
        if self.masked:
            scores = scores.masked_fill(~_rows(self.allowed, text, part), torch.finfo(scores.dtype).min)
        return scores.softmax(-1)


def pairs_with(kernel: Kernel, keys: Keys | None = None) -> Bool[Tensor, "#batch #head #query key"]:
    """The pairs that a layer allows. With `keys` the first is every query's, so that none is without any."""
    context, layout = kernel.context, kernel.layout
    real = (context.batch.real if keys is None else keys.real)[:, None, None, :]
    if layout is not None and layout.has_all(context.length):
        return real
    if keys is None:
        return context.allowed
    allowed = take_along_dim(context.allowed, keys.places[:, None, None, :], 3)
    return (allowed | (torch.arange(real.shape[-1], device=real.device) == 0)) & real


def slices(length: int, step: int) -> list[slice]:
    """Slices of `step` that make up a length."""
    return [slice(start, start + step) for start in range(0, length, step)]


def _rows(
    table: Shaped[Tensor, "#batch #head #query key"], text: slice, part: slice
) -> Shaped[Tensor, "#text #head part key"]:
    table = table if len(table) == 1 else table[text]
    return table if table.shape[2] == 1 else table[:, :, part]


def cls_first(scores: Scores) -> Scores:
    """The scores with that of [CLS] above all, since it always stays."""
    return torch.cat([torch.full_like(scores[:, :1], torch.inf), scores[:, 1:]], 1)


def highest(
    scores: Scores, real: Bool[Tensor, "batch length"], counts: Shaped[Tensor, "batch 1"]
) -> Bool[Tensor, "batch length"]:
    """So many tokens of each text: the first one and the highest scores, then the earliest."""
    scores = scores.masked_fill(~real, -torch.inf)
    ranks = cls_first(scores).argsort(dim=-1, descending=True, stable=True).argsort(-1)
    return (ranks < counts) & real


# ---- as text --------------------------------------------------------------------------------------


def reduction_text(text: str) -> str:
    """The canonical form of a reduction's text, such as `lat(keep=0.8)`.

    Raises `InputError` for one that can't be read, and `UnknownName` for a reduction that isn't registered.

    >>> reduction_text("lat( keep = 0.70 )")
    'lat(keep=0.7)'
    """
    return text_of(*_parsed(text))


def reduction_name(text: str) -> str:
    """The name of the reduction in a canonical text."""
    return text.partition("(")[0]


def attach_reduction(model: PreTrainedModel, text: str) -> Reduction:
    """Give a model the reduction that a text stands for, so that its optimizer and its checkpoints hold it.

    Hand it on to `sparsify`, too. Raises `InputError` for an encoder that tokens can't leave, and for a text
    that can't be read. Chapter 10 explains it.
    """
    name, settings = _parsed(text)
    architecture = architecture_of(model)
    if not architecture.ends_of_attention or architecture.by_offset(1) is not None:
        raise InputError(
            f"tokens can't leave a '{architecture.name}' encoder, whose positions or sums don't allow "
            "it; choose another encoder, such as minilm, or leave --reduce out"
        )
    reduction = REDUCTIONS[name](settings, architecture).to(model.device).train(model.training)
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
        first_refusal(error)
        raise InputError(f"{name}({shown(said)}): {first_mistake(error)}") from None
