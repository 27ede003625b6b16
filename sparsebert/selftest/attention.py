"""Attention written out in float64, and every kernel against it: forward, backward, padding, odd lengths."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from functools import partial

import torch
from torch import Tensor

from sparsebert.degrees import DegreeConfig, LearnedDegrees
from sparsebert.kernels import KERNELS, Context, kernel_for
from sparsebert.patterns import Biased, Global, HardLayer, Pattern, Union, parse_pattern
from sparsebert.patterns.batches import Batch
from sparsebert.patterns.hard_degrees import HardDegrees
from sparsebert.selftest.checks import Check, Finding, Wrong

HEADS, WIDTH = 3, 8
CASES = ((1, False, 8), (17, True, 64), (129, False, 80), (515, True, 16))  # length, padded, a head's width
BOUNDS = {torch.float32: 1e-5, torch.bfloat16: 3e-2}
_DROPOUT, _DRAWS = 0.3, 64

Compute = Callable[..., Tensor]


# ---- what is computed -----------------------------------------------------------------------------


def hard(kept: list, weights: list | None = None, open_ended: bool = False) -> HardLayer:
    """Degrees of a layer; with `open_ended` the last item of the longest list stands for all distances."""
    longest = max(map(len, kept)) - open_ended
    weights = None if weights is None else [weights]
    return HardLayer(
        HardDegrees(max_distance=longest, open_ended=open_ended, kept=[kept], weights=weights), 0
    )


def ramp(longest: int, by: float) -> list[float]:
    """Shares that fall by as much in all."""
    return [round(1 - by * distance / longest, 6) for distance in range(longest)]


_WEIGHTS = [[0.5, -1.0, 2.0], [1.0] * 40, [-0.25 * o for o in range(5)]]
PATTERNS: dict[str, Pattern] = {
    text: parse_pattern(text)
    for text in (
        "neighbour(0)",
        "neighbour(3)",
        "neighbour(64)",
        "global(2)",
        "random(3, seed=1)",
        "neighbour(5) | global(cls)",
        "neighbour(40) | global(3) | random(2) | random(4, seed=2)",
    )
} | {
    "widths per head": hard([[1] * 2, [1] * 33, [1] * 70]) | parse_pattern("global(cls)"),
    "holes": hard([[1, 0, 1], [0, 0, 1, 1], []]) | parse_pattern("random(2)"),
    "irregular": hard([ramp(4, 1), ramp(70, 0.7), ramp(70, 1)]) | parse_pattern("global(cls) | random(2)"),
    "weights on the band": hard([[1] * 3, [1] * 40, ramp(5, 1)], _WEIGHTS) | parse_pattern("global(cls)"),
    "an open head": hard([[1] * 2, [1] * 6, []], open_ended=True)
    | parse_pattern("neighbour(7) | global(cls)"),
    "open in part": hard([ramp(4, 1), [1, 0.5, 0, 0, 0.4], [1]], open_ended=True)
    | parse_pattern("random(2)"),
    "all heads open": hard([[0, 1]] * 3, open_ended=True) | parse_pattern("global(2)"),
    "weights on an open head": hard([[1] * 3, [1] * 40, []], _WEIGHTS, open_ended=True)
    | parse_pattern("neighbour(50) | global(cls)"),
    "weights on all pairs": Biased(
        parse_pattern("neighbour(9) | global(2) | random(3)"), hard([[1] * 3, [1] * 40, [1] * 5], _WEIGHTS)
    ),
}
_MIXED = "neighbour(40) | global(3) | random(2) | random(4, seed=2)"
_OF_KINDS = "neighbour(3) | segments(second sees first)"
_FLEX = ("neighbour(64)", "neighbour(5) | global(cls)", "widths per head", "weights on the band")
_FLEX_CASES = ((129, True, 64), (515, False, 32))


def make_batch(length: int, padded: bool) -> Batch:
    """Rows with padding on the right and on the left beside a whole one, or two whole rows."""
    if not padded:
        return Batch.of_lengths([length, length])
    real = torch.ones(3, length, dtype=torch.bool)
    real[1, (length + 1) // 2 :] = False
    real[2, : length // 3] = False
    return Batch(real)


def make_heads(batch: Batch, dtype=torch.float64, seed: int = 0, width: int = WIDTH) -> list[Tensor]:
    """Queries, keys and values, laid out as the layers before an attention leave them."""
    generator = torch.Generator().manual_seed(seed)
    shape = (*batch.real.shape, HEADS, width)
    drawn = [torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(3)]
    return [x.to(dtype).transpose(1, 2).requires_grad_() for x in drawn]


def attended(pattern: Pattern, batch: Batch, window: int | None = None) -> Compute:
    """Attention with all scores written out: what is added to them by weights and by a table by offset,
    and minus infinity outside of the pattern and of the encoder's own window."""
    length = batch.real.shape[1]
    place = torch.arange(length)
    allowed = pattern.allowed(batch) | ~batch.real[:, None, :, None]
    if window is not None:
        allowed = allowed & ((place - place[:, None]).abs() <= window)
    bias = pattern.bias(batch)

    def compute(query: Tensor, key: Tensor, value: Tensor, by_offset: Tensor | None = None) -> Tensor:
        scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
        if bias is not None:
            scores = scores + bias
        if by_offset is not None:
            reach = by_offset.shape[1] // 2
            rows = [by_offset[:, (place - i).clamp(-reach, reach) + reach] for i in range(length)]
            scores = scores + torch.stack(rows, 1)
        return scores.masked_fill(~allowed, -torch.inf).softmax(-1) @ value

    return compute


def outcome(compute: Compute, inputs: Sequence[Tensor], batch: Batch, *learned: Tensor) -> list[Tensor]:
    """The output at real tokens, and gradients of a random sum of it: of inputs and of what is learned."""
    generator = torch.Generator().manual_seed(1)
    real = batch.real[:, None, :, None]
    output = compute(*inputs)
    chosen = torch.randn(output.shape, generator=generator, dtype=torch.float64)
    loss = (output.masked_fill(~real, 0) * chosen.to(output)).sum()
    return [output.detach().masked_fill(~real, 0), *torch.autograd.grad(loss, [*inputs, *learned])]


def errors(found: Sequence[Tensor], exact: Sequence[Tensor]) -> list[float]:
    """Norms of the differences over those of what is exact, or a tenth of the largest of these; never NaN."""
    found, exact = ([x.double().cpu() for x in tensors] for tensors in (found, exact))
    least = max(1.0, *(0.1 * x.norm().item() for x in exact))
    apart = [((a - b).norm() / b.norm().clamp(min=least)).item() for a, b in zip(found, exact, strict=True)]
    return [math.inf if math.isnan(error) else error for error in apart]  # `max` passes over NaN


# ---- the checks -----------------------------------------------------------------------------------


def kernel_checks(device: str) -> Iterator[Check]:
    """Each kernel but `flex`, with each pattern that it computes."""
    batch = Batch(make_batch(17, padded=True).real.to(device))
    for kernel, kind in KERNELS.items():
        if kernel == "flex":
            continue

        def check(name: str, run: Callable[..., Finding], *arguments: object, of: str = kernel) -> Check:
            return Check("kernels", f"{of}, {name}", partial(run, of, *arguments, device=device))

        able = [
            name
            for name, pattern in PATTERNS.items()
            if kind.supports(pattern.layout(), Context(pattern, batch, HEADS, gradient=True)) is None
        ]
        yield from (check(name, _against_float64, name) for name in able)
        small = _OF_KINDS if kernel == "segmented" else "neighbour(3)"
        if kernel != "segmented" or device == "cpu":
            yield check("scale", _scale, small)
        if _MIXED in able:
            yield check("relative positions", partial(_against_float64, reach=7), _MIXED)
            yield check("the encoder's own window", partial(_against_float64, window=20), _MIXED)
            yield check("dropout", _dropout)
            yield check("the rate of dropout", _rate)
            yield check("learned degrees", _learned)


def flex_checks(device: str, executor: Executor) -> Iterator[Check]:
    """`flex` beside `banded`, in a process of its own: its compiler may spoil one."""
    for name in _FLEX:
        call = partial(executor.submit, flex_against_banded, name, device)
        yield Check("flex", f"as banded, {name}", lambda call=call: call().result())


def _against_float64(
    kernel: str, name: str, device: str, reach: int | None = None, window: int | None = None
) -> Finding:
    pattern, findings = PATTERNS[name], []
    for length, padded, width in CASES:
        batch = make_batch(length, padded)
        inputs = make_heads(batch, width=width)
        if reach is not None:
            generator = torch.Generator().manual_seed(2)
            inputs.append(torch.randn(HEADS, 2 * reach + 1, generator=generator).double().requires_grad_())
        exact = outcome(attended(pattern, batch, window), inputs, batch)
        there = Batch(batch.real.to(device))
        core = kernel_for(pattern, there, HEADS, kernel, gradient=True, window=window)
        for dtype, bound in BOUNDS.items():
            found = outcome(_with_table(core), _rounded(inputs, device, dtype), there)
            says = f"{length} tokens{', padded' * padded}, heads of {width}, {_short(dtype)}"
            # The reference sums the gradient of the table in its own precision.
            findings.append(Finding(max(errors(found, exact)), bound if reach is None else 3 * bound, says))
    return worst(findings)


def _learned(kernel: str, device: str) -> Finding:
    """The gradient of the weights on hard degrees, too."""
    findings = []
    for length, padded, width in CASES[1:]:
        batch = make_batch(length, padded)
        there, inputs = Batch(batch.real.to(device)), make_heads(batch, width=width)
        learner = _learner().double()
        exact = outcome(attended(_plan_of(learner), batch), inputs, batch, learner.weights)
        learner = _learner().to(device)
        for dtype, bound in BOUNDS.items():
            core = kernel_for(_plan_of(learner), there, HEADS, kernel, gradient=True)
            found = outcome(core, _rounded(inputs, device, dtype), there, learner.weights)
            findings.append(Finding(max(errors(found, exact)), bound, f"{length} tokens, {_short(dtype)}"))
    return worst(findings)


def _dropout(kernel: str, device: str) -> Finding:
    """How far the mean over draws is from attention without dropout; a single draw is at 0.65 or so."""
    pattern, batch = PATTERNS[_MIXED], Batch(make_batch(129, padded=True).real.to(device))
    heads = _rounded(make_heads(batch), device, torch.float64)
    core = kernel_for(pattern, batch, HEADS, kernel, dropout=_DROPOUT, gradient=True)

    def dropped(seed: int) -> list[Tensor]:
        torch.manual_seed(seed)
        return outcome(partial(core, dropout=_DROPOUT), heads, batch)

    first, again, other = dropped(0), dropped(0), dropped(1)
    if max(errors(again, first)) > 1e-9:
        raise Wrong("one seed drops other weights at the second time")
    if errors(other, first)[0] < 0.01:
        raise Wrong("two seeds drop the same weights")
    few = [x.detach()[:1, :, :40].requires_grad_() for x in heads]
    small = kernel_for(pattern, Batch(batch.real[:1, :40]), HEADS, kernel, _DROPOUT, gradient=True)

    def loss(*heads: Tensor) -> Tensor:
        torch.manual_seed(3)
        return small(*heads, dropout=_DROPOUT).square().sum()

    torch.autograd.gradcheck(loss, few, fast_mode=True, nondet_tol=1e-9)
    with torch.no_grad():
        mean = sum(core(*heads, dropout=_DROPOUT) for _ in range(_DRAWS)) / _DRAWS
        exact = core(*heads)
    real = batch.real[:, None, :, None]
    return Finding(errors([mean * real], [exact * real])[0], 0.2, f"mean over {_DRAWS} draws, in float64")


def _scale(kernel: str, name: str, device: str) -> Finding:
    """Heads of an odd width, with the usual scale and with another one."""
    pattern, width, findings = parse_pattern(name), 7, []
    real = make_batch(40, padded=True).real
    batch, there = (Batch(x, second=x.sum(-1) // 2) for x in (real, real.to(device)))
    inputs, usual = make_heads(batch, width=width), width**-0.5
    exact = attended(pattern, batch)
    core = kernel_for(pattern, there, HEADS, kernel, gradient=True)
    for scale in (None, 0.2):
        by_hand = outcome(lambda q, *kv, by=(scale or usual) / usual: exact(by * q, *kv), inputs, batch)
        found = outcome(partial(core, scale=scale), _rounded(inputs, device, torch.float32), there)
        findings.append(Finding(max(errors(found, by_hand)), 1e-5, f"heads of {width}, scale {scale}"))
    return worst(findings)


def _rate(kernel: str, device: str) -> Finding:
    """The share of weights that is dropped, where each token sees itself alone."""
    batch = Batch(torch.ones(8, 256, dtype=torch.bool, device=device))
    core = kernel_for(parse_pattern("neighbour(0)"), batch, HEADS, kernel, dropout=_DROPOUT, gradient=True)
    heads = _rounded(make_heads(batch), device, torch.float32)
    torch.manual_seed(0)
    dropped = (core(*heads, dropout=_DROPOUT) == 0).all(-1).double().mean().item()
    return Finding(abs(dropped - _DROPOUT), 0.03, f"{dropped:.3f} are dropped, {_DROPOUT} should be")


def flex_against_banded(name: str, device: str) -> Finding:
    """Forward, and on a GPU backward."""
    pattern, findings = PATTERNS[name], []
    gradient = device != "cpu"
    for (length, padded, width), (dtype, bound) in zip(_FLEX_CASES, BOUNDS.items(), strict=True):
        batch = Batch(make_batch(length, padded).real.to(device))
        heads = _rounded(make_heads(batch, width=width), device, dtype)
        cores = [kernel_for(pattern, batch, HEADS, which, gradient=gradient) for which in ("flex", "banded")]
        if gradient:
            both = [outcome(core, heads, batch) for core in cores]
        else:
            with torch.no_grad(), warnings.catch_warnings(action="ignore"):  # it says that it runs unfused
                heads = [x.detach() for x in heads]
                both = [[core(*heads).masked_fill(~batch.real[:, None, :, None], 0)] for core in cores]
        findings.append(Finding(max(errors(*both)), bound, f"{length} tokens, {_short(dtype)}"))
    return worst(findings)


def _learner() -> LearnedDegrees:
    """Hard degrees of one layer, a head of an irregular degree among them, with weights to learn."""
    generator = torch.Generator().manual_seed(3)
    learner = LearnedDegrees(DegreeConfig(max_distance=40), [0], 1, HEADS)
    kept = torch.zeros(1, HEADS, 42)
    kept[0, 0, :3], kept[0, 1, :41], kept[0, 2, :41] = 1, 1, torch.linspace(1, 0.2, 41)
    learner.harden(kept, torch.randn(kept.shape, generator=generator))
    return learner


def _plan_of(learner: LearnedDegrees) -> Pattern:
    return Union((learner.learned(0), Global("cls")))


def _with_table(core: Compute) -> Compute:
    return lambda query, key, value, table=None: core(query, key, value, by_offset=table)


def _rounded(inputs: Sequence[Tensor], device: str, dtype: torch.dtype) -> list[Tensor]:
    return [x.detach().to(device, dtype).requires_grad_() for x in inputs]


def worst(findings: Sequence[Finding]) -> Finding:
    """The one that is nearest to its bound, or farthest beyond it; one that is no number comes first."""
    return max(findings, key=lambda finding: (finding.error != finding.error, finding.error / finding.bound))


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
