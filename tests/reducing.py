"""What tests of reductions share: tiny texts, a reduction of a tiny model, slopes by finite differences."""

from __future__ import annotations

import torch
from models import tiny_batch
from torch import nn

from sparsebert.reductions import attach_reduction

LENGTHS = (9, 4, 7)
KINDS = ("bert", "distilbert", "albert", "roberta", "electra", "xlm-roberta")  # whose tokens can leave


def reduced(model, text, training=False):
    return attach_reduction(model, text).double().train(training)


def columns(lengths=LENGTHS):
    batch = tiny_batch(lengths)
    return {name: batch[name] for name in ("input_ids", "attention_mask")}


def logits_only(model, batch):
    with torch.no_grad():
        return model(**batch).logits, {}


def loss_of(model, batch, reduction, again):
    """That of a training step; `again` takes its logits."""
    logits = model(**batch).logits
    own = nn.functional.cross_entropy(logits, torch.tensor([0, 2, 1]))
    return own + reduction.added_loss(logits, lambda: again(logits))


def gradient_and_slopes(parameter, loss, step=1e-6):
    """The gradient of `loss()` for a parameter, and its slopes by finite differences."""
    start, slopes = parameter.detach().clone(), torch.zeros_like(parameter)
    loss().backward()
    with torch.no_grad():
        for place in range(len(start)):
            ends = []
            for side in (step, -step):
                parameter.copy_(start)
                parameter[place] += side
                ends.append(loss())
            slopes[place] = (ends[0] - ends[1]) / (2 * step)
        parameter.copy_(start)
    return parameter.grad, slopes
