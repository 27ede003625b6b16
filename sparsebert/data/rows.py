"""Prepared rows, and the collator that makes batches of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor
from torch.utils.data import Dataset

# Columns of prepared data that have a value for each token, and what they are padded with.
_PADDING = {"input_ids": 0, "attention_mask": 0, "token_type_ids": 0}
_PADDING |= {"word_ids": -1, "head_ids": -1, "tags": -1}


class Rows(Dataset):
    """Prepared data as plain arrays, so that a row costs some slices.

    A row is a dictionary of the columns that a `Collator` takes; `lengths` says how many tokens each has.
    Where words are labelled there is no `label` but a column `tags`, -1 at tokens that have none.
    """

    def __init__(
        self,
        lengths: Int[np.ndarray, " rows"],
        tokens: dict[str, Int[np.ndarray, " tokens"]],
        label: list[int] | list[float] | None = None,
    ):
        """Rows of these lengths, whose tokens stand one after the other in each of the columns."""
        self.label, self.ends, self.tokens = label, np.cumsum(lengths), tokens

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: int) -> dict[str, Any]:
        place = slice(self.ends[index - 1] if index else 0, self.ends[index])
        row = {name: values[place] for name, values in self.tokens.items()}
        return row if self.label is None else row | {"label": self.label[index]}

    @property
    def lengths(self) -> list[int]:
        """Tokens of each row."""
        return np.diff(self.ends, prepend=0).tolist()

    def select(self, rows: Sequence[int] | Int[np.ndarray, " chosen"]) -> Rows:
        """Some of the rows, in this order."""
        lengths = np.diff(self.ends, prepend=0)[rows]
        shift = self.ends[rows] - lengths.cumsum()  # from where a row's tokens will stand to where they do
        places = np.repeat(shift, lengths) + np.arange(lengths.sum())
        label = None if self.label is None else [self.label[row] for row in rows]
        return Rows(lengths, {name: values[places] for name, values in self.tokens.items()}, label)


class Collator:
    """Rows of prepared data -> one batch of tensors, padded on the right to its longest row.

    Columns with `_ids` for words and heads are padded with -1, the tokenizer's own columns with its padding
    token, 0 and 0; `label` or `tags` become `labels`.
    """

    def __init__(self, pad_token_id: int, token_types: bool = True):
        self.padding = _PADDING | {"input_ids": pad_token_id}
        if not token_types:  # which some tokenizers give and the model has no use for
            del self.padding["token_type_ids"]

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        length = max(len(row["input_ids"]) for row in rows)
        batch = {}
        for column, padding in self.padding.items():
            if column in rows[0]:
                padded = np.full((len(rows), length), padding)
                for place, row in zip(padded, rows, strict=True):
                    place[: len(row[column])] = row[column]
                batch[column] = torch.from_numpy(padded)
        if "label" in rows[0]:
            batch["labels"] = torch.tensor([row["label"] for row in rows])
        if (tags := batch.pop("tags", None)) is not None:
            batch["labels"] = tags.masked_fill(tags < 0, -100)  # which the models' losses leave out
        return batch
