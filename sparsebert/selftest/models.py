"""A tiny random model of every architecture, and its own attention masked by hand beside its plan."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForSequenceClassification, PretrainedConfig, PreTrainedModel

from sparsebert.degrees import DegreeConfig, LearnedDegrees
from sparsebert.models.architectures import ARCHITECTURES, architecture_of
from sparsebert.models.encoders import quiet
from sparsebert.models.sparsified import sparsify
from sparsebert.selftest.attention import worst
from sparsebert.selftest.checks import Check, Finding

LAYERS, HEADS = 4, 2
_SIZE = dict(vocab_size=50, hidden_size=16, num_hidden_layers=LAYERS, num_attention_heads=HEADS)
_SIZE |= dict(intermediate_size=24)
_OWN = {  # what an architecture needs beside: tiny, and with all that is special about it
    "albert": dict(embedding_size=8, pad_token_id=0),
    "distilbert": dict(hidden_dim=24),
    "electra": dict(embedding_size=8),
    "modernbert": dict(pad_token_id=0, local_attention=6, global_attn_every_n_layers=2),
    "roberta": dict(pad_token_id=0),
    "xlm-roberta": dict(pad_token_id=0),
}
_PLANS = (  # with the kernel, and with degrees to learn where they are soft or hard
    ("neighbour(1) | global(cls)", "banded", None),
    ("neighbour(2) | random(2) | global(cls)", "banded", None),
    ("syntax | global(cls) @ late", "auto", None),
    ("random(2, seed=3) @ early; lexical(2) - neighbour(1) | global(cls) @ 2-", "auto", None),
    ("learned | global(cls)", "auto", "soft"),
    ("learned | global(cls)", "banded", "hard"),
)

Named = dict[str, Tensor]


@cache
def tiny_config(kind: str) -> PretrainedConfig:
    """The config of a tiny model of an architecture, `kind` being its name."""
    with quiet():
        return AutoConfig.for_model(kind, **_SIZE | _OWN.get(kind, {}))


def tiny_model(kind: str, seed: int = 0, **config: object) -> PreTrainedModel:
    """A random float64 classifier of 4 layers and 2 heads, so that comparisons are exact to rounding."""
    torch.manual_seed(seed)
    with quiet():
        own = type(tiny_config(kind)).from_dict(tiny_config(kind).to_dict() | config)
        own.num_labels = 3
        model = AutoModelForSequenceClassification.from_config(own, dtype=torch.float64)
    with torch.no_grad():  # of weights as small as a new model's, attention is nearly even under any mask
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(10)
    return model.eval()


def tiny_batch(lengths: tuple[int, ...] = (9, 4, 7), seed: int = 0) -> Named:
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


class HandMasked:
    """The model's own attention with each layer's mask and weights written out, in the order of the calls."""

    def __init__(self, masks: Sequence[Tensor], added: Sequence[Tensor]):
        self.masks, self.added, self.calls = masks, added, 0

    def before_attention(self, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple:
        """A hook that adds to the mask that the encoder hands to a layer's attention."""
        given = inspect.signature(module.forward).bind_partial(*args, **kwargs)
        own = given.arguments.get("attention_mask")
        layer, self.calls = self.calls, self.calls + 1
        exist = self.masks[layer]
        if own is not None:  # 0 or True where the encoder allows a pair
            exist = exist & (own if own.dtype == torch.bool else own == 0)
        least = torch.finfo(torch.double).min
        given.arguments["attention_mask"] = self.added[layer].masked_fill(~exist, least)
        return given.args, given.kwargs


def outputs_and_gradients(model: PreTrainedModel, batch: Named) -> tuple[Tensor, Named]:
    model.zero_grad()
    logits = model(**batch).logits
    nn.functional.cross_entropy(logits, torch.tensor([0, 2, 1], device=logits.device)).backward()
    return logits.detach(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def computed_by_hand(
    by_hand: HandMasked, model: PreTrainedModel, batch: Named, run: Callable = outputs_and_gradients
) -> tuple[Tensor, Named]:
    modules = architecture_of(model).modules
    hooks = [m.register_forward_pre_hook(by_hand.before_attention, with_kwargs=True) for m in modules]
    results = run(model, {column: batch[column] for column in ("input_ids", "attention_mask")})
    for hook in hooks:
        hook.remove()
    assert by_hand.calls == LAYERS
    return results


# ---- the checks -----------------------------------------------------------------------------------


def model_checks(device: str) -> Iterator[Check]:
    """Every architecture that is registered."""
    for kind in sorted(ARCHITECTURES):
        yield Check("models", f"{kind}, as masked by hand", partial(_against_hand_masked, kind, device))


def _against_hand_masked(kind: str, device: str) -> Finding:
    """Output and gradients of the model and of learned degrees, under each of the plans."""
    findings = []
    for plan, kernel, degrees in _PLANS:
        model = tiny_model(kind).to(device)
        batch = {name: column.to(device) for name, column in tiny_batch().items()}
        learner = _learner(degrees == "hard").to(device) if degrees else None
        with sparsify(model, plan, learner, kernel) as sparse:
            found = _with_degrees(outputs_and_gradients(model, batch), learner)
            columns, patterns = sparse.batch_of(batch), sparse.patterns
        if learner:
            learner.prepare(columns)
        shape = (len(columns.real), HEADS, *2 * columns.real.shape[1:])
        none = torch.zeros((), dtype=torch.float64, device=device)
        biases = [pattern.bias(columns) for pattern in patterns]
        by_hand = HandMasked(
            [pattern.allowed(columns).expand(shape) for pattern in patterns],
            [(none if bias is None else bias).expand(shape) for bias in biases],
        )
        exact = _with_degrees(computed_by_hand(by_hand, model, batch), learner)
        # Gradients that are zero but for rounding are compared with the others, not with themselves.
        largest = max(tensor.norm() for tensor in exact.values())
        for name, tensor in exact.items():
            apart = (found[name] - tensor).norm() / tensor.norm().clamp(min=1e-3 * largest)
            says = f"{name} under {f'{degrees} ' if degrees else ''}{plan}, {kernel}"
            findings.append(Finding(apart.item(), 1e-8, says))
    return worst(findings)


def _learner(is_hard: bool) -> LearnedDegrees:
    torch.manual_seed(1)
    learner = LearnedDegrees(DegreeConfig(max_distance=3), list(range(LAYERS)), LAYERS, HEADS).double()
    nn.init.normal_(learner.theta)
    if is_hard:
        kept = torch.rand(learner.kept.shape).round(decimals=1)
        kept[..., 0] = 1
        learner.harden(kept, torch.randn(kept.shape))
    return learner


def _with_degrees(results: tuple[Tensor, Named], learner: LearnedDegrees | None) -> Named:
    """Output and gradients by name, those of degrees among them, which are forgotten."""
    tensors = {"logits": results[0], **results[1]}
    for name, parameter in learner.named_parameters() if learner else ():
        if parameter.grad is not None:
            tensors[f"degrees.{name}"], parameter.grad = parameter.grad, None
    return tensors
