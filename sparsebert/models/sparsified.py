"""The plug into transformers: `sparsify(model, plan)` and the density that is measured while it is in.

One hook on the encoder reads each batch, prepares a kernel for every pattern of the plan once and hands them
down as a keyword argument; one attention function, registered with transformers' AttentionInterface, calls
them layer by layer. Kernels of a length are kept where they depend on nothing else.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel
from transformers.masking_utils import AttentionMaskInterface, bidirectional_mask_function, sdpa_mask

from sparsebert.errors import InputError, unknown_name
from sparsebert.kernels import KERNELS, kernel_for
from sparsebert.kernels.choice import Kernel, check_kernel
from sparsebert.kernels.reference import Reference
from sparsebert.patterns import Learner, Relation
from sparsebert.patterns.batches import Batch
from sparsebert.patterns.plans import Plan, parse_plan

_MOST_KEPT = 32  # kernels that are kept for lengths that come again

# Architectures that call the AttentionInterface, and the class of their self-attention.
ARCHITECTURES = {
    "albert": "AlbertAttention",
    "bert": "BertSelfAttention",
    "distilbert": "DistilBertSelfAttention",
    "electra": "ElectraSelfAttention",
    "modernbert": "ModernBertAttention",
    "roberta": "RobertaSelfAttention",
}


class DensityMeter:
    """Counts allowed pairs per layer over the batches that pass: over real tokens and over the padded square.

    `padded_to` is the length that sequences are said to be padded to (None: the longest of their batch).
    """

    def __init__(self, layers: int, padded_to: int | None = None):
        self.padded_to = padded_to
        self._allowed = torch.zeros(layers, dtype=torch.float64)
        self._real = self._padded = 0

    def count_batch(self, batch: Batch) -> None:
        """Count the pairs there are: n² per sequence of n real tokens, and the square it is padded to."""
        rows, length = batch.real.shape
        self._real += batch.real.sum(-1).double().square().sum().item()
        self._padded += rows * (self.padded_to or length) ** 2

    def count_layer(self, layer: int, pairs: float) -> None:
        """Count the pairs that one layer allows, averaged over its heads."""
        self._allowed[layer] += pairs

    @property
    def over_real(self) -> list[float]:
        """Density of each layer: allowed pairs / pairs of real tokens."""
        return (self._allowed / self._real).tolist()

    @property
    def over_padded(self) -> list[float]:
        """Allowed pairs / pairs of the padded square, as sparsity is often quoted."""
        return (self._allowed / self._padded).tolist()


class Sparsified:
    """A model whose attention follows a plan, until `undo()` or the end of the `with` block."""

    def __init__(
        self, model: PreTrainedModel, plan: Plan, learner: Learner | None = None, kernel: str = "auto"
    ):
        self.model, self.plan, self.kernel = model, plan, kernel
        count = attention_layers(model)
        self.patterns = plan.layers(count, learner)
        for pattern in self.patterns:
            for part in pattern.walk():
                part.check_heads(model.config.num_attention_heads)
            check_kernel(kernel, pattern)
        self.watch: Callable[[Batch], object] | None = (
            None  # called with each batch before its patterns are built
        )
        self.windows = local_windows(model)
        self.kernels = [""] * count  # the name of the kernel that each layer used last
        self._kept: dict[tuple, Kernel] = {}
        self._meter: DensityMeter | None = None
        self._signature = inspect.signature(model.base_model.forward)
        self._attention = model.config._attn_implementation
        modules = _attention_modules(model)
        for layer, module in enumerate(modules):
            module._sparsebert_layer = layer if len(modules) == count else None
        self._hook = model.base_model.register_forward_pre_hook(self._before_forward, with_kwargs=True)
        model.set_attn_implementation("sparsebert")

    def undo(self) -> None:
        """Give the model its own attention back; calling it twice does nothing more."""
        if self._hook is None:
            return
        self._hook.remove()
        self._hook = None
        for module in _attention_modules(self.model):
            del module._sparsebert_layer
        self.model.set_attn_implementation(self._attention)

    def __enter__(self) -> Sparsified:
        return self

    def __exit__(self, *_: object) -> None:
        self.undo()

    @contextmanager
    def measure(self, padded_to: int | None = None) -> Iterator[DensityMeter]:
        """Measure density over the batches that pass the model inside the block."""
        self._meter = DensityMeter(len(self.patterns), padded_to)
        try:
            yield self._meter
        finally:
            self._meter = None

    def _before_forward(
        self, encoder: nn.Module, args: tuple, kwargs: dict[str, Any]
    ) -> tuple[tuple, dict[str, Any]]:
        word_ids, head_ids = kwargs.pop("word_ids", None), kwargs.pop("head_ids", None)
        given = self._signature.bind_partial(*args, **kwargs).arguments
        batch = self._batch(given, word_ids, head_ids)
        if self.watch:
            self.watch(batch)
        if self._meter:
            self._meter.count_batch(batch)
        return args, kwargs | {"sparse": _Forward(self, batch)}

    def prepared(self, batch: Batch) -> list[Kernel]:
        """The kernel of each layer for a batch; layers of one pattern share it."""
        config = self.model.config
        dropout = _dropout(self.model) if self.model.training else 0.0
        gradients = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
        whole = bool(batch.real.all())
        ready: dict[tuple, Kernel] = {}
        layers = []
        for layer, pattern in enumerate(self.patterns):
            kernel = "reference" if layer in self.windows else self.kernel
            key = (pattern, kernel, batch.real.shape, batch.real.device, dropout > 0, gradients)
            kept = whole and pattern.keepable
            found = ready.get(key) or (self._kept.get(key) if kept else None)
            if found is None:
                found = kernel_for(
                    pattern, batch, config.num_attention_heads, kernel, dropout, torch.is_grad_enabled()
                )
                if kept:
                    if len(self._kept) >= _MOST_KEPT:
                        self._kept.pop(next(iter(self._kept)))
                    self._kept[key] = found
            ready[key] = found
            layers.append(found)
        return layers

    @torch.no_grad()
    def batch_of(self, inputs: dict[str, Tensor]) -> Batch:
        """What the plan's patterns read of the arguments of a model's call."""
        return self._batch(inputs, inputs.get("word_ids"), inputs.get("head_ids"))

    @torch.no_grad()
    def _batch(self, given: dict[str, Any], word_ids: Tensor | None, head_ids: Tensor | None) -> Batch:
        return Batch(_real_tokens(given), word_ids, head_ids, self._embeddings(given))

    def _embeddings(self, given: dict[str, Any]) -> Float[Tensor, "batch length width"] | None:
        if "embeddings" not in self.plan.needs:
            return None
        if given.get("inputs_embeds") is not None:
            return given["inputs_embeds"]
        return self.model.get_input_embeddings()(given["input_ids"])


def sparsify(
    model: PreTrainedModel, plan: Plan | str, learner: Learner | None = None, kernel: str = "auto"
) -> Sparsified:
    """Make a model's attention follow a plan, in place, until the `with` block ends or `undo()` is called.

    A layer's pattern is intersected with what the encoder itself allows there (padding; the local window of
    ModernBERT). Patterns that read parses take the columns `word_ids` and `head_ids` as further keyword
    arguments of the model's call. Attention weights are not returned. `learner` gives patterns that name no
    file their content while it is learned (see `sparsebert.degrees`). `kernel` says how attention is
    computed, one of `KERNELS`; the result is the same. Raises `InputError` for an architecture that is not in
    `ARCHITECTURES`, a plan for layers that the model lacks, degrees that were learned for another number of
    heads, and a model that is sparsified already.
    """
    kind = model.config.model_type
    if kind not in ARCHITECTURES:
        raise InputError(
            f"'{kind}' models cannot be sparsified, since their attention does not go through transformers' "
            f"AttentionInterface or has not been tested; choose one of: {', '.join(ARCHITECTURES)}"
        )
    if model.config._attn_implementation == "sparsebert":
        raise InputError("this model follows a plan already; undo() that one first")
    if kernel not in KERNELS:
        raise unknown_name("kernel", kernel, KERNELS)
    return Sparsified(model, parse_plan(plan) if isinstance(plan, str) else plan, learner, kernel)


def attention_layers(model: PreTrainedModel) -> int:
    """How many attentions the encoder has; an ALBERT layer may hold several."""
    return model.config.num_hidden_layers * getattr(model.config, "inner_group_num", 1)


def local_windows(model: PreTrainedModel) -> dict[int, int]:
    """The layers of an encoder that see a window only, and how far it reaches on each side (ModernBERT)."""
    kinds = getattr(model.config, "layer_types", None) or []
    return {
        layer: model.config.sliding_window for layer, kind in enumerate(kinds) if kind == "sliding_attention"
    }


# ---- what happens inside a forward pass -----------------------------------------------------------


class _Forward:
    """What the layers of one forward pass share."""

    def __init__(self, sparse: Sparsified, batch: Batch):
        self.sparse, self.meter = sparse, sparse._meter
        self.kernels = sparse.prepared(batch)
        self.calls = 0

    def attend(
        self,
        module: nn.Module,
        own: Relation | None,
        heads: tuple[Tensor, Tensor, Tensor],
        dropout: float,
        scale: float | None,
    ) -> Float[Tensor, "batch head query width"]:
        """The output of the layer that is calling; `own` is what the encoder allows there beside padding."""
        layer = module._sparsebert_layer
        if layer is None:  # a module that several layers share: they are told apart by their order
            layer, self.calls = self.calls, self.calls + 1
        kernel = self.kernels[layer]
        self.sparse.kernels[layer] = kernel.name
        of_encoder = {"own": own} if own is not None and isinstance(kernel, Reference) else {}
        if self.meter:
            self.meter.count_layer(layer, kernel.count(**of_encoder))
        return kernel(*heads, dropout=dropout, scale=scale, **of_encoder)


def _attend(
    module: nn.Module,
    query: Float[Tensor, "batch head query width"],
    key: Float[Tensor, "batch head key width"],
    value: Float[Tensor, "batch head key width"],
    attention_mask: Bool[Tensor, "batch 1 query key"] | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sparse: _Forward | None = None,
    **_: object,
) -> tuple[Float[Tensor, "batch query head width"], None]:
    output = sparse.attend(module, attention_mask, (query, key, value), dropout, scaling)
    return output.transpose(1, 2).contiguous(), None


def _own_mask(
    *args: object, mask_function: Callable, attention_mask: Tensor | None = None, **kwargs: object
) -> Bool[Tensor, "batch 1 query key"] | None:
    """What an encoder allows beside padding: its local windows. None where it has none.

    Padding is in the batch that the kernels know, so that no [length, length] mask is made of it.
    """
    if mask_function is bidirectional_mask_function:
        return None
    return sdpa_mask(*args, mask_function=mask_function, attention_mask=attention_mask, **kwargs)


# Both are needed: without the second, transformers makes no mask at all and padding is attended to.
AttentionInterface.register("sparsebert", _attend)
AttentionMaskInterface.register("sparsebert", _own_mask)


def _attention_modules(model: PreTrainedModel) -> list[nn.Module]:
    wanted = ARCHITECTURES[model.config.model_type]
    return [module for module in model.modules() if type(module).__name__ == wanted]


def _real_tokens(given: dict[str, Any]) -> Bool[Tensor, "batch length"]:
    mask = given.get("attention_mask")
    if mask is not None and mask.ndim == 2:
        return mask.bool()
    if mask is not None:
        raise InputError(
            f"a sparsified model takes an attention_mask of shape [batch, length] (1 for real tokens), not "
            f"{list(mask.shape)}; say which pairs are allowed with a plan"
        )
    tokens = given["input_ids"] if given.get("input_ids") is not None else given["inputs_embeds"]
    return torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)


def _dropout(model: PreTrainedModel) -> float:
    """The dropout of attention weights, as the configs of the architectures call it."""
    names = ("attention_probs_dropout_prob", "attention_dropout")
    return next((getattr(model.config, name) for name in names if hasattr(model.config, name)), 0.0)
