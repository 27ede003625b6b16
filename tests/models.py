"""Tiny random models of every architecture that can be sparsified."""

from __future__ import annotations

import torch
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedModel

from sparsebert.models.architectures import ARCHITECTURES

_SIZE = dict(vocab_size=50, hidden_size=16, num_hidden_layers=4, num_attention_heads=2, intermediate_size=24)
_OWN = {  # what an architecture needs beside: tiny, and with all that is special about it
    "albert": dict(embedding_size=8, pad_token_id=0),
    "distilbert": dict(hidden_dim=24),
    "electra": dict(embedding_size=8),
    "modernbert": dict(pad_token_id=0, local_attention=6, global_attn_every_n_layers=2),
    "roberta": dict(pad_token_id=0),
    "xlm-roberta": dict(pad_token_id=0),
}
CONFIGS = {kind: AutoConfig.for_model(kind, **_SIZE | _OWN.get(kind, {})) for kind in sorted(ARCHITECTURES)}


def tiny_model(kind: str, seed: int = 0, **config: object) -> PreTrainedModel:
    """A random float64 classifier of 4 layers and 2 heads, so that comparisons are exact to rounding."""
    torch.manual_seed(seed)
    config = type(CONFIGS[kind]).from_dict(CONFIGS[kind].to_dict() | config)
    config.num_labels = 3
    model = AutoModelForSequenceClassification.from_config(config, dtype=torch.float64)
    with (
        torch.no_grad()
    ):  # weights as small as a new model's make attention nearly even, and masks hardly matter
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(10)
    return model.eval()


def tiny_batch(lengths: tuple[int, ...] = (9, 4, 7), seed: int = 0) -> dict[str, torch.Tensor]:
    """Token ids, padding mask and random words and heads, padded on the right."""
    generator = torch.Generator().manual_seed(seed)
    shape = (len(lengths), max(lengths))
    real = torch.arange(shape[1]) < torch.tensor(lengths)[:, None]
    word_ids = (torch.randint(0, 2, shape, generator=generator).cumsum(-1)).masked_fill(~real, -1)
    word_ids[:, 0] = -1
    heads = torch.randint(0, 8, shape, generator=generator)
    head_ids = heads.gather(1, word_ids.clamp(min=0)).masked_fill(word_ids < 0, -1)
    input_ids = torch.randint(3, 50, shape, generator=generator).masked_fill(~real, 0)
    return {"input_ids": input_ids, "attention_mask": real.long(), "word_ids": word_ids, "head_ids": head_ids}
