"""What a pattern may look at: padding, words, parses, embeddings, queries and keys."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sparsebert.errors import InputError

KINDS = ("cls", "first", "second")  # of tokens: the first one, the rest of the first text, the second text
OF_A_LAYER = frozenset({"queries", "keys"})  # fields of `Batch`


@dataclass(frozen=True)
class Batch:
    """The side of a batch that attention patterns read.

    `real` is True where a token is not padding. `word_ids` gives the word that a piece belongs to, counted
    over the whole sequence, and `head_ids` the word that is that word's syntactic head (a root is its own
    head); both are -1 for special tokens and padding. `embeddings` are the encoder's input embeddings.
    `second` is the number of tokens before the second text; all, where there is none. `queries` and `keys`
    belong to one layer, and its attention alone has them. Chapter 01 explains it.
    """

    real: Bool[Tensor, "batch length"]
    word_ids: Int[Tensor, "batch length"] | None = None
    head_ids: Int[Tensor, "batch length"] | None = None
    embeddings: Float[Tensor, "batch length width"] | None = None
    second: Int[Tensor, " batch"] | None = None
    queries: Float[Tensor, "batch head length size"] | None = None
    keys: Float[Tensor, "batch head length size"] | None = None

    @classmethod
    def of_lengths(cls, lengths: Sequence[int], **columns: Tensor) -> Batch:
        """A batch of sequences of these lengths, padded on the right to the longest."""
        real = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
        return cls(real, **columns)

    def keep(self, kept: Bool[Tensor, "batch length"]) -> tuple[Batch, Int[Tensor, "batch fewer"]]:
        """The batch of these real tokens, which move up in their order; and the places where they stood."""
        places = (~kept).to(torch.uint8).argsort(dim=-1, stable=True)[:, : int(kept.sum(-1).max())]

        def chosen(column: Tensor | None) -> Tensor | None:
            if column is None or column.ndim < 3:
                return column if column is None else column.gather(1, places)
            return column.gather(1, places[..., None].expand(-1, -1, column.shape[-1]))

        second = self.second
        if second is not None:
            second = (kept & (self.positions < second[:, None])).sum(-1)
        columns = map(chosen, (kept, self.word_ids, self.head_ids, self.embeddings))
        return Batch(*columns, second), places

    def like_first(self, real: Bool[Tensor, "batch other"]) -> Batch:
        """A batch of one text a row, whose tokens all have the word and embedding of the first one here."""

        def first(column: Tensor | None) -> Tensor | None:
            return None if column is None else column[:, :1].repeat_interleave(real.shape[1], 1)

        columns = map(first, (self.word_ids, self.head_ids, self.embeddings))
        return Batch(real, *columns, None if self.second is None else real.sum(-1))

    @cached_property
    def positions(self) -> Int[Tensor, "batch length"]:
        """Position of each token among the real tokens of its sequence; meaningless for padding."""
        return self.real.long().cumsum(-1) - 1

    @cached_property
    def kinds(self) -> Int[Tensor, "batch length"]:
        """The kind of each token, by its place in `KINDS`; meaningless for padding."""
        return (self.positions > 0) * (1 + (self.positions >= self.second[:, None]).long())

    @cached_property
    def gapless(self) -> bool:
        """Whether no row has padding between its tokens."""
        starts = self.real[:, 0].int() + (self.real[:, 1:] & ~self.real[:, :-1]).sum(-1)
        return bool((starts <= 1).all())

    @cached_property
    def distances(self) -> Int[Tensor, "#batch query key"]:
        """How far apart two tokens stand; meaningless for padding. Rows without gaps share one table."""
        if self.gapless:
            place = torch.arange(self.real.shape[1], device=self.real.device)[None]
        else:
            place = self.positions
        return (place[:, :, None] - place[:, None, :]).abs()

    @property
    def itself(self) -> Bool[Tensor, "query key"]:
        """True for pairs of a token with itself."""
        return torch.eye(self.real.shape[1], dtype=torch.bool, device=self.real.device)

    @cached_property
    def pairs(self) -> Bool[Tensor, "batch 1 query key"]:
        """True for pairs of two real tokens."""
        return (self.real[:, :, None] & self.real[:, None, :])[:, None]


def tokens_before_second(
    real: Bool[Tensor, "batch length"],
    input_ids: Int[Tensor, "batch length"] | None,
    token_type_ids: Int[Tensor, "batch length"] | None = None,
) -> Int[Tensor, " batch"]:
    """How many tokens stand before the second text of each row, padding left out: `second` of a `Batch`.

    The second text begins at the first token of type 1. In a row that has none it begins behind the first
    separator, which is the token that the row ends in; a row with no other separator is one text. Raises
    `InputError` where neither says it.
    """
    count, place = real.sum(-1), real.long().cumsum(-1) - 1

    def before(chosen: Bool[Tensor, "batch length"]) -> Int[Tensor, " batch"]:
        return torch.where(chosen & real, place, count[:, None]).amin(-1)

    types = torch.zeros_like(real) if token_type_ids is None else (token_type_ids > 0) & real
    typed = types.any(-1)
    if input_ids is None and token_type_ids is None:
        raise InputError(_UNTOLD.format("it has no input_ids"))
    if input_ids is None:
        return before(types)
    ends = input_ids.gather(1, (real * place).argmax(-1, keepdim=True))
    if ends[real.any(-1) & ~typed].unique().numel() > 1:
        raise InputError(_UNTOLD.format("its rows don't all end in the same token, a separator"))
    behind = torch.minimum(before(input_ids == ends) + 1, count)
    return torch.where(typed, before(types), behind)


_UNTOLD = (
    "the batch doesn't say where a second text begins, since {}; give token_type_ids that are 1 from there "
    "on, or input_ids as a tokenizer makes them from two texts"
)
