"""What a pattern may look at (padding, words, parses, embeddings), and the collator that makes it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence


@dataclass(frozen=True)
class Batch:
    """The side of a batch that attention patterns read.

    `real` is True where a token is not padding. `word_ids` gives the word that a piece belongs to, counted
    over the whole sequence, and `head_ids` the word that is that word's syntactic head (a root is its own
    head); both are -1 for special tokens and padding. `embeddings` are the encoder's input embeddings.
    """

    real: Bool[Tensor, "batch length"]
    word_ids: Int[Tensor, "batch length"] | None = None
    head_ids: Int[Tensor, "batch length"] | None = None
    embeddings: Float[Tensor, "batch length width"] | None = None

    @classmethod
    def of_lengths(cls, lengths: Sequence[int], **columns: Tensor) -> Batch:
        """A batch of sequences of these lengths, padded on the right to the longest."""
        real = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
        return cls(real, **columns)

    @cached_property
    def positions(self) -> Int[Tensor, "batch length"]:
        """Position of each token among the real tokens of its sequence; meaningless for padding."""
        return self.real.long().cumsum(-1) - 1

    @cached_property
    def distances(self) -> Int[Tensor, "#batch query key"]:
        """How far apart two tokens stand; meaningless for padding. Rows without gaps share one table."""
        starts = self.real[:, 0].int() + (self.real[:, 1:] & ~self.real[:, :-1]).sum(-1)
        if (starts <= 1).all():
            place = torch.arange(self.real.shape[1], device=self.real.device)[None]
        else:
            place = self.positions
        return (place[:, :, None] - place[:, None, :]).abs()

    @cached_property
    def pairs(self) -> Bool[Tensor, "batch 1 query key"]:
        """True for pairs of two real tokens."""
        return (self.real[:, :, None] & self.real[:, None, :])[:, None]


class Collator:
    """Rows of prepared data -> one batch of tensors, padded on the right to its longest row.

    Columns with `_ids` for words and heads are padded with -1, the tokenizer's own columns with its padding
    token, 0 and 0; `label` becomes `labels`; columns that no model takes (`length`) are left out.
    """

    def __init__(self, pad_token_id: int):
        self.padding = {
            "input_ids": pad_token_id,
            "attention_mask": 0,
            "token_type_ids": 0,
            "word_ids": -1,
            "head_ids": -1,
        }

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        batch = {
            column: pad_sequence([torch.as_tensor(row[column]) for row in rows], True, padding)
            for column, padding in self.padding.items()
            if column in rows[0]
        }
        if "label" in rows[0]:
            batch["labels"] = torch.tensor([row["label"] for row in rows])
        return batch
