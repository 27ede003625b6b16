"""What the heads of an encoder look at before it is fine-tuned.

Clark et al. (2019) looked at heads of BERT in this way; here only what chapter 05 asks about.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from sparsebert.batches import Collator, Rows
from sparsebert.encoders import load_classifier, load_tokenizer
from sparsebert.errors import InputError


@torch.no_grad()
def attention_to_copies(encoder: str, rows: Dataset, batch_size: int = 32) -> Float[Tensor, "layer head"]:
    """How much of its attention a token pays to its copies: the same token at other places of the sequence.

    The mean, in [0, 1], over the tokens of prepared `rows` that have a copy; special tokens are left out.
    Raises `InputError` if there is none, and for an encoder that is not found.
    """
    tokenizer = load_tokenizer(encoder)
    model = load_classifier(encoder, ["any"]).eval()
    model.set_attn_implementation("eager")  # the others don't give their attention away
    special = torch.tensor(tokenizer.all_special_ids)
    rows = rows if isinstance(rows, Rows) else Rows(rows)
    paid, tokens = torch.zeros(()), 0
    for inputs in DataLoader(rows, batch_size, collate_fn=Collator(tokenizer.pad_token_id)):
        ids = inputs["input_ids"]
        itself = torch.eye(ids.shape[1], dtype=torch.bool)
        copies = (ids[:, :, None] == ids[:, None, :]) & ~itself & ~torch.isin(ids, special)[:, :, None]
        taken = {name: inputs[name] for name in tokenizer.model_input_names if name in inputs}
        attentions = torch.stack(model(**taken, output_attentions=True).attentions)
        paid = paid + (attentions * copies[:, None]).sum((1, 3, 4))
        tokens += int(copies.any(-1).sum())
    if not tokens:
        raise InputError("no token stands twice in one of these rows; take longer texts, or pairs")
    return paid / tokens
