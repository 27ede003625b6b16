"""One attention layer's core, side by side: ours, dense attention and other libraries', in time and memory.

The core is what happens between the projections: queries, keys and values in, their mixture out. All
contenders get the same tensors, laid out as BERT lays them out, and take turns within one run, so that the
ratios of a round were measured under the same conditions. The layers of Longformer and BigBird get them in
place of their projections, which are not run. The *floor* is dense attention's time times the density.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import NamedTuple

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from sparsebert.bench import PLAN, measuring
from sparsebert.bench.measuring import PASSES
from sparsebert.errors import InputError, check_names, first_line
from sparsebert.kernels import KERNELS, Context, kernel_for, kernel_names
from sparsebert.kernels.flex import compiled_flex
from sparsebert.patterns import Neighbour, Pattern, parse_pattern
from sparsebert.patterns.batches import Batch
from sparsebert.patterns.layouts import Layout

LONGEST_DENSE = 8192  # on a processor, a step of a dense layer takes seconds beyond

_SAMPLE = 0.02  # seconds that one timing takes at least, so that the clock and single hiccups don't matter
_MOST_CALLS = 500
_LONGEST_UNFUSED = 4096  # tokens; twelve heads then take 3 GB

Heads = Float[Tensor, "batch head length width"]
Hidden = Float[Tensor, "batch length hidden"]
Attend = Callable[[Heads, Heads, Heads], Heads]


class Missing(Exception):
    """Why a contender is left out."""


class Made(NamedTuple):
    """A contender's attention for a case, what counts its density, and the kernel's name if it has one."""

    attend: Attend
    density: Callable[[], float] = lambda: 1.0
    kernel: str = ""


@dataclass(frozen=True)
class Contender:
    """One way to compute the core of an attention layer.

    `make` takes a case and whether there will be gradients; it raises `Missing` or `InputError`, with the
    reason, where the contender can't run. `has_masks` says whether it builds something for each batch.
    """

    name: str
    make: Callable[[Case, bool], Made]
    has_masks: bool = False
    ours: bool = False  # then any other error is a bug, and no reason to leave it out


def all_contenders() -> dict[str, Contender]:
    """All contenders by name: dense attention, the same with a mask, our kernels, and other libraries'."""
    found = (
        Contender("dense", _dense),
        Contender("masked", _masked, has_masks=True),
        *(Contender(name, partial(_kernel, name), has_masks=True, ours=True) for name in kernel_names()),
        Contender("flex alone", _flex_alone, has_masks=True),
        Contender("cudnn", _cudnn),
        Contender("varlen", _varlen),
        Contender("natten", _natten),
        Contender("longformer", _longformer),
        Contender("bigbird", _bigbird),
    )
    return {contender.name: contender for contender in found}


# ---- what is measured ---------------------------------------------------------------------------


def attention_rows(
    pattern: str | Sequence[str],
    lengths: Sequence[int],
    *,
    contenders: Sequence[str] = (),
    heads: int = 12,
    width: int = 64,
    rounds: int = 7,
    dtype: str = "fp32",
    device: str | None = None,
    longest_dense: int | None = None,
    seed: int = 0,
    done: Set[tuple[str, int, str]] = frozenset(),
) -> Iterator[dict]:
    """A row for each pattern, length and contender, as soon as a length is done.

    `contenders` names those compared (by default all), and `width` is that of a head. Contenders whose cost
    grows with the square of the length are left out beyond `longest_dense` tokens (by default `LONGEST_DENSE`
    on a processor, nowhere on a GPU). A length is not measured if `done` has all its contenders: each as its
    row's `pattern`, `length` and `contender`. Progress goes to standard error.

    In a row: `pattern`, `contender`, `length` (tokens), `kernel` (the one that `auto` took), `density`;
    `forward` and `both`, the seconds of a forward pass and of one with its backward pass (medians of rounds);
    the same over those of `dense` (medians of the rounds' own ratios), and over the floor;
    `spread`, the larger of the two times' interquartile ranges over its median, says how far to trust them;
    `memory_forward` and `memory_both`, peak bytes of tensors beyond the inputs, masks included; `masks`, the
    seconds that a batch's masks take: a first call's time less a later one's; `left_out`, the reason if
    something is missing. What wasn't measured is NaN. Raises `InputError` for a pattern that reads more than
    positions, and for an unknown contender, dtype or device.
    """
    known = all_contenders()
    check_names("contender", contenders, known)
    device, kind = measuring.find_device(device), measuring.find_dtype(dtype)
    texts = [pattern] if isinstance(pattern, str) else list(pattern)
    patterns = {str(parse_pattern(text)): _at_first_layer(text, heads) for text in texts}
    names = list(contenders or known)
    limit = longest_dense or (LONGEST_DENSE if device == "cpu" else math.inf)
    for text, at_first_layer in patterns.items():
        for length in lengths:
            if done >= {(text, length, name) for name in names}:
                continue
            case = Case(at_first_layer, length, heads, width, kind, device, limit, seed)
            trials = {(name, what): _Trial(known[name], case, what) for what in PASSES for name in names}
            turns = [trial.take_turn for trial in trials.values()]
            measuring.take_turns(turns, rounds, f"{text}, {length:,} tokens")
            for name in names:
                yield {"pattern": text, "contender": name, "length": length} | _row(name, trials)


@dataclass(frozen=True)
class Case:
    """What the contenders of one pattern and length have in common; batches are of one sequence."""

    pattern: Pattern
    length: int
    heads: int
    width: int
    dtype: torch.dtype
    device: str
    longest_dense: float
    seed: int

    def batch(self) -> Batch:
        """A fresh one, for which nothing was built yet."""
        return Batch(torch.ones(1, self.length, dtype=torch.bool, device=self.device))

    def inputs(self) -> tuple[Heads, ...]:
        """Queries, keys, values, and the gradient of the output."""
        generator = torch.Generator().manual_seed(self.seed)
        shape = (1, self.length, self.heads, self.width)
        drawn = (torch.randn(shape, generator=generator) for _ in range(4))
        return tuple(x.to(self.device, self.dtype).transpose(1, 2) for x in drawn)

    def check_dense(self) -> None:
        if self.length > self.longest_dense:
            raise Missing(
                f"its cost grows with the square of the length: not run beyond {self.longest_dense:,}"
            )


class _Trial:
    """One contender's pass at one length, warmed up, and what it took in each round."""

    def __init__(self, contender: Contender, case: Case, what: str):
        self.contender, self.case, self.what, self.inputs = contender, case, what, case.inputs()
        self.kernel, self.density, self.memory, self.left_out = "", math.nan, math.nan, ""
        self.seconds: list[float] = []
        self.first: list[float] = []  # with the masks that a batch needs
        try:
            with warnings.catch_warnings(action="ignore"):  # flex says once that it runs unfused
                self._warm_up()
        except Exception as error:  # other people's code may fail in any way; ours may not
            if contender.ours and not isinstance(error, Missing | InputError | torch.OutOfMemoryError):
                raise
            self.left_out = first_line(error)

    def _warm_up(self) -> None:
        attend, density, self.kernel = self.contender.make(self.case, self.what == "both")
        self.density = density()
        self.again = partial(self._run, attend)
        self.again()
        once = measuring.seconds(self.again, 1, self.case.device)
        counted = self._run if self.contender.has_masks else self.again
        self.memory = measuring.peak_tensor_bytes(counted, self.case.device)
        self.repeats = max(1, min(_MOST_CALLS, int(_SAMPLE / max(once, 1e-9))))

    def _run(self, attend: Attend | None = None) -> None:
        """The pass; without `attend`, as the first for its batch, for which masks have to be built."""
        attend = attend or self.contender.make(self.case, self.what == "both").attend
        *inputs, grad = self.inputs
        if self.what == "both":
            leaves = [x.detach().requires_grad_() for x in inputs]
            torch.autograd.grad(attend(*leaves), leaves, grad)
        else:
            with torch.no_grad():
                attend(*inputs)

    def take_turn(self) -> None:
        if not self.left_out:
            self.seconds.append(measuring.seconds(self.again, self.repeats, self.case.device))
            if self.what == "forward" and self.contender.has_masks:
                self.first.append(measuring.seconds(self._run, 1, self.case.device))


def _row(name: str, trials: dict[tuple[str, str], _Trial]) -> dict:
    own = {what: trials[name, what] for what in PASSES}
    forward, both = own.values()
    density = both.density if math.isnan(forward.density) else forward.density
    row: dict[str, object] = {"kernel": both.kernel or forward.kernel, "density": density}
    row |= {what: measuring.median(trial.seconds) for what, trial in own.items()}
    for what, trial in own.items():
        theirs = trials["dense", what].seconds if ("dense", what) in trials else []
        row[f"{what}_over_dense"] = measuring.paired_ratio(trial.seconds, theirs)
    row |= {f"{what}_over_floor": row[f"{what}_over_dense"] / density for what in PASSES}
    row["spread"] = max(
        (measuring.spread(trial.seconds) for trial in own.values() if trial.seconds), default=math.nan
    )
    row |= {f"memory_{what}": trial.memory for what, trial in own.items()}
    # The least of each, since a difference doubles the noise.
    row["masks"] = max(0.0, min(forward.first) - min(forward.seconds)) if forward.first else math.nan
    reasons = "; ".join(dict.fromkeys(trial.left_out for trial in own.values() if trial.left_out))
    row["left_out"] = f"backward: {reasons}" if both.left_out and not forward.left_out else reasons
    return row


def _at_first_layer(text: str, heads: int) -> Pattern:
    pattern = parse_pattern(text)
    if pattern.needs:
        raise InputError(
            f"pattern '{text}' reads more than positions; measure one of neighbour, random and global, "
            f"such as '{PLAN}'"
        )
    pattern = pattern.at(0)
    for part in pattern.walk():
        part.check_heads(heads)
    return pattern


# ---- the contenders -----------------------------------------------------------------------------


def _dense(case: Case, gradient: bool) -> Made:
    case.check_dense()
    return Made(scaled_dot_product_attention)


def _masked(case: Case, gradient: bool) -> Made:
    case.check_dense()
    allowed = case.pattern.allowed(case.batch())
    attend = partial(scaled_dot_product_attention, attn_mask=allowed)
    return Made(attend, lambda: allowed.float().mean().item())


def _kernel(name: str, case: Case, gradient: bool) -> Made:
    """One of our kernels."""
    kind, layout = KERNELS.get(name), case.pattern.layout()
    context = Context(case.pattern, case.batch(), case.heads, gradient=gradient)
    if kind and kind.supports(layout, context) is None:
        cost = kind.cost(layout, context)
        if cost == math.inf and case.length > _LONGEST_UNFUSED:
            raise Missing(f"on this device it holds all scores: not run beyond {_LONGEST_UNFUSED:,}")
        if cost >= case.length**2:
            case.check_dense()
    kernel = kernel_for(case.pattern, case.batch(), case.heads, name, gradient=gradient)
    return Made(kernel, lambda: kernel.count / case.length**2, kernel.name)


def _flex_alone(case: Case, gradient: bool) -> Made:
    from torch.nn.attention.flex_attention import create_block_mask

    layout = _plain_layout(case, "the mask function written here")
    if case.device == "cpu":
        if gradient:
            raise Missing("FlexAttention has gradients on a GPU only")
        case.check_dense()  # its mask is built from all pairs
    width, tokens = layout.width, layout.tokens

    def mask(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return ((q - k).abs() <= width) | (q < tokens) | (k < tokens)

    blocks = create_block_mask(mask, None, None, case.length, case.length, device=case.device)
    return Made(partial(compiled_flex(), block_mask=blocks), lambda: _density(case))


def _cudnn(case: Case, gradient: bool) -> Made:
    """Dense attention as NVIDIA's library computes it, which torch does not take by itself."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    _check_gpu(case)

    def attend(*heads: Heads) -> Heads:
        with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
            return scaled_dot_product_attention(*heads)

    return Made(attend, lambda: 1.0)


def _varlen(case: Case, gradient: bool) -> Made:
    """The band alone, by the window of torch's attention for sequences of several lengths."""
    from torch.nn.attention.varlen import varlen_attn

    _check_gpu(case)
    width = _plain_layout(case, "varlen_attn").width
    ends = torch.tensor([0, case.length], dtype=torch.int32, device=case.device)

    def attend(*heads: Heads) -> Heads:
        flat = [x.transpose(1, 2)[0] for x in heads]
        mixed = varlen_attn(*flat, ends, ends, case.length, case.length, window_size=(width, width))
        return mixed.transpose(0, 1)[None]

    return Made(attend, lambda: _density(case, band_alone=True))


def _natten(case: Case, gradient: bool) -> Made:
    """The band alone; near the ends NATTEN's windows are moved inwards, not cut."""
    _check_gpu(case)
    na1d = import_module("natten.functional").na1d
    window = 2 * _plain_layout(case, "NATTEN").width + 1
    if window > case.length:
        raise Missing(f"NATTEN takes windows up to the length, here {window}")

    def attend(*heads: Heads) -> Heads:
        return na1d(*(x.transpose(1, 2) for x in heads), kernel_size=window).transpose(1, 2)

    return Made(attend, lambda: window / case.length)


def _longformer(case: Case, gradient: bool) -> Made:
    from transformers import LongformerConfig
    from transformers.models.longformer.modeling_longformer import LongformerSelfAttention

    layout = _plain_layout(case, "Longformer")
    window = 2 * layout.width
    if not window or case.length % window:
        raise Missing(f"Longformer takes lengths that are multiples of its window, here {window}")
    size = {"hidden_size": case.heads * case.width, "num_attention_heads": case.heads}
    config = LongformerConfig(**size, attention_window=[window], attention_probs_dropout_prob=0.0)
    layer = LongformerSelfAttention(config, 0).train(gradient)
    mask = torch.zeros(1, case.length, device=case.device)
    mask[:, : layout.tokens] = 10_000
    layer.query_global, layer.key_global, layer.value_global = nn.Identity(), layer.key, layer.value
    padding, is_global = mask < 0, mask > 0

    def run(query: Hidden) -> Hidden:
        return layer(query, mask, padding, is_global, layout.tokens > 0)[0]

    return Made(_without_projections(layer, run, case, length_first=True), lambda: _density(case))


def _bigbird(case: Case, gradient: bool) -> Made:
    from transformers import BigBirdConfig
    from transformers.models.big_bird.modeling_big_bird import BigBirdBlockSparseAttention, BigBirdModel

    case.check_dense()  # its masks and copies of blocks grow almost so: some 20 GB at 16k tokens
    size, keys, length = 64, 3, case.length  # of blocks, and their random ones, as HF's BigBird comes
    if length % size or length <= (5 + 2 * keys) * size:
        raise Missing(f"BigBird takes multiples of {size} above {(5 + 2 * keys) * size} tokens")
    shape = {"hidden_size": case.heads * case.width, "num_attention_heads": case.heads}
    blocks = {"block_size": size, "num_random_blocks": keys, "max_position_embeddings": max(4096, length)}
    config = BigBirdConfig(**shape, **blocks)
    layer = BigBirdBlockSparseAttention(config, seed=case.seed).train(gradient)
    real = torch.ones(1, length, device=case.device, dtype=case.dtype)
    blocked, *masks = BigBirdModel.create_masks_for_block_sparse_attn(real, size)

    def run(query: Hidden) -> Hidden:
        return layer(query, *masks, blocked, blocked)[0]

    # First and last blocks are global; those beside them see one block of the window less.
    count = length // size
    seen = 2 * count + 2 * (4 + keys) + (count - 4) * (5 + keys)
    return Made(_without_projections(layer, run, case), lambda: seen / count**2)


def _without_projections(
    layer: nn.Module, run: Callable[[Hidden], Hidden], case: Case, length_first: bool = False
) -> Attend:
    """The core of a layer: `run` calls it, on queries, and its projections give what was computed before."""
    projections = layer.query, layer.key, layer.value

    def attend(*heads: Heads) -> Heads:
        query, *others = hidden = [x.transpose(1, 2).flatten(2) for x in heads]
        if length_first:  # Longformer scales queries in place
            hidden = [x.transpose(0, 1) for x in (query.clone(), *others)]
        for module, given in zip(projections, hidden, strict=True):
            module.forward = lambda _, given=given: given
        output = run(query)
        for module in projections:
            del module.forward
        return output.unflatten(2, (case.heads, case.width)).transpose(1, 2)

    return attend


def _plain_layout(case: Case, who: str) -> Layout:
    layout = case.pattern.layout()
    if layout is None or not layout.plain or layout.random or layout.weights is not None:
        raise Missing(f"{who} has a band and global tokens only")
    return layout


def _density(case: Case, band_alone: bool = False) -> float:
    pattern = Neighbour(case.pattern.layout().width) if band_alone else case.pattern
    return kernel_for(pattern, case.batch(), case.heads).count / case.length**2


def _check_gpu(case: Case) -> None:
    if case.device == "cpu":
        raise Missing("it runs on GPUs only")


# ---- on paper -----------------------------------------------------------------------------------


def as_text(frame: pd.DataFrame) -> str:
    """Tables for a terminal: milliseconds and megabytes, a table per pattern and length."""
    short = {"forward": "fwd", "both": "f+b"}
    blocks = []
    for (pattern, length), own in frame.groupby(["pattern", "length"], sort=False):
        ran = own[own[list(PASSES)].notna().any(axis=1)]
        density = ran["density"].map("{:.4f}".format, na_action="ignore")
        table = {"": ran["contender"], "kernel": ran["kernel"], "density": density}
        table |= {f"{title} ms": 1e3 * ran[what] for what, title in short.items()}
        table |= {f"{title} MB": ran[f"memory_{what}"] / 1e6 for what, title in short.items()}
        table["masks ms"] = 1e3 * ran["masks"]
        for other in ("dense", "floor"):
            table |= {f"{title}/{other}": ran[f"{what}_over_{other}"] for what, title in short.items()}
        table["spread"] = ran["spread"]
        left = [f"{row.contender}: {row.left_out}" for row in own.itertuples() if row.left_out]
        blocks.append(measuring.as_block(f"{pattern}, {length:,} tokens", pd.DataFrame(table), left))
    return "\n\n".join(blocks)
