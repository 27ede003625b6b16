"""`segments(a sees b)`: its definition, for the generic tests, what a batch says of pairs, and its kernel."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import Sentence, allowed, naive, pairs
from test_kernels import SCALE, Largest, scaled
from test_packaged import e5_file

from sparsebert.data.tokenizing import one_sentence
from sparsebert.errors import InputError
from sparsebert.kernels import check_kernel, kernel_for
from sparsebert.models.encoders import load_tokenizer
from sparsebert.models.packaged import e5
from sparsebert.models.sparsified import sparsify
from sparsebert.patterns import Neighbour, Segments, parse_pattern
from sparsebert.patterns.batches import KINDS, Batch, tokens_before_second
from sparsebert.selftest.attention import HEADS, attended, errors, make_heads, outcome
from sparsebert.selftest.models import tiny_model

ASYMMETRIC = (
    "neighbour(4) - segments(first sees cls and second) | segments(second sees cls and first, cls sees all)"
)
_SIDE = st.lists(st.sampled_from([*KINDS, "all"]), min_size=1, max_size=2).map(" and ".join)
_RULES = st.lists(st.builds("{} sees {}".format, _SIDE, _SIDE), min_size=1, max_size=3).map(", ".join)


@naive(Segments, _RULES)
def segments(pattern, sentence):
    def kind(i):
        return "cls" if i == 0 else "first" if i < sentence.second else "second"

    rules = [rule.split(" sees ") for rule in pattern.rules.split(", ")]

    def among(i, side):
        return kind(i) in side.split(" and ") or "all" in side

    return pairs(sentence, lambda i, j: any(among(i, a) and among(j, b) for a, b in rules))


def pairs_of_texts(*rows: tuple[int, int, int]) -> Batch:
    """Rows of a first text with [CLS], a second text, and padding on the left."""
    length = max(sum(row) for row in rows)
    real = torch.zeros(len(rows), length, dtype=torch.bool)
    for row, (first, second, padding) in zip(real, rows, strict=True):
        row[padding : padding + first + second] = True
    return Batch(real, second=torch.tensor([first for first, _, _ in rows]))


# ---- its text ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("segments( second  sees first )", "segments(second sees first)"),
        ("segments(Second sees CLS,cls sees all)", "segments(second sees cls, cls sees all)"),
        (ASYMMETRIC, ASYMMETRIC),
    ],
)
def test_its_text_has_one_form(text, canonical):
    pattern = parse_pattern(text)
    assert str(pattern) == canonical
    assert parse_pattern(canonical) == pattern
    assert parse_pattern("segments(second sees first)") == Segments(" second sees first")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("segments", "segments needs rules: write segments(second sees first)"),
        ("segments()", "of cls, first, second and all, with commas between rules, not '' (character 1"),
        ("segments(second sees third)", "not 'second sees third'"),
        ("segments(first sees second sees cls)", "not 'first sees second sees cls'"),
        ("segments(second > first)", "such as 'second sees cls and first', of cls"),
        ("segments(cls and sees first)", "not 'cls and sees first'"),
        ("segments(first sees cls, 2)", "not '2' (character 1 of"),
        ("segments(first sees cls", "expected ')', found 'the end'"),
        ("neighbour(2 > 1)", "unexpected '>'"),
    ],
)
def test_wrong_rules_are_refused_in_one_sentence(text, said):
    with pytest.raises(InputError) as error:
        parse_pattern(text)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


# ---- what a batch says of pairs ---------------------------------------------------------------------


@pytest.mark.parametrize("encoder", ["tiny", "e5"])
def test_the_second_text_begins_behind_the_first_separator_whatever_the_encoder(encoder, tmp_path):
    if encoder == "e5":  # two separators, no types
        e5.write_encoder(e5_file()[0], tmp_path)
    tokenizer = load_tokenizer(str(tmp_path) if encoder == "e5" else encoder)
    first, second = ["a text", "one that is a bit longer", "alone"], ["the second", "b", ""]
    for side in ("right", "left"):
        given = tokenizer(first, second, padding=True, padding_side=side, return_tensors="pt")
        real = given["attention_mask"].bool()
        before = [len(tokenizer(text)["input_ids"]) for text in first]
        found = tokens_before_second(real, given["input_ids"])
        assert found.tolist() == before
        if "token_type_ids" in given:
            types = given["token_type_ids"]
            assert tokens_before_second(real, None, types).tolist() == before
            assert tokens_before_second(real, given["input_ids"] * 0 + real.cumsum(-1), types).equal(found)
    alone = tokenizer(first, return_tensors="pt", padding=True)
    real = alone["attention_mask"].bool()
    assert tokens_before_second(real, alone["input_ids"]).equal(real.sum(-1))


def test_a_batch_that_says_nothing_of_pairs_is_refused_in_one_sentence():
    real = torch.ones(2, 4, dtype=torch.bool)
    with pytest.raises(InputError, match=r"since its rows don't all end .*token_type_ids that are 1"):
        tokens_before_second(real, torch.arange(8).view(2, 4))
    with pytest.raises(InputError, match="second text begins, since it has no input_ids; give"):
        tokens_before_second(real, None)
    for kernel in ("auto", "reference"):
        with pytest.raises(InputError, match=r"reads second, which this batch lacks; .*Batch.second"):
            kernel_for(parse_pattern("segments(second sees first)"), Batch(real), HEADS, kernel).count  # noqa: B018
    assert tokens_before_second(real & False, torch.zeros(2, 4).long()).tolist() == [0, 0]


def test_a_sentence_with_a_separator_is_a_pair():
    tokens, batch = one_sentence("Who wrote it? [SEP] She did.", "tiny", frozenset({"second"}))
    assert batch.second.item() == tokens.index("[SEP]") + 1


@pytest.mark.parametrize("kind", ["bert", "roberta", "distilbert", "mpnet", "modernbert"])
def test_a_models_output_is_the_same_alone_in_a_batch_and_for_each_kernel(kind):
    model = tiny_model(kind)
    rows = [[3, 8, 9, 2, 7, 6, 5, 11, 12, 13, 14, 2], [3, 8, 2, 2, 9, 2], [3, 4, 5, 2]]
    batch = torch.full((3, 12), model.config.pad_token_id)
    for ids, padded in zip(rows, batch, strict=True):
        padded[: len(ids)] = torch.tensor(ids)
    real = torch.tensor([[i < len(ids) for i in range(12)] for ids in rows])
    plan = f"{ASYMMETRIC.replace('4', '1')}"
    with torch.no_grad(), sparsify(model, plan):
        together = model(input_ids=batch, attention_mask=real.long()).logits
        for ids, expected in zip(rows, together, strict=True):
            alone = model(input_ids=torch.tensor([ids])).logits[0]
            assert (alone - expected).norm() < 1e-8 * expected.norm()
    windowed = kind == "modernbert"  # "segmented" knows nothing of an encoder's own window
    for kernel in ("auto", "reference") if windowed else ("segmented", "reference"):
        with torch.no_grad(), sparsify(model, plan, kernel=kernel) as sparse, sparse.measure() as meter:
            found = model(input_ids=batch, attention_mask=real.long()).logits
            assert (found - together).norm() < 1e-8 * together.norm()
            assert windowed or set(sparse.kernels) == {kernel}
        columns = Batch(real, second=torch.tensor([4, 3, 4]))
        allowed = parse_pattern(plan).allowed(columns)[:, 0]
        squares = real.sum(-1).square().sum()
        for layer, density in enumerate(meter.over_real):
            window = sparse.architecture.windows.get(layer, 12)
            near = columns.distances <= window
            assert density == pytest.approx((allowed & near).sum() / squares)


def test_a_plan_for_the_kernel_may_have_dense_layers():
    model, ids = tiny_model("bert"), torch.tensor([[2, 8, 9, 3, 10, 3]])
    plan = "segments(second sees first) @ late"
    with torch.no_grad(), sparsify(model, plan):
        expected = model(input_ids=ids).logits
    with torch.no_grad(), sparsify(model, plan, kernel="segmented") as sparse:
        torch.testing.assert_close(model(input_ids=ids).logits, expected)
    assert sparse.kernels == ["dense", "dense", "segmented", "segmented"]


def test_an_encoders_own_window_leaves_the_kernel_to_the_reference():
    pattern, batch = parse_pattern("segments(second sees first)"), pairs_of_texts((20, 20, 0))
    found = kernel_for(pattern, batch, HEADS, window=5)
    near = batch.distances <= 5
    assert found.count == (pattern.allowed(batch)[:, 0] & near).sum() == 55
    with pytest.raises(InputError, match="the encoder has a window of its own"):
        kernel_for(pattern, batch, HEADS, "segmented", window=5)


def test_the_query_of_the_asymmetric_cross_encoder_sees_neither_the_document_nor_cls():
    allowed = parse_pattern(ASYMMETRIC).allowed(pairs_of_texts((6, 20, 0)))[0, 0]
    assert not allowed[1:6, 6:].any() and not allowed[1:6, 0].any()
    assert allowed[1:6, 1:6].all() and allowed[0].all() and allowed[6:, :6].all()
    assert allowed[15].nonzero()[:, 0].tolist() == [*range(6), *range(11, 20)]


# ---- its kernel -------------------------------------------------------------------------------------

TEXTS = [
    ASYMMETRIC,
    "segments(second sees first)",
    "neighbour(3) | segments(second sees first) | global(cls)",
    "neighbour(3) | segments(second sees cls, cls sees second)",
    "neighbour(5) - segments(second sees first)",
    "neighbour(20) - segments(first sees all, second sees second) | segments(cls sees second)",
    "dilated(2, 3) | segments(first sees second, first sees first)",
    "dense - segments(first sees second, all sees cls)",
    "(global(cls) | neighbour(2)) - segments(cls sees all) | neighbour(0)",
    "segments(first sees first, second sees second) | global(1)",
]
BATCHES = [
    pairs_of_texts((7, 120, 0)),
    pairs_of_texts((40, 61, 3), (90, 17, 0), (33, 0, 20), (1, 0, 0), (1, 50, 9), (2, 1, 0)),
]


def _agrees(pattern, batch, rounded=False):
    heads = make_heads(batch)
    exact = outcome(attended(pattern, batch), heads, batch)
    core = kernel_for(pattern, batch, HEADS, "segmented", gradient=True)
    assert core.count == pattern.allowed(batch).sum().item()
    assert max(errors(outcome(core, heads, batch), exact)) < 1e-9
    otherwise = outcome(scaled(attended(pattern, batch)), heads, batch)
    assert max(errors(outcome(partial(core, scale=SCALE), heads, batch), otherwise)) < 1e-9
    for dtype, bound in ((torch.float32, 1e-5), (torch.bfloat16, 3e-2)) if rounded else ():
        rounded = [x.detach().to(dtype).requires_grad_() for x in heads]
        assert max(errors(outcome(core, rounded, batch), exact)) < bound, dtype


@pytest.mark.parametrize("written_out", [False, True])
@pytest.mark.parametrize("batch", BATCHES, ids=["one", "many"])
@pytest.mark.parametrize("text", TEXTS)
def test_the_kernel_gives_what_is_written_out(text, batch, written_out, monkeypatch):
    from sparsebert.kernels import banded, segmented

    if written_out:
        monkeypatch.setattr(banded, "_FUSED", None)
        monkeypatch.setitem(banded._SCORES, "cpu", 2000)
        monkeypatch.setattr(segmented, "_FEWEST", 8)
    _agrees(parse_pattern(text), batch, rounded=True)


_parts = st.sampled_from(["neighbour(2)", "neighbour(6)", "dilated(2, 2)", "global(cls)", "dense"])
_parts = st.one_of(_parts.map(parse_pattern), st.builds(Segments, _RULES))


@st.composite
def _joined(draw):
    pattern = draw(_parts)
    for _ in range(draw(st.integers(1, 3))):
        other = draw(_parts)
        pattern = pattern | other if draw(st.booleans()) else pattern - draw(st.builds(Segments, _RULES))
    return pattern


_row = st.tuples(st.integers(1, 40), st.integers(0, 40), st.integers(0, 3))


@settings(max_examples=60)
@given(_joined(), st.lists(_row, min_size=1, max_size=3))
def test_whatever_is_joined_has_the_pairs_of_its_definition(pattern, rows):
    batch, layout = pairs_of_texts(*rows), pattern.layout()
    if layout is not None and layout.by_kind:
        mask = pattern.allowed(batch)[0, 0]
        keep = batch.real[0].nonzero()[:, 0]
        assert mask[keep][:, keep].tolist() == allowed(pattern, Sentence(batch, 0))
        _agrees(pattern, batch)


def test_tables_by_offset_are_added_and_learned():
    batch = BATCHES[1]
    table = torch.randn(HEADS, 21, dtype=torch.float64, requires_grad=True)
    heads = [*make_heads(batch), table]
    for text in TEXTS[:3]:
        exact = outcome(attended(parse_pattern(text), batch), heads, batch)
        core = kernel_for(parse_pattern(text), batch, HEADS, "segmented", gradient=True)
        found = outcome(lambda q, k, v, table, core=core: core(q, k, v, by_offset=table), heads, batch)
        assert max(errors(found, exact)) < 1e-9


def test_the_gradient_with_dropout_is_that_of_the_weights_that_were_left():
    batch = pairs_of_texts((5, 30, 0))
    core = kernel_for(parse_pattern(ASYMMETRIC), batch, HEADS, "segmented", 0.5, gradient=True)

    def loss(*heads):
        torch.manual_seed(3)
        return core(*heads, dropout=0.5).square().sum()

    torch.autograd.gradcheck(loss, make_heads(batch), fast_mode=True)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("segments(second sees first) | random(2)", "one band"),
        ("segments(second sees first) | global(2)", "one band"),
        ("neighbour(3) - segments(first sees second) | neighbour(2)", "one band"),
        ("neighbour(3) | global(cls)", "not made of segments"),
    ],
)
def test_what_the_kernel_cannot_compute_is_left_to_the_reference(text, said):
    with pytest.raises(InputError, match=said):
        check_kernel("segmented", parse_pattern(text))
    if "segments" in text:
        batch = pairs_of_texts((5, 9, 0))
        assert kernel_for(parse_pattern(text), batch, HEADS).name == "reference"
        with pytest.raises(InputError, match="write kernel=auto"):
            kernel_for(parse_pattern(text), batch, HEADS, "banded")


def test_auto_takes_the_kernel_for_long_documents_and_no_mask_is_made_then():
    for pattern in map(parse_pattern, (ASYMMETRIC, TEXTS[2], "neighbour(4) | segments(second sees cls)")):
        assert kernel_for(pattern, pairs_of_texts((10, 30, 0)), HEADS).name == "reference"
        batch = pairs_of_texts((30, 4000, 0))
        with Largest() as largest:
            core = kernel_for(pattern, batch, HEADS)
            core(*make_heads(batch, torch.float32)).sum().backward()
        assert core.name == "segmented"
        assert largest.elements < 4030**2 / 4


def test_differences_of_patterns_by_position_alone_have_no_layout_of_kinds():
    assert (Neighbour(3) - Neighbour(1)).layout() is None
    assert parse_pattern("global(cls) - neighbour(0)").layout().tokens == 1
