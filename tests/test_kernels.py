"""Every kernel against attention written out in float64: forward, backward, padding, odd lengths."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import scaled_dot_product_attention
from torch.utils._python_dispatch import TorchDispatchMode

from sparsebert.errors import InputError
from sparsebert.kernels import kernel_for, kernel_names
from sparsebert.patterns import Biased, HardLayer, Pattern, Union, parse_pattern
from sparsebert.patterns.batches import Batch
from sparsebert.patterns.hard_degrees import HardDegrees

LENGTHS = (1, 17, 127, 128, 129, 512, 1000)
HEADS, WIDTH = 3, 8


def hard(kept: list, weights: list | None = None, open_ended: bool = False) -> HardLayer:
    """With `open_ended` the last item of the longest list stands for all larger distances."""
    longest = max(map(len, kept)) - open_ended
    weights = None if weights is None else [weights]
    return HardLayer(
        HardDegrees(max_distance=longest, open_ended=open_ended, kept=[kept], weights=weights), 0
    )


def ramp(longest: int, by: float) -> list[float]:
    return [round(1 - by * distance / longest, 6) for distance in range(longest)]


WEIGHTS = [[0.5, -1.0, 2.0], [1.0] * 40, [-0.25 * o for o in range(5)]]
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
    "weights on the band": hard([[1] * 3, [1] * 40, ramp(5, 1)], WEIGHTS) | parse_pattern("global(cls)"),
    "an open head": hard([[1] * 2, [1] * 6, []], open_ended=True)
    | parse_pattern("neighbour(7) | global(cls)"),
    "open in part": hard([ramp(4, 1), [1, 0.5, 0, 0, 0.4], [1]], open_ended=True)
    | parse_pattern("random(2)"),
    "all heads open": hard([[0, 1]] * 3, open_ended=True) | parse_pattern("global(2)"),
    "weights on an open head": hard([[1] * 3, [1] * 40, []], WEIGHTS, open_ended=True)
    | parse_pattern("neighbour(50) | global(cls)"),
    "weights on all pairs": Biased(
        parse_pattern("neighbour(9) | global(2) | random(3)"), hard([[1] * 3, [1] * 40, [1] * 5], WEIGHTS)
    ),
}


def make_batch(length: int, padded: bool) -> Batch:
    """Rows with padding on the right and on the left beside a whole one, or two whole rows."""
    if not padded:
        return Batch.of_lengths([length, length])
    real = torch.ones(3, length, dtype=torch.bool)
    real[1, (length + 1) // 2 :] = False
    real[2, : length // 3] = False
    return Batch(real)


def make_heads(batch: Batch, dtype=torch.float64, seed: int = 0) -> list[torch.Tensor]:
    """Queries, keys and values, laid out as the layers before an attention leave them."""
    generator = torch.Generator().manual_seed(seed)
    shape = (*batch.real.shape, HEADS, WIDTH)
    drawn = [torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(3)]
    return [x.to(dtype).transpose(1, 2).requires_grad_() for x in drawn]


def written_out(pattern: Pattern, batch: Batch, heads: list[torch.Tensor]) -> torch.Tensor:
    query, key, value = heads
    scores = query @ key.transpose(-1, -2) / WIDTH**0.5
    bias = pattern.bias(batch)
    if bias is not None:
        scores = scores + bias
    allowed = pattern.allowed(batch) | ~batch.real[:, None, :, None]
    return scores.masked_fill(~allowed, -torch.inf).softmax(-1) @ value


def outcome(compute, heads: list[torch.Tensor], batch: Batch) -> list[torch.Tensor]:
    """The output at real tokens, and the gradients of queries, keys and values of a random sum of it."""
    generator = torch.Generator().manual_seed(1)
    real = batch.real[:, None, :, None]
    output = compute(*heads)
    chosen = torch.randn(output.shape, generator=generator, dtype=torch.float64)
    loss = (output.masked_fill(~real, 0) * chosen.to(output.dtype)).sum()
    return [output.detach().masked_fill(~real, 0), *torch.autograd.grad(loss, heads)]


def errors(found: list[torch.Tensor], exact: list[torch.Tensor]) -> list[float]:
    return [
        ((a.double() - b).norm() / b.norm().clamp(min=1)).item() for a, b in zip(found, exact, strict=True)
    ]


@pytest.mark.parametrize("padded", [False, True], ids=["whole", "padded"])
@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("name", PATTERNS)
def test_every_kernel_gives_what_is_written_out(name, length, padded):
    pattern, batch = PATTERNS[name], make_batch(length, padded)
    heads = make_heads(batch)
    exact = outcome(lambda *heads: written_out(pattern, batch, heads), heads, batch)
    pairs = pattern.allowed(batch).expand(-1, HEADS, -1, -1).sum().item() / HEADS
    for kernel in ("reference", "banded"):
        core = kernel_for(pattern, batch, HEADS, kernel, gradient=True)
        assert core.name == kernel or (core.name == "dense" and kernel == "reference")
        assert core.count() == pytest.approx(pairs)
        assert max(errors(outcome(core, heads, batch), exact)) < 1e-9, kernel
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


@settings(max_examples=150, deadline=None)
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
        exact = outcome(lambda *heads: written_out(pattern, batch, heads), heads, batch)
        assert core.count() == pytest.approx(
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
    monkeypatch.setattr(core.band, "sequences", core.band.sequences if padded else [(slice(0, 2), 0, 512)])
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
        core.count()
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
            found, exact = core(*heads), written_out(pattern, batch, [x.double() for x in heads])
        real = batch.real[:, None, :, None]
        assert errors([found * real], [exact * real])[0] < 1e-5


def test_kernels_are_named():
    assert set(kernel_names()) == {"auto", "reference", "banded", "flex"}


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
