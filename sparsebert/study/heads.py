"""What the heads of an encoder look at before it is fine-tuned."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import DataLoader

from sparsebert.data.rows import Collator, Rows
from sparsebert.errors import InputError
from sparsebert.models.architectures import architecture_of
from sparsebert.models.encoders import columns_of, load_classifier, load_tokenizer


class Looks(NamedTuple):
    """Shares of attention, in [0, 1], and how many tokens they are means over."""

    shares: Float[Tensor, "layer head"]
    tokens: int


@torch.no_grad()
def attention_to_copies(encoder: str, rows: Rows, batch_size: int = 32) -> Looks:
    """How much of its attention a token of a pair of texts pays to its copies, the same token in the other.

    The mean over the tokens of prepared `rows` that have a copy; special tokens are left out. Raises
    `InputError` if there is none, and for an encoder that is not found.
    """
    tokenizer = load_tokenizer(encoder)
    model = load_classifier(encoder, ["any"], length=max(rows.lengths)).eval()
    architecture_of(model).detach("eager")  # other implementations don't give their attention away
    special = torch.tensor(tokenizer.all_special_ids)
    paid, tokens = torch.zeros(()), 0
    columns = columns_of(model)
    for inputs in DataLoader(rows, batch_size, collate_fn=Collator(tokenizer.pad_token_id)):
        ids = inputs["input_ids"]
        text = (ids == tokenizer.sep_token_id).cumsum(-1)  # the second begins behind the first separator
        copies = (ids[:, :, None] == ids[:, None, :]) & (text[:, :, None] != text[:, None, :])
        copies &= ~torch.isin(ids, special)[:, :, None]
        taken = {name: inputs[name] for name in columns if name in inputs}
        attentions = model(**taken, output_attentions=True).attentions
        paid = paid + torch.stack([(layer * copies[:, None]).sum((0, 2, 3)) for layer in attentions])
        tokens += int(copies.any(-1).sum())
    if not tokens:
        raise InputError("no token stands in both texts of one of these rows; take rows of pairs of texts")
    return Looks(paid / tokens, tokens)
