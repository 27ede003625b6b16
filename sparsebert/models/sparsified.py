"""The plug into transformers: `sparsify(model, plan)` and the density that is measured while it is in.

One hook on the encoder reads each batch, prepares a kernel for every pattern of the plan once and hands them
down as a keyword argument; one attention function, registered with transformers' AttentionInterface, calls
them layer by layer. Kernels of a length are kept where they depend on nothing else, and made at their layer
where a pattern reads its queries and keys.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel
from transformers.masking_utils import AttentionMaskInterface

from sparsebert.errors import InputError
from sparsebert.kernels import Kernel, check_kernel, kernel_for
from sparsebert.kernels.kernel import Heads
from sparsebert.models.architectures import Architecture, architecture_of
from sparsebert.patterns import Learner, Pattern
from sparsebert.patterns.batches import OF_A_LAYER, Batch, tokens_before_second
from sparsebert.patterns.plans import Placement, Plan, parse_plan

if TYPE_CHECKING:
    from sparsebert.reductions import Reduction

_MOST_KEPT = 32  # kernels that are kept for lengths that come again
_COLUMNS = ("word_ids", "head_ids")  # what patterns read beside the arguments of the encoder


class DensityMeter:
    """Counts pairs and tokens per layer over the batches that pass, of real tokens and of the padded square.

    `padded_to` is the length that sequences are said to be padded to (None: the longest of their batch).
    """

    def __init__(self, architecture: Architecture, padded_to: int | None = None):
        self.architecture, self.padded_to = architecture, padded_to
        self._allowed, self._tokens, self._fed = torch.zeros(3, architecture.layers, dtype=torch.float64)
        self._rows = self._real_tokens = self._real = self._padded = 0.0

    def count_batch(self, batch: Batch) -> None:
        """Count the pairs there are: n² per sequence of n real tokens, and the square it is padded to."""
        rows, length = batch.real.shape
        lengths = batch.real.sum(-1).double()
        self._rows += rows
        self._real_tokens += lengths.sum().item()
        self._real += lengths.square().sum().item()
        self._padded += rows * (self.padded_to or length) ** 2

    def count_layer(self, layer: int, pairs: float, batch: Batch, projected: float = 1.0) -> None:
        """Count the pairs that one layer allows, averaged over its heads, and the tokens that it has.

        `projected` is the share of its four projections of these tokens that is computed.
        """
        self._allowed[layer] += pairs
        tokens = batch.real.sum().item()
        self._tokens[layer] += projected * tokens
        self._fed[layer] += tokens

    def count_fed(self, layer: int, before: Batch, after: Batch) -> None:
        """Count tokens anew that go into a layer's feed-forward part, since some left after its attention."""
        self._fed[layer] += (after.real.sum() - before.real.sum()).item()

    @property
    def over_real(self) -> list[float]:
        """Density of each layer: allowed pairs / pairs of real tokens."""
        return (self._allowed / self._real).tolist()

    @property
    def over_padded(self) -> list[float]:
        """Allowed pairs / pairs of the padded square, as sparsity is often quoted."""
        return (self._allowed / self._padded).tolist()

    @property
    def kept(self) -> list[float]:
        """The share of the tokens that goes into the feed-forward part of each layer."""
        return (self._fed / self._real_tokens).tolist()

    @property
    def multiply_adds(self) -> float:
        """Of the layers for a sequence, on average, without what it takes to choose tokens or pairs."""
        layers = zip(self._tokens.tolist(), self._allowed.tolist(), self._fed.tolist(), strict=True)
        return sum(self.architecture.multiply_adds(*layer) for layer in layers) / self._rows


class Sparsified:
    """A model whose attention follows a plan, until `undo()` or the end of the `with` block.

    Chapter 01 explains it.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        plan: Plan,
        learner: Learner | None = None,
        kernel: str = "auto",
        reduction: Reduction | None = None,
    ):
        self.model, self.plan, self.learner, self.kernel = model, plan, learner, kernel
        self.reduction = reduction
        self.architecture = architecture_of(model)
        self.patterns = plan.layers(self.architecture.layers, learner)
        for pattern in self.patterns:
            for part in pattern.walk():
                part.check_heads(self.architecture.heads)
            check_kernel(kernel, pattern)
        if learner:
            learner.follow(self.patterns)
        self.kernels = [""] * len(self.patterns)  # the name of the kernel that each layer used last
        self._kept: dict[tuple, Kernel] = {}
        self._meter: DensityMeter | None = None
        self._columns: dict[str, Tensor] = {}
        self._passing: Pass | None = None
        self._signature = inspect.signature(model.base_model.forward)
        self._attention = model.config._attn_implementation
        for layer, module in enumerate(self.architecture.modules):
            module._sparsebert_layer = None if self.architecture.shares_layers else layer
        self._hooks = [model.base_model.register_forward_pre_hook(self._before_forward, with_kwargs=True)]
        if model.base_model is not model:
            self._hooks.append(model.register_forward_pre_hook(self._take_columns, with_kwargs=True))
        if reduction:
            for module in self.architecture.ends_of_attention:
                self._hooks.append(module.register_forward_hook(self._after_attention))
            if reduction.skipped is not None:
                module = self.architecture.ends_of_attention[reduction.skipped]
                module.forward = partial(self._instead_of_attention, module.forward)
        self.architecture.attach()

    def undo(self) -> None:
        """Give the model its own attention back; calling it twice does nothing more."""
        if not self._hooks:
            return
        while self._hooks:
            self._hooks.pop().remove()
        for module in self.architecture.modules:
            del module._sparsebert_layer
        if self.reduction and self.reduction.skipped is not None:
            del self.architecture.ends_of_attention[self.reduction.skipped].forward
        self.architecture.detach(self._attention)

    @contextmanager
    def own_attention(self, implementation: str) -> Iterator[None]:
        """Inside the block the model has its own attention, in one of transformers' implementations."""
        self.architecture.detach(implementation)
        try:
            yield
        finally:
            if self._hooks:
                self.architecture.attach()
            else:
                self.architecture.detach(self._attention)

    def __enter__(self) -> Sparsified:
        if not self._hooks:
            raise InputError("this plan was undone; call sparsify again")
        return self

    def __exit__(self, *_: object) -> None:
        self.undo()

    @contextmanager
    def measure(self, padded_to: int | None = None) -> Iterator[DensityMeter]:
        """Measure density over the batches that pass the model inside the block.

        Raises `InputError` inside another such block.
        """
        if self._meter:
            raise InputError("density is measured already; use that meter, or end its block first")
        self._meter = DensityMeter(self.architecture, padded_to)
        try:
            yield self._meter
        finally:
            self._meter = None

    def _take_columns(self, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict]:
        """Not all architectures hand on to the encoder what they don't know."""
        self._columns = {name: kwargs.pop(name) for name in _COLUMNS if name in kwargs}
        return args, kwargs

    def _before_forward(self, encoder: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict]:
        columns = self._columns
        self._take_columns(encoder, args, kwargs)
        columns, self._columns = columns | self._columns, {}
        if self.model.config._attn_implementation != "sparsebert":
            return args, kwargs
        batch = self.batch_of(self._signature.bind_partial(*args, **kwargs).arguments | columns)
        if self.learner:
            self.learner.prepare(batch)
        if self._meter:
            self._meter.count_batch(batch)
        self._passing = Pass(self, batch)
        if self.reduction:
            self.reduction.begin(self._passing)
        return args, self.architecture.hand_down(self._passing, kwargs)

    def _after_attention(self, module: nn.Module, args: tuple, output: Any) -> Any:
        """Let tokens leave before a layer's feed-forward part."""
        if self.model.config._attn_implementation != "sparsebert":
            return output
        hidden, *rest = output if isinstance(output, tuple) else (output,)
        hidden = self.reduction.leave(self._passing.layer, hidden, self._passing)
        return (hidden, *rest) if isinstance(output, tuple) else hidden

    def _instead_of_attention(self, own: Callable, hidden: Tensor, *args: Any, **kwargs: Any) -> Any:
        """What a layer does that a reduction skips: nothing, since `leave` comes next."""
        if self.model.config._attn_implementation != "sparsebert":
            return own(hidden, *args, **kwargs)
        self._passing.layer = self.reduction.skipped
        self.kernels[self.reduction.skipped] = self.reduction.name
        return hidden, None

    def prepared(self, batch: Batch) -> list[Kernel | None]:
        """The kernel of each layer for a batch; layers of one pattern share it.

        None where the pattern reads what is of the layer: `kernel_at` makes it there.
        """
        dropout = self.architecture.dropout if self.model.training else 0.0
        whole, gradient = bool(batch.real.all()), torch.is_grad_enabled()
        shared = whole, batch.real.shape, batch.real.device, dropout > 0
        shared += gradient, torch.is_inference_mode_enabled()
        windows = self.architecture.windows
        keys = [(pattern, windows.get(layer), *shared) for layer, pattern in enumerate(self.patterns)]
        ready: dict[tuple, Kernel | None] = dict(self._kept)
        for layer, key in enumerate(keys):
            pattern = self.patterns[layer]
            if key not in ready:
                ready[key] = None if pattern.needs & OF_A_LAYER else self.kernel_at(layer, batch)
                if whole and pattern.keepable:
                    self._kept[key] = ready[key]
        for key in list(self._kept)[:-_MOST_KEPT]:
            del self._kept[key]
        return [ready[key] for key in keys]

    def kernel_at(self, layer: int, batch: Batch) -> Kernel:
        """The kernel of one layer for a batch."""
        dropout = self.architecture.dropout if self.model.training else 0.0
        how = dropout, torch.is_grad_enabled(), self.architecture.windows.get(layer)
        return kernel_for(self.patterns[layer], batch, self.architecture.heads, self.kernel, *how)

    @torch.no_grad()
    def batch_of(self, inputs: dict[str, Any]) -> Batch:
        """What the plan's patterns read of the arguments of a model's call."""
        embeddings = None
        if "embeddings" in self.plan.needs:
            embeddings = inputs.get("inputs_embeds")
            if embeddings is None:
                embeddings = self.model.get_input_embeddings()(inputs["input_ids"])
        real, second = _real_tokens(inputs), None
        if "second" in self.plan.needs:
            second = tokens_before_second(real, *map(inputs.get, ("input_ids", "token_type_ids")))
        return Batch(real, *map(inputs.get, _COLUMNS), embeddings, second)


def sparsify(
    model: PreTrainedModel,
    plan: Pattern | Plan | str,
    learner: Learner | None = None,
    kernel: str = "auto",
    reduction: Reduction | None = None,
) -> Sparsified:
    """Make a model's attention follow a plan, in place, until the `with` block ends or `undo()` is called.

    The plan may be a pattern, for all layers, or a text. A layer's pattern is intersected with what the
    encoder itself allows there (padding; the local window of ModernBERT). Patterns that read parses take the
    columns `word_ids` and `head_ids`, of shape [batch, length], as further keyword arguments of the model's
    call. Attention weights are not returned. `learner` gives patterns that name no file their content while
    it is learned (see `sparsebert.degrees`). `kernel` says how attention is computed, one of
    `kernel_names()`; the result is the same. `reduction` lets tokens leave between the layers (see
    `sparsebert.reductions`). Raises `InputError` for an architecture that is not in
    `ARCHITECTURES`, a plan for layers that the model lacks, degrees that were learned for another number of
    heads, and a model that is sparsified already. Chapter 01 explains it.

    >>> with sparsify(model, Neighbour(2) | Global("cls")):  # doctest: +SKIP
    ...     model(**tokenizer("A text.", return_tensors="pt"))
    """
    if model.config._attn_implementation == "sparsebert":
        raise InputError("this model follows a plan already; undo() that one first")
    if isinstance(plan, Pattern):
        plan = Plan(((plan, Placement()),))
    return Sparsified(model, parse_plan(plan) if isinstance(plan, str) else plan, learner, kernel, reduction)


# ---- what happens inside a forward pass -----------------------------------------------------------


class Pass:
    """One forward pass: the tokens that are left, and what the layers share.

    `layer` is the layer that attended last, and `batch` has its tokens until `keep` or `go_on_with`.
    """

    def __init__(self, sparse: Sparsified, batch: Batch):
        self.sparse, self.meter, self.layer, self.batch = sparse, sparse._meter, -1, batch
        self.go_on_with(batch)

    def __reduce__(self) -> tuple:
        """A copy of a model is not in a pass."""
        return type(None), ()

    def go_on_with(self, batch: Batch) -> None:
        """Have these tokens in the layers that come, and in the feed-forward part of this one."""
        if self.meter and batch is not self.batch:
            self.meter.count_fed(self.layer, self.batch, batch)
        self.batch, self.kernels = batch, self.sparse.prepared(batch)
        self.by_offset = self.sparse.architecture.by_offset(batch.real.shape[1])

    def keep(
        self, kept: Bool[Tensor, "batch length"], hidden: Float[Tensor, "batch length width"]
    ) -> Float[Tensor, "batch fewer width"]:
        """Let all other tokens leave; those that stay move up in their order, with their hidden states."""
        batch, places = self.batch.keep(kept)
        self.go_on_with(batch)
        return hidden.gather(1, places[..., None].expand(-1, -1, hidden.shape[-1]))

    def attend(self, module: nn.Module, *heads: Heads, **how: Any) -> Heads:
        """The output of the layer that is calling; query, key and value, `dropout` and `scale`."""
        own: Any = module._sparsebert_layer
        self.layer = self.layer + 1 if own is None else own
        kernel = self.kernels[self.layer]
        if kernel is None:
            query, key, _ = heads
            kernel = self.sparse.kernel_at(self.layer, replace(self.batch, queries=query, keys=key))
        self.sparse.kernels[self.layer] = kernel.name
        how["by_offset"] = self.by_offset
        reduction = self.sparse.reduction
        output = reduction.attend(self.layer, kernel, *heads, **how) if reduction else kernel(*heads, **how)
        if self.meter:
            pairs = reduction.pairs(kernel) if reduction else kernel.count
            self.meter.count_layer(self.layer, pairs, self.batch)
        return output


def _attend(
    module: nn.Module, query: Heads, key: Heads, value: Heads, _: None, *, sparse: Pass, **how: Any
) -> tuple[Float[Tensor, "batch query head width"], None]:
    dropout, scale = how.get("dropout", 0.0), how.get("scaling")
    output = sparse.attend(module, query, key, value, dropout=dropout, scale=scale)
    return output.transpose(1, 2).contiguous(), None


def _no_mask(*_: object, **__: object) -> None:
    """Kernels know of padding and of local windows: no [length, length] mask is made."""


# Both are needed: without the second, transformers makes no mask at all and padding is attended to.
AttentionInterface.register("sparsebert", _attend)
AttentionMaskInterface.register("sparsebert", _no_mask)


def _real_tokens(given: dict[str, Any]) -> Bool[Tensor, "batch length"]:
    mask = given.get("attention_mask")
    if mask is not None:
        if mask.ndim == 2:
            return mask.bool()
        raise InputError(
            f"a sparsified model takes an attention_mask of shape [batch, length] (1 for real tokens), not "
            f"{list(mask.shape)}; say which pairs are allowed with a plan"
        )
    tokens = given["input_ids"] if given.get("input_ids") is not None else given["inputs_embeds"]
    return torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
