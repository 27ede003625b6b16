"""One attention layer's core, side by side: ours, dense attention and other libraries', in time and memory.

The core is what happens between the projections: queries, keys and values in, their mixture out. All
contenders get the same tensors, laid out as BERT lays them out, and take turns within one run, so that the
ratios of a round were measured under the same conditions. The layers of Longformer and BigBird get them in
place of their projections, which are not run. The *floor* is dense attention's time times the density.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from sparsebert.bench.measuring import (
    find_device,
    find_dtype,
    growth,
    in_short,
    median,
    over_floor,
    paired_ratio,
    peak_memory,
    progress,
    seconds,
    spread,
)
from sparsebert.errors import InputError, unknown_name
from sparsebert.kernels import KERNELS, kernel_for
from sparsebert.kernels.flex import compiled_flex
from sparsebert.patterns import Pattern, parse_pattern
from sparsebert.patterns.batches import Batch
from sparsebert.patterns.layouts import Layout

PATTERN = "neighbour(64) | global(cls)"
LENGTHS = (512, 1024, 2048, 4096)
LONGEST_DENSE = 8192  # on a processor, a step of a dense layer takes seconds beyond
CONTENDERS = ("dense", "masked", *KERNELS, "flex alone", "longformer", "bigbird")
PASSES = ("forward", "both")
COLUMNS = (
    "pattern",
    "contender",
    "length",
    "kernel",
    "density",
    *PASSES,
    *(f"{what}_over_{other}" for other in ("dense", "auto", "floor") for what in PASSES),
    "spread",
    *(f"memory_{what}" for what in PASSES),
    "masks",
    "left_out",
)

_SAMPLE = 0.02  # seconds that one timing takes at least, so that the clock and single hiccups don't matter
_MOST_CALLS = 500
_LONGEST_UNFUSED = 4096  # tokens; twelve heads then take 3 GB
_BIGBIRD_BLOCK, _BIGBIRD_RANDOM = 64, 3  # as HF's BigBird comes

Heads = Float[Tensor, "batch head length width"]
Attend = Callable[[Heads, Heads, Heads], Heads]


class Missing(Exception):
    """Why a contender is left out."""


# ---- what is measured ---------------------------------------------------------------------------


def measure_attention(
    pattern: str | Sequence[str] = PATTERN, lengths: Sequence[int] = LENGTHS, **options: object
) -> pd.DataFrame:
    """A row for each pattern, length and contender; `options` are those of `attention_rows`.

    Columns: `pattern`, `contender`, `length` (tokens), `kernel` (the one that `auto` took), `density`;
    `forward` and `both`, the seconds of a forward pass and of one with its backward pass (medians of rounds);
    the same over those of `dense` and of `auto` (medians of the rounds' own ratios), and over the floor;
    `spread`, the larger of the two times' interquartile ranges over its median, says how far to trust them;
    `memory_forward` and `memory_both`, peak bytes of tensors beyond the inputs, masks included; `masks`, the
    seconds that a batch's masks take: a first call's time less a later one's; `left_out`, the reason if
    something is missing. What wasn't measured is NaN. Raises `InputError` for a pattern that reads more than
    positions, and for an unknown contender, dtype or device.
    """
    return pd.DataFrame(list(attention_rows(pattern, lengths, **options)), columns=list(COLUMNS))


def attention_rows(
    pattern: str | Sequence[str] = PATTERN,
    lengths: Sequence[int] = LENGTHS,
    *,
    contenders: Sequence[str] = CONTENDERS,
    heads: int = 12,
    width: int = 64,
    rounds: int = 7,
    dtype: str = "fp32",
    device: str | None = None,
    longest_dense: int | None = None,
    seed: int = 0,
) -> Iterator[dict]:
    """The rows of `measure_attention`, as soon as a length is done; progress goes to standard error.

    `width` is that of a head. Contenders whose cost grows with the square of the length are left out beyond
    `longest_dense` tokens (by default `LONGEST_DENSE` on a processor, nowhere on a GPU).
    """
    for name in contenders:
        if name not in CONTENDERS:
            raise unknown_name("contender", name, CONTENDERS)
    device, kind = find_device(device), find_dtype(dtype)
    texts = [pattern] if isinstance(pattern, str) else list(pattern)
    patterns = {str(parse_pattern(text)): _at_first_layer(text, heads) for text in texts}
    limit = longest_dense or (LONGEST_DENSE if device == "cpu" else math.inf)
    for text, at_first_layer in patterns.items():
        for length in lengths:
            case = Case(at_first_layer, length, heads, width, kind, device, limit, seed)
            trials = {name: _Trial(name, case) for name in contenders}
            _take_turns(trials, rounds, f"{text}, {length:,} tokens")
            for trial in trials.values():
                yield {"pattern": text, "length": length} | trial.row(trials)


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
    """One contender at one length: its calls, warmed up, and what they took in each round."""

    def __init__(self, name: str, case: Case):
        self.name, self.case = name, case
        self.kernel, self.density = "", math.nan
        self.calls: dict[str, Callable[[], object]] = {}
        self.repeats: dict[str, int] = {}
        self.memory: dict[str, float] = {}
        self.seconds: dict[str, list[float]] = {what: [] for what in PASSES}
        self.first: list[float] = []
        self.reasons: dict[str, str] = {}
        self.inputs = case.inputs()
        self.has_masks = name in ("masked", "flex alone", *KERNELS)
        for what in PASSES:
            try:
                with warnings.catch_warnings(action="ignore"):  # flex says once that it runs unfused
                    self._warm_up(what)
            except (Missing, InputError, torch.OutOfMemoryError) as error:
                self.reasons[what] = in_short(error)
            except Exception as error:  # other people's code may fail in any way; ours may not
                if name in KERNELS:
                    raise
                self.reasons[what] = in_short(error)

    def _warm_up(self, what: str) -> None:
        attend, self.kernel, density = self._made(what)
        if math.isnan(self.density):
            self.density = density()
        self._run(what, attend)
        once = seconds(lambda: self._run(what, attend), 1, self.case.device)
        first = (lambda: self._run(what)) if self.has_masks else (lambda: self._run(what, attend))
        self.memory[what] = peak_memory(first, self.case.device)
        self.repeats[what] = max(1, min(_MOST_CALLS, int(_SAMPLE / max(once, 1e-9))))
        self.calls[what] = lambda: self._run(what, attend)

    def _made(self, what: str) -> Made:
        return _MAKERS[self.name](self.case, what == "both")

    def _run(self, what: str, attend: Attend | None = None) -> None:
        """One pass; without `attend`, as the first for its batch, for which masks have to be built."""
        attend = attend or self._made(what)[0]
        *inputs, grad = self.inputs
        if what == "both":
            leaves = [x.detach().requires_grad_() for x in inputs]
            torch.autograd.grad(attend(*leaves), leaves, grad)
        else:
            with torch.no_grad():
                attend(*inputs)

    def take_turn(self, what: str) -> None:
        if what not in self.calls:
            return
        taken = seconds(self.calls[what], self.repeats[what], self.case.device)
        self.seconds[what].append(taken)
        if what == "forward" and self.has_masks:
            self.first.append(seconds(lambda: self._run(what), 1, self.case.device))

    def row(self, trials: dict[str, _Trial]) -> dict:
        row: dict[str, object] = {"contender": self.name, "kernel": self.kernel, "density": self.density}
        row["masks"] = math.nan
        for what in PASSES:
            row[what] = median(self.seconds[what])
            row[f"memory_{what}"] = self.memory.get(what, math.nan)
            for other in ("dense", "auto"):
                theirs = trials[other].seconds[what] if other in trials else []
                row[f"{what}_over_{other}"] = paired_ratio(self.seconds[what], theirs)
            row[f"{what}_over_floor"] = over_floor(row[f"{what}_over_dense"], self.density)
        row["spread"] = max((spread(self.seconds[what]) for what in self.calls), default=math.nan)
        if self.first:  # the least of each, since a difference doubles the noise
            row["masks"] = max(0.0, min(self.first) - min(self.seconds["forward"]))
        texts = dict.fromkeys(self.reasons.values())
        if len(self.reasons) == 1 and "both" in self.reasons:
            row["left_out"] = f"backward: {self.reasons['both']}"
        else:
            row["left_out"] = "; ".join(texts)
        return row


def _take_turns(trials: dict[str, _Trial], rounds: int, title: str) -> None:
    order = list(trials.values())
    for number in range(rounds):
        progress(f"{title}: round {number + 1} of {rounds}")
        for what in PASSES:
            for trial in order if number % 2 == 0 else order[::-1]:
                trial.take_turn(what)


def _at_first_layer(text: str, heads: int) -> Pattern:
    pattern = parse_pattern(text)
    if pattern.needs:
        raise InputError(
            f"pattern '{text}' reads more than positions; measure one of neighbour, random and global, "
            f"such as '{PATTERN}'"
        )
    pattern = pattern.at(0)
    for part in pattern.walk():
        part.check_heads(heads)
    return pattern


# ---- the contenders -----------------------------------------------------------------------------

# Each takes a case and whether there will be gradients, and gives its attention for that case, the kernel's
# name and what counts the density. Raises `Missing` or `InputError` where it can't run.
Made = tuple[Attend, str, Callable[[], float]]
Maker = Callable[[Case, bool], Made]


def _dense(case: Case, gradient: bool) -> Made:
    case.check_dense()
    return scaled_dot_product_attention, "", lambda: 1.0


def _masked(case: Case, gradient: bool) -> Made:
    case.check_dense()
    allowed = case.pattern.allowed(case.batch())

    def attend(query: Heads, key: Heads, value: Heads) -> Heads:
        return scaled_dot_product_attention(query, key, value, attn_mask=allowed)

    return attend, "", lambda: allowed.float().mean().item()


def _ours(kernel: str) -> Maker:
    def make(case: Case, gradient: bool) -> Made:
        if kernel == "reference":
            case.check_dense()
        if kernel == "flex" and case.device == "cpu":
            if case.length > _LONGEST_UNFUSED:
                raise Missing(f"on a processor it holds all scores: not run beyond {_LONGEST_UNFUSED:,}")
            case.check_dense()
        core = kernel_for(case.pattern, case.batch(), case.heads, kernel, gradient=gradient)
        return core, core.name, lambda: core.count() / case.length**2

    return make


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

    def attend(query: Heads, key: Heads, value: Heads) -> Heads:
        return compiled_flex()(query, key, value, block_mask=blocks)

    return attend, "", lambda: _density(case)


class _Given(nn.Module):
    """In place of a projection: what comes out of it was computed before."""

    value: Tensor | None = None

    def forward(self, _: Tensor) -> Tensor:
        return self.value


def _longformer(case: Case, gradient: bool) -> Made:
    from transformers import LongformerConfig
    from transformers.models.longformer.modeling_longformer import LongformerSelfAttention

    layout = _plain_layout(case, "Longformer")
    window = 2 * layout.width
    if not window or case.length % window:
        raise Missing(f"Longformer takes lengths that are multiples of its window, here {window}")
    config = LongformerConfig(
        hidden_size=case.heads * case.width,
        num_attention_heads=case.heads,
        attention_window=[window],
        attention_probs_dropout_prob=0.0,
    )
    layer = LongformerSelfAttention(config, 0).train(gradient)
    layer.query, layer.key, layer.value = _Given(), _Given(), _Given()
    layer.query_global, layer.key_global, layer.value_global = nn.Identity(), layer.key, layer.value
    mask = torch.zeros(1, case.length, device=case.device)
    mask[:, : layout.tokens] = 10_000
    masks = {
        "is_index_masked": mask < 0,
        "is_index_global_attn": mask > 0,
        "is_global_attn": layout.tokens > 0,
    }

    def attend(query: Heads, key: Heads, value: Heads) -> Heads:
        query, key, value = (x.transpose(1, 2).flatten(2) for x in (query, key, value))
        # Queries are scaled in place, which must not reach the inputs.
        layer.query.value = query.transpose(0, 1).clone()
        layer.key.value, layer.value.value = key.transpose(0, 1), value.transpose(0, 1)
        output = layer(query, mask, **masks)[0]
        layer.query.value = layer.key.value = layer.value.value = None
        return output.unflatten(2, (case.heads, case.width)).transpose(1, 2)

    return attend, "", lambda: _density(case)


def _bigbird(case: Case, gradient: bool) -> Made:
    from transformers import BigBirdConfig
    from transformers.models.big_bird.modeling_big_bird import BigBirdBlockSparseAttention, BigBirdModel

    case.check_dense()  # its masks and copies of blocks grow almost so: some 20 GB at 16k tokens
    size, drawn, length = _BIGBIRD_BLOCK, _BIGBIRD_RANDOM, case.length
    if length % size or length <= (5 + 2 * drawn) * size:
        raise Missing(f"BigBird takes multiples of {size} above {(5 + 2 * drawn) * size} tokens")
    config = BigBirdConfig(
        hidden_size=case.heads * case.width,
        num_attention_heads=case.heads,
        block_size=size,
        num_random_blocks=drawn,
        max_position_embeddings=max(4096, length),
    )
    layer = BigBirdBlockSparseAttention(config, seed=case.seed).train(gradient)
    layer.query, layer.key, layer.value = _Given(), _Given(), _Given()
    real = torch.ones(1, length, device=case.device, dtype=case.dtype)
    blocked, band, rows, columns = BigBirdModel.create_masks_for_block_sparse_attn(real, size)

    def attend(query: Heads, key: Heads, value: Heads) -> Heads:
        query, key, value = (x.transpose(1, 2).flatten(2) for x in (query, key, value))
        layer.query.value, layer.key.value, layer.value.value = query, key, value
        output = layer(query, band, rows, columns, blocked, blocked)[0]
        layer.query.value = layer.key.value = layer.value.value = None
        return output.unflatten(2, (case.heads, case.width)).transpose(1, 2)

    # First and last blocks are global; those beside them see one block of the window less.
    blocks = length // size
    seen = 2 * blocks + 2 * (4 + drawn) + (blocks - 4) * (5 + drawn)
    return attend, "", lambda: seen / blocks**2


_MAKERS: dict[str, Maker] = {
    "dense": _dense,
    "masked": _masked,
    **{kernel: _ours(kernel) for kernel in KERNELS},
    "flex alone": _flex_alone,
    "longformer": _longformer,
    "bigbird": _bigbird,
}


def _plain_layout(case: Case, who: str) -> Layout:
    layout = case.pattern.layout()
    if layout is None or layout.kept is not None or layout.random or layout.weights is not None:
        raise Missing(f"{who} has a band and global tokens only")
    return layout


def _density(case: Case) -> float:
    return kernel_for(case.pattern, case.batch(), case.heads).count() / case.length**2


# ---- bars ---------------------------------------------------------------------------------------


def bars(frame: pd.DataFrame) -> pd.DataFrame:
    """What `auto` should reach on a processor, and what it reached, for each pattern.

    Columns: `pattern`, `bar`, `wanted` (such as "<= 2"), `found` (NaN: not measured) and `met` (None then).
    """
    rows = []
    for pattern, own in frame.groupby("pattern", sort=False):
        ours = own[own["contender"] == "auto"].set_index("length")

        def at_4096(column: str, contender: str = "auto", own=own) -> float:
            found = own[(own["contender"] == contender) & (own["length"] == 4096)][column]
            return found.iloc[0] if len(found) else math.nan

        span = ours.loc[(ours.index >= 1024) & (ours.index <= 16384)].sort_index()
        spans = len(span) and span.index[0] == 1024 and span.index[-1] == 16384
        found = [
            ("forward over the floor, 4,096 tokens", "<=", 2.0, at_4096("forward_over_floor")),
            ("forward + backward over the floor, 4,096 tokens", "<=", 2.5, at_4096("both_over_floor")),
        ]
        for peer, times in (("longformer", 4.0), ("bigbird", 10.0)):
            for what, title in (("forward", "forward"), ("both", "forward + backward")):
                over = at_4096(f"{what}_over_auto", peer)
                found.append((f"times as fast as {peer}, {title}, 4,096 tokens", ">=", times, over))
        for column, title in (
            ("forward", "time, forward"),
            ("both", "time, forward + backward"),
            ("memory_forward", "memory, forward"),
            ("memory_both", "memory, forward + backward"),
        ):
            exponent = growth(span.index, span[column]) if spans else math.nan
            found.append((f"growth from 1k to 16k, {title}", "<=", 1.1, exponent))
        for what, title in (("forward", "forward"), ("both", "forward + backward")):
            worst = ours.loc[ours.index >= 16, f"{what}_over_dense"].max()
            found.append((f"over dense, {title}, worst length", "<=", 1.05, worst))
        for bar, sign, wanted, value in found:
            met = None if math.isnan(value) else bool(value <= wanted if sign == "<=" else value >= wanted)
            rows.append(
                {"pattern": pattern, "bar": bar, "wanted": f"{sign} {wanted:g}", "found": value, "met": met}
            )
    return pd.DataFrame(rows, columns=["pattern", "bar", "wanted", "found", "met"])


# ---- on paper and on disk -----------------------------------------------------------------------


def as_text(frame: pd.DataFrame) -> str:
    """Tables for a terminal: milliseconds and megabytes, a table per pattern and length, then the bars."""
    parts = []
    for (pattern, length), own in frame.groupby(["pattern", "length"], sort=False):
        ran = own[own[list(PASSES)].notna().any(axis=1)]
        table = pd.DataFrame({"": ran["contender"], "kernel": ran["kernel"], "density": ran["density"]})
        for what, title in (("forward", "fwd"), ("both", "f+b")):
            table[f"{title} ms"] = 1e3 * ran[what]
        for what, title in (("forward", "fwd"), ("both", "f+b")):
            table[f"{title} MB"] = ran[f"memory_{what}"] / 1e6
        table["masks ms"] = 1e3 * ran["masks"]
        for other in ("dense", "floor"):
            for what, title in (("forward", "fwd"), ("both", "f+b")):
                table[f"{title}/{other}"] = ran[f"{what}_over_{other}"]
        table["spread"] = ran["spread"]
        number = {column: "{:.3g}".format for column in table.columns[3:]} | {"density": "{:.4f}".format}
        text = table.to_string(index=False, na_rep="-", formatters=_but_missing(number)) if len(ran) else ""
        left = [f"  without {row.contender}: {row.left_out}" for row in own.itertuples() if row.left_out]
        parts.append("\n".join([f"{pattern}, {length:,} tokens", text, *left]))
    for pattern, judged in bars(frame).groupby("pattern", sort=False):
        lines = [f"{pattern}, bars"]
        for row in judged[judged["met"].notna()].itertuples():
            verdict = "met" if row.met else "not met"
            lines.append(f"  {row.bar}: {row.found:.2f}, wanted {row.wanted}: {verdict}")
        if missing := int(judged["met"].isna().sum()):
            lines.append(
                f"  {missing} not measured (those at 4k, those of growth with lengths from 1k to 16k)"
            )
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def _but_missing(formatters: dict[str, Callable]) -> dict[str, Callable]:
    return {
        column: lambda value, own=own: "-" if pd.isna(value) else own(value)
        for column, own in formatters.items()
    }
