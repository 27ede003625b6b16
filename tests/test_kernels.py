"""Every kernel against attention written out in float64: forward, backward, padding, odd lengths."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import scaled_dot_product_attention
from torch.utils._python_dispatch import TorchDispatchMode

from sparsebert.errors import InputError
from sparsebert.kernels import KERNELS, Kernel, kernel_for, kernel_names
from sparsebert.patterns import Biased, HardLayer, Pattern, Union, parse_pattern
from sparsebert.patterns.batches import Batch
from sparsebert.patterns.hard_degrees import HardDegrees
from sparsebert.reductions.reduction import pairs_with
from sparsebert.registry import register
from sparsebert.selftest.attention import (
    HEADS,
    PATTERNS,
    attended,
    errors,
    make_batch,
    make_heads,
    outcome,
)

LENGTHS = (1, 17, 127, 128, 129, 515)
SCALE = 0.3  # not the usual one


def scaled(compute):
    """Attention written out whose scores have another scale."""
    return lambda query, *others: compute(query * SCALE * query.shape[-1] ** 0.5, *others)


@pytest.mark.parametrize("padded", [False, True], ids=["whole", "padded"])
@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("name", PATTERNS)
def test_every_kernel_gives_what_is_written_out(name, length, padded):
    pattern, batch = PATTERNS[name], make_batch(length, padded)
    heads = make_heads(batch)
    exact = outcome(attended(pattern, batch), heads, batch)
    otherwise = outcome(scaled(attended(pattern, batch)), heads, batch)
    pairs = pattern.allowed(batch).expand(-1, HEADS, -1, -1).sum().item() / HEADS
    for kernel in ("reference", "banded"):
        core = kernel_for(pattern, batch, HEADS, kernel, gradient=True)
        assert core.name == kernel or (core.name == "dense" and kernel == "reference")
        assert core.count == pytest.approx(pairs)
        assert max(errors(outcome(core, heads, batch), exact)) < 1e-9, kernel
        found = outcome(partial(core, scale=SCALE), heads, batch)
        assert max(errors(found, otherwise)) < 1e-9, kernel
        if length in (17, 129):
            for dtype, bound in ((torch.float32, 1e-5), (torch.bfloat16, 3e-2)):
                rounded = [x.detach().to(dtype).requires_grad_() for x in heads]
                assert max(errors(outcome(core, rounded, batch), exact)) < bound, (kernel, dtype)


_share = st.sampled_from([0.0, 0.3, 1.0])
_heads = st.lists(st.lists(_share, max_size=5), min_size=HEADS, max_size=HEADS)


@st.composite
def _hard_layers(draw) -> HardLayer:
    kept, open_ended = draw(_heads), draw(st.booleans())
    weights = [[[round(0.1 * len(row) - 0.2 * o, 3) for o in range(len(row))] for row in kept]]
    longest = max(max(map(len, kept)) - open_ended, 0)
    return HardLayer(
        HardDegrees(
            max_distance=longest,
            open_ended=open_ended,
            kept=[kept],
            weights=draw(st.sampled_from([None, weights])),
        ),
        0,
    )


_parts = st.sampled_from(["neighbour(2)", "neighbour(6)", "global(cls)", "random(2)"]).map(parse_pattern)


@settings(max_examples=150)
@given(st.lists(_hard_layers() | _parts, min_size=1, max_size=3), st.integers(1, 12), st.booleans())
def test_unions_with_hard_degrees_are_as_the_mask_says_wherever_the_band_takes_them(parts, length, padded):
    pattern, batch = Union(tuple(parts)), make_batch(length, padded)
    layout = pattern.layout()
    weighted = sum(
        getattr(part, "degrees", None) is not None and part.bias(batch) is not None for part in parts
    )
    assert layout is not None or weighted
    if layout is not None:
        heads = make_heads(batch)
        core = kernel_for(pattern, batch, HEADS, "banded")
        exact = outcome(attended(pattern, batch), heads, batch)
        assert core.count == pytest.approx(
            pattern.allowed(batch).expand(-1, HEADS, -1, -1).sum().item() / HEADS
        )
        assert max(errors(outcome(core, heads, batch), exact)) < 1e-9


@pytest.mark.parametrize("padded", [False, True], ids=["whole", "padded"])
@pytest.mark.parametrize("name", ["neighbour(40) | global(3) | random(2) | random(4, seed=2)", "irregular"])
def test_the_written_out_windows_give_the_same_as_the_fused_ones(name, padded, monkeypatch):
    """What a GPU computes with, tried on this device, some blocks at a time."""
    from sparsebert.kernels import banded

    pattern, batch = PATTERNS[name], make_batch(512, padded)
    heads = make_heads(batch)
    core = kernel_for(pattern, batch, HEADS, "banded")
    fused = outcome(core, heads, batch)
    monkeypatch.setattr(banded, "_FUSED", None)
    monkeypatch.setitem(banded._SCORES, "cpu", 50_000)
    assert max(errors(outcome(core, heads, batch), fused)) < 1e-9
    monkeypatch.setattr(core, "sequences", core.sequences if padded else [(slice(0, 2), 0, 512)])
    assert max(errors(outcome(core, heads, batch), fused)) < 1e-9


@pytest.mark.parametrize("length", [17, 300])
@pytest.mark.parametrize("name", ["weights on the band", "weights on an open head", "weights on all pairs"])
def test_weights_are_learned_through_the_band_as_through_the_mask(name, length):
    batch = make_batch(length, padded=True)
    heads = make_heads(batch)
    gradients = []
    for kernel in ("reference", "banded"):
        core, table = _with_learned_weights(name, batch, kernel)
        outcome_ = outcome(core, heads, batch)
        loss = (core(*heads).masked_fill(~batch.real[:, None, :, None], 0) ** 2).sum()
        gradients.append([*outcome_, *torch.autograd.grad(loss, table)])
    assert max(errors(gradients[1], gradients[0])) < 1e-9


def _with_learned_weights(name: str, batch: Batch, kernel: str):
    """The kernel of a pattern whose weights ask for a gradient, and their table."""

    class Learning(HardLayer):
        table = None

        def weight_table(self):
            return torch.nn.functional.pad(self.table[:, 1:], (1, 0))  # a pair with itself has no weight

        def bias(self, batch):
            from sparsebert.patterns.hard_degrees import by_distance

            return by_distance(self.weight_table(), batch)

    tables = []

    def live(part: HardLayer) -> Learning:
        learning = Learning(part.degrees, part.layer)
        object.__setattr__(learning, "table", part.weight_table().double().requires_grad_())
        tables.append(learning.table)
        return learning

    pattern = PATTERNS[name]
    if isinstance(pattern, Biased):
        pattern = Biased(pattern.pattern, live(pattern.weights))
    else:
        pattern = type(pattern)(tuple(live(p) if isinstance(p, HardLayer) else p for p in pattern.parts))
    return kernel_for(pattern, batch, HEADS, kernel, gradient=True), tables[0]


class Largest(TorchDispatchMode):
    """The most elements that any tensor had that was made inside the block."""

    elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **kwargs or {})
        for tensor in made if isinstance(made, tuple | list) else [made]:
            if isinstance(tensor, torch.Tensor):
                self.elements = max(self.elements, tensor.untyped_storage().nbytes() // tensor.itemsize)
        return made


OF_ALL_KINDS = [
    "dense",
    "neighbour(3)",
    "neighbour(5) | global(cls)",
    "neighbour(40) | global(3) | random(2) | random(4, seed=2)",
    "widths per head",
    "irregular",
    "weights on the band",
    "weights on all pairs",
    "an open head",
]


def of_kind(name: str) -> Pattern:
    return PATTERNS[name] if name in PATTERNS else parse_pattern(name)


@pytest.mark.parametrize("reach", [0, 3, 60])
@pytest.mark.parametrize("name", OF_ALL_KINDS)
def test_a_table_by_offset_is_added_to_the_scores_and_learned(name, reach):
    pattern = of_kind(name)
    for length, padded in ((17, True), (130, False), (131, True)):
        batch = make_batch(length, padded)
        table = torch.randn(HEADS, 2 * reach + 1, dtype=torch.float64, requires_grad=True)
        heads = [*make_heads(batch), table]
        exact = outcome(attended(pattern, batch), heads, batch)
        for kernel in ("reference", "banded"):
            core = kernel_for(pattern, batch, HEADS, kernel, gradient=True)

            def with_table(query, key, value, table, core=core):
                return core(query, key, value, by_offset=table)

            assert max(errors(outcome(with_table, heads, batch), exact)) < 1e-9, kernel
            fixed = outcome(partial(core, by_offset=table.detach()), heads[:3], batch)
            assert max(errors(fixed, exact[:4])) < 1e-9, kernel


@pytest.mark.parametrize("window", [0, 2, 20, 200])
@pytest.mark.parametrize("name", OF_ALL_KINDS)
def test_the_encoders_own_window_is_part_of_what_kernels_compute(name, window):
    pattern = of_kind(name)
    for length, padded in ((17, True), (131, True), (300, False)):
        batch = make_batch(length, padded)
        heads = make_heads(batch)
        exact = outcome(attended(pattern, batch, window=window), heads, batch)
        place = torch.arange(length)
        near = (place - place[:, None]).abs() <= window
        pairs = (pattern.allowed(batch) & near).expand(-1, HEADS, -1, -1).sum().item() / HEADS
        for kernel in ("reference", "banded"):
            core = kernel_for(pattern, batch, HEADS, kernel, gradient=True, window=window)
            assert core.count == pytest.approx(pairs), kernel
            assert max(errors(outcome(core, heads, batch), exact)) < 1e-9, kernel


@pytest.mark.parametrize("text", ["dense", "neighbour(3) | dense", "neighbour(600)"])
def test_dense_attention_needs_no_pairs(text):
    for padded in (False, True):
        batch = make_batch(512, padded)
        with Largest() as largest:
            core = kernel_for(parse_pattern(text), batch, HEADS)
            assert pairs_with(core).equal(batch.real[:, None, None])
        assert core.name == "dense" and core.count == batch.real.sum(-1).square().sum()
        assert largest.elements < 512**2 / 4


def test_local_layers_go_through_the_band():
    batch = Batch.of_lengths([2048])
    for text in ("dense", "neighbour(200)", "neighbour(4) | global(cls)"):
        assert kernel_for(parse_pattern(text), batch, 2, window=64).name == "banded"
    assert kernel_for(parse_pattern("dense"), batch, 2, window=2047).name == "dense"
    assert kernel_for(parse_pattern("dense"), batch, 2, "banded").name == "dense"  # whatever is asked for


EMPTY = torch.tensor([[1] * 6, [0] * 6, [0, 0, 1, 1, 1, 1], [1, 1, 0, 0, 0, 0]]).bool()


@pytest.mark.parametrize(
    "real", [EMPTY, EMPTY[1:2], EMPTY.repeat(1, 30)[:, :97]], ids=["some", "all", "gaps"]
)
@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize("name", OF_ALL_KINDS)
def test_rows_that_are_all_padding_have_finite_gradients(name, dropout, real):
    batch, pattern = Batch(real), of_kind(name)
    heads = make_heads(batch)
    table = torch.randn(HEADS, 9, dtype=torch.float64, requires_grad=True)
    for kernel in ("reference", "banded"):
        for window in (None, 2):
            if kernel == "banded" and not batch.gapless:
                continue
            core = kernel_for(pattern, batch, HEADS, kernel, dropout, True, window)
            for by_offset in (None, table):
                output = core(*heads, dropout=dropout, by_offset=by_offset)
                gradients = torch.autograd.grad(output[batch.real.any(-1)].sum() + 0 * output.sum(), heads)
                assert output.isfinite().all() and all(x.isfinite().all() for x in gradients)
                empty = ~batch.real.any(-1)
                assert all(not x[empty].any() for x in gradients)


def laid_out(x: torch.Tensor, how: str) -> torch.Tensor:
    """The same numbers, at other places in memory."""
    match how:
        case "every second number":
            return x.repeat_interleave(2, -1)[..., ::2]
        case "by column":
            return x.transpose(-1, -2).contiguous().transpose(-1, -2)
        case "from one projection":
            return torch.cat([x, x, x], -1).transpose(1, 2).contiguous().transpose(1, 2)[..., : x.shape[-1]]
        case "every second token":
            return x.repeat_interleave(2, 2)[:, :, ::2]
        case "one head for all":
            return x[:, :1].expand_as(x)
        case "one token for all":
            return x[:, :, :1].expand_as(x)
        case "one number for all":
            return x[..., :1].expand_as(x)


@pytest.mark.parametrize("written_out", [False, True])
@pytest.mark.parametrize(
    "how",
    [
        "every second number",
        "by column",
        "from one projection",
        "every second token",
        "one head for all",
        "one token for all",
        "one number for all",
    ],
)
@pytest.mark.parametrize("name", ["neighbour(3)", "neighbour(5) | global(cls)", "random(3, seed=1)"])
def test_where_numbers_lie_in_memory_changes_nothing(name, how, written_out, monkeypatch):
    from sparsebert.kernels import banded

    if written_out:
        monkeypatch.setattr(banded, "_FUSED", None)
    batch = make_batch(129, padded=True)
    core = kernel_for(PATTERNS[name], batch, HEADS, "banded", gradient=True)
    strided = [laid_out(x.detach(), how) for x in make_heads(batch)]
    for loss in (torch.sum, lambda x: x[:, :, 0].mean(), lambda x: laid_out(x, "by column").norm()):
        results = []
        for heads in (strided, [x.contiguous() for x in strided]):
            heads = [x.detach().requires_grad_() for x in heads]
            output = core(*heads)
            results.append([output.detach(), *torch.autograd.grad(loss(output), heads)])
        assert max(errors(*results)) < 1e-12


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("written_out", [False, True])
@pytest.mark.parametrize(
    "text",
    ["neighbour(8) | global(cls)", "neighbour(40) | global(3) | random(4)", "neighbour(64)", "random(5)"],
)
def test_large_scores_are_rounded_no_more_than_by_the_reference(text, written_out, dtype, monkeypatch):
    from sparsebert.kernels import banded

    if written_out:
        monkeypatch.setattr(banded, "_FUSED", None)
    pattern, batch = parse_pattern(text), Batch.of_lengths([137, 1, 45])
    generator = torch.Generator().manual_seed(1)
    shape = (3, HEADS, 137, 64)
    heads = [torch.randn(shape, generator=generator) * by for by in (5, 5, 1)]
    heads = [x.to(dtype).requires_grad_() for x in heads]
    found = {}
    for kernel in ("reference", "banded"):
        core = kernel_for(pattern, batch, HEADS, kernel, gradient=True)
        found[kernel] = outcome(core, heads, batch)
    exact = outcome(
        kernel_for(pattern, batch, HEADS, "reference", gradient=True),
        [x.detach().double().requires_grad_() for x in heads],
        batch,
    )
    for ours, theirs in zip(errors(found["banded"], exact), errors(found["reference"], exact), strict=True):
        assert ours <= 2 * theirs + 1e-6


@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize("name", [name for name in PATTERNS if name != "neighbour(64)"])
def test_no_tensor_grows_with_the_square_of_the_length(name, dropout):
    """Masks included: at 4,096 tokens the square has 16.8 million elements."""
    length = 4096
    with Largest() as largest:
        batch = Batch.of_lengths([length])
        core = kernel_for(PATTERNS[name], batch, HEADS, "banded", dropout, gradient=True)
        heads = make_heads(batch, torch.float32)
        core(*heads, dropout=dropout).sum().backward()
        assert core.count > 0
    assert largest.elements < length**2 / 4


@pytest.mark.parametrize("name", ["neighbour(40) | global(3) | random(2) | random(4, seed=2)", "irregular"])
def test_dropout_falls_on_attention_weights_and_as_the_seed_says(name):
    batch = make_batch(129, padded=True)
    heads = make_heads(batch)
    core = kernel_for(PATTERNS[name], batch, HEADS, "banded", dropout=0.3, gradient=True)

    def dropped(seed: int) -> list[torch.Tensor]:
        torch.manual_seed(seed)
        return outcome(lambda *heads: core(*heads, dropout=0.3), heads, batch)

    first, again, other = dropped(0), dropped(0), dropped(1)
    assert max(errors(again, first)) == 0
    assert min(errors(other, first)[:1]) > 0.01
    with torch.no_grad():
        many = sum(core(*heads, dropout=0.3) for _ in range(64)) / 64
        exact = core(*heads)
    real = batch.real[:, None, :, None]
    error = ((many - exact) * real).norm() / (exact * real).norm()
    assert error < 0.2  # and not the 0.65 or so of a single draw


def test_the_gradient_with_dropout_is_that_of_the_weights_that_were_left():
    batch = make_batch(40, padded=False)
    heads = make_heads(batch)
    core = kernel_for(
        parse_pattern("neighbour(2) | global(cls) | random(2)"), batch, HEADS, "banded", 0.5, gradient=True
    )

    def loss(*heads):
        torch.manual_seed(3)
        return core(*heads, dropout=0.5).square().sum()

    torch.autograd.gradcheck(loss, heads, fast_mode=True)


def test_a_whole_row_of_what_all_may_see_is_plain_attention():
    batch = Batch.of_lengths([12, 12])
    core = kernel_for(parse_pattern("neighbour(11)"), batch, HEADS)
    heads = make_heads(batch)
    assert core.name == "dense"
    assert torch.equal(core(*heads), scaled_dot_product_attention(*heads))


@pytest.mark.parametrize(
    ("pattern", "length", "expected"),
    [
        ("neighbour(2)", 64, "reference"),
        ("neighbour(2)", 4096, "banded"),
        ("neighbour(2) | global(cls)", 4096, "banded"),
        ("neighbour(1000)", 1100, "reference"),
        ("lexical(2)", 64, "reference"),
        ("neighbour(2) - global(cls)", 64, "reference"),
        ("neighbour(100)", 64, "dense"),
        ("dense", 4096, "dense"),
    ],
)
def test_auto_takes_the_band_where_it_pays(pattern, length, expected):
    embeddings = torch.randn(1, length, 4) if "lexical" in pattern else None
    batch = Batch.of_lengths([length], embeddings=embeddings)
    pattern = parse_pattern(pattern)
    assert kernel_for(pattern, batch, 2).name == expected


@pytest.mark.parametrize(
    ("pattern", "kernel", "arguments", "says"),
    [
        ("lexical(2)", "banded", {}, "band"),
        ("neighbour(2) - global(cls)", "flex", {}, "band"),
        ("neighbour(2) | random(1)", "flex", {}, "random keys"),
        ("neighbour(2)", "flex", {"dropout": 0.1}, "dropout"),
        ("neighbour(2)", "flex", {"gradient": True}, "GPU"),
        ("neighbour(2)", "band", {}, "did you mean 'banded'"),
    ],
)
def test_a_kernel_that_cannot_be_used_says_why(pattern, kernel, arguments, says):
    with pytest.raises(InputError, match=says) as error:
        kernel_for(parse_pattern(pattern), Batch.of_lengths([8]), 2, kernel, **arguments)
    assert "\n" not in str(error.value)


def test_rows_with_gaps_go_through_the_mask():
    batch = Batch(torch.tensor([[1, 1, 0, 1, 1]]).bool())
    assert kernel_for(parse_pattern("neighbour(1)"), batch, 2).name == "reference"
    with pytest.raises(InputError, match="between its tokens"):
        kernel_for(parse_pattern("neighbour(1)"), batch, 2, "banded")


@pytest.mark.filterwarnings("ignore:flex_attention called without")  # which holds all scores, as said
@pytest.mark.parametrize(
    "name",
    ["neighbour(3)", "neighbour(5) | global(cls)", "irregular", "weights on the band", "an open head"],
)
def test_flex_gives_the_same_forward(name):
    pattern = PATTERNS[name]
    if name == "irregular":
        pattern = pattern.parts[0] | pattern.parts[1]
    for padded in (False, True):
        batch = make_batch(129, padded)
        with torch.no_grad():
            heads = [x.detach() for x in make_heads(batch, torch.float32)]
            core = kernel_for(pattern, batch, HEADS, "flex")
            found, exact = core(*heads), attended(pattern, batch)(*(x.double() for x in heads))
        real = batch.real[:, None, :, None]
        assert errors([found * real], [exact * real])[0] < 1e-5
        table = torch.randn(HEADS, 7)
        with torch.no_grad():
            local = kernel_for(pattern, batch, HEADS, "flex", window=4)
            found = local(*heads, by_offset=table)
            exact = attended(pattern, batch, window=4)(*(x.double() for x in heads), table.double())
        assert errors([found * real], [exact * real])[0] < 1e-5


def test_kernels_are_named():
    assert set(kernel_names()) == {"auto", "reference", "banded", "segmented", "flex"}


def test_a_kernel_from_outside_is_asked_for_by_name_and_considered_by_auto(monkeypatch):
    class Zeros(Kernel):
        name = "zeros"

        @classmethod
        def supports(cls, layout, context):
            return None if layout is not None and layout.tokens else "it computes global tokens only"

        @classmethod
        def cost(cls, layout, context):
            return 1 if context.length > 8 else 1e9

        def __call__(self, query, key, value, dropout=0.0, scale=None, by_offset=None):
            return torch.zeros_like(value)

    monkeypatch.setattr(KERNELS, "fingerprints", {})
    register(Zeros)
    try:
        batch, pattern = Batch.of_lengths([9]), parse_pattern("neighbour(1) | global(cls)")
        assert kernel_for(pattern, batch, 2).name == "zeros"
        assert kernel_for(pattern, batch, 2).count == 9 * 3 - 2 + 2 * (9 - 2)
        assert kernel_for(pattern, Batch.of_lengths([8]), 2).name == "reference"
        assert kernel_for(pattern, Batch.of_lengths([8]), 2, "zeros").name == "zeros"
        assert kernel_for(parse_pattern("dense"), batch, 2, "reference").name == "dense"
        with pytest.raises(InputError, match="kernel=zeros can't be used here, since it computes global"):
            kernel_for(parse_pattern("neighbour(1)"), batch, 2, "zeros")
    finally:
        del KERNELS["zeros"]


@pytest.mark.parametrize("pattern", ["dense", "neighbour(3) | global(cls)"])
def test_dropout_of_the_reference_is_torchs_own_but_for_the_draws(pattern, monkeypatch):
    from sparsebert.kernels import reference

    batch = make_batch(17, padded=True)
    heads = make_heads(batch)
    core = kernel_for(parse_pattern(pattern), batch, HEADS, "reference", dropout=0.3)
    exact = outcome(core, heads, batch)
    with monkeypatch.context() as patch:
        patch.setattr(reference, "kept", lambda shape, p, dtype: torch.ones(shape, dtype=dtype))
        left = outcome(lambda *heads: core(*heads, dropout=0.3), heads, batch)
    assert max(errors(left, exact)) < 1e-9
    with torch.no_grad():
        many = sum(core(*heads, dropout=0.3) for _ in range(64)) / 64
    real = batch.real[:, None, :, None]
    error = ((many - exact[0]) * real).norm() / exact[0].norm()
    assert 0 < error < 0.2


def test_autocast_takes_no_precision_from_the_band():
    batch = make_batch(200, padded=True)
    pattern = PATTERNS["neighbour(5) | global(cls)"]
    core = kernel_for(pattern, batch, HEADS, "banded", dropout=0.1, gradient=True)
    heads = [x.detach().requires_grad_() for x in make_heads(batch, torch.bfloat16)]
    found = []
    for autocast in (False, True):
        torch.manual_seed(0)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            found.append(outcome(partial(core, dropout=0.1), heads, batch))
    assert max(errors(*found[::-1])) < 1e-6


def test_no_random_key_is_a_pattern_of_the_band():
    pattern, batch = parse_pattern("neighbour(2) | random(0) | global(cls)"), make_batch(129, padded=True)
    heads = make_heads(batch)
    both = [
        outcome(kernel_for(pattern, batch, HEADS, name), heads, batch) for name in ("banded", "reference")
    ]
    assert max(errors(*both)) < 1e-9
