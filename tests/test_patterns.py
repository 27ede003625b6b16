from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import Bool
from reference import DRAWN, Sentence, allowed
from torch import Tensor

from sparsebert.data.rows import Collator
from sparsebert.errors import InputError, UnknownName
from sparsebert.kernels import kernel_for
from sparsebert.patterns import (
    PATTERNS,
    Difference,
    Global,
    Learned,
    Neighbour,
    Pattern,
    Random,
    Union,
    Weighted,
    parse_pattern,
    parse_plan,
)
from sparsebert.patterns.batches import Batch
from sparsebert.patterns.random import random_keys
from sparsebert.registry import first_paragraph

BOOK = Path(__file__).parent.parent / "book"
_atoms = st.one_of(list(DRAWN.values()))
_each = pytest.mark.parametrize("kind", PATTERNS.values(), ids=PATTERNS)


def composed(atoms: st.SearchStrategy[Pattern]) -> st.SearchStrategy[Pattern]:
    """Unions, differences and controls of these patterns."""
    return st.recursive(
        atoms,
        lambda inner: st.one_of(
            st.builds(Pattern.__or__, inner, inner),
            st.builds(Pattern.__sub__, inner, inner),
            st.builds(
                lambda like, besides, seed: Random(None, seed, like, besides),
                inner,
                st.none() | inner,
                st.integers(0, 5),
            ),
        ),
        max_leaves=4,
    )


patterns = composed(_atoms)
_paths = st.none() | st.text("ab/.|()=,- ä'", min_size=1, max_size=5)
_with_learned = st.one_of(_atoms, st.builds(Learned, _paths))
texts = composed(st.one_of(_with_learned, st.builds(Weighted, composed(_with_learned), _paths)))


@st.composite
def batches(draw) -> Batch:
    """Sequences of 1 to 9 real tokens with words of several pieces, random trees and repeated embeddings,
    padded on either side."""
    lengths = draw(st.lists(st.integers(1, 9), min_size=1, max_size=3))
    size = max(lengths) + draw(st.integers(0, 2))
    left = draw(st.booleans())
    real = torch.zeros(len(lengths), size, dtype=torch.bool)
    word_ids = torch.full((len(lengths), size), -1)
    head_ids = torch.full((len(lengths), size), -1)
    embeddings = torch.zeros(len(lengths), size, 3)
    vocabulary = torch.randn(4, 3, generator=torch.Generator().manual_seed(draw(st.integers(0, 99))))
    for row, n in enumerate(lengths):
        start = size - n if left else 0
        words, word = [], 0
        for _ in range(n):
            word += draw(st.integers(0, 1))
            words.append(draw(st.sampled_from([-1, word, word])))
        heads = [
            draw(st.integers(0, word + 1)) for _ in range(word + 1)
        ]  # a head may be cut away by truncation
        for i in range(n):
            real[row, start + i] = True
            word_ids[row, start + i] = words[i]
            head_ids[row, start + i] = heads[words[i]] if words[i] >= 0 else -1
            embeddings[row, start + i] = vocabulary[draw(st.integers(0, 3))]
    second = torch.tensor([draw(st.integers(1, n)) for n in lengths])
    return Batch(real, word_ids, head_ids, embeddings, second)


@settings(max_examples=300)
@given(patterns, batches())
def test_allowed_equals_the_double_loop(pattern, batch):
    mask = pattern.allowed(batch)
    assert isinstance(mask, Bool[Tensor, "batch head query key"])
    for row in range(len(batch.real)):
        keep = batch.real[row].nonzero()[:, 0]
        assert mask[row, 0][keep][:, keep].tolist() == allowed(pattern, Sentence(batch, row))


@settings(max_examples=100)
@given(patterns, batches())
def test_real_queries_see_themselves_and_padding_is_never_seen(pattern, batch):
    mask = pattern.allowed(batch)[:, 0]
    assert torch.equal(mask.diagonal(dim1=1, dim2=2), batch.real)
    assert not mask[~batch.real].any()
    assert not mask.transpose(1, 2)[~batch.real].any()


@settings(max_examples=300)
@given(texts)
def test_a_pattern_prints_the_text_that_parses_back(pattern):
    assert parse_pattern(str(pattern)) == pattern


@settings(max_examples=100)
@given(patterns, patterns, st.integers(0, 5), batches())
def test_the_degree_matched_control_gives_each_token_the_same_degree(pattern, kept, seed, batch):
    control = Random(like=pattern, besides=kept, seed=seed) | kept
    assert torch.equal(control.allowed(batch).sum(-1), (pattern | kept).allowed(batch).sum(-1))


@given(st.integers(0, 6), st.integers(0, 3), st.lists(st.integers(1, 12), min_size=1, max_size=4))
def test_random_draws_k_other_keys_and_the_same_ones_whatever_the_batch(k, seed, lengths):
    together = Random(k, seed).allowed(Batch.of_lengths(lengths))
    for row, n in enumerate(lengths):
        alone = Random(k, seed).allowed(Batch.of_lengths([n]))[0, 0]
        assert torch.equal(together[row, 0, :n, :n], alone)
        assert (alone.sum(-1) - 1 == min(k, n - 1)).all()


def test_random_keys_of_long_sequences_are_drawn_some_queries_at_a_time():
    length = 1500
    assert 2 * (2**20 // length) < length  # three parts
    drawn = random_keys(3, 1, length)
    allowed = Random(3, 1).allowed(Batch.of_lengths([length]))[0, 0]
    assert torch.equal(torch.eye(length).bool().scatter(1, drawn, True), allowed)


@_each
def test_a_pattern_says_of_itself_what_lists_figures_and_errors_ask(kind):
    assert kind.signature().startswith(kind.name)
    assert first_paragraph(kind.__doc__).endswith((".", ":", ")."))
    assert kind.family.label
    for example in kind.examples:
        made = parse_pattern(example)
        assert type(made) is kind and str(made) == example
        assert made.needs <= {"word_ids", "head_ids", "embeddings", "second"}
        assert made.keepable == (not made.needs)
    with pytest.raises(UnknownName, match=f"did you mean '{kind.name}'"):
        parse_pattern(f"{kind.name}x")
    assert f"`{kind.name}" in (BOOK / "patterns_and_plans.md").read_text(encoding="utf-8")
    assert kind in DRAWN or kind.learns  # a definition in tests, or a file that says what it is


@_each
def test_a_pattern_that_position_decides_is_the_same_by_band_and_by_mask(kind):
    batch = Batch.of_lengths([40, 23])
    generator = torch.Generator().manual_seed(0)
    heads = [torch.randn(2, 2, 40, 4, generator=generator, dtype=torch.float64) for _ in range(3)]
    real = batch.real[:, None, :, None]
    for example in kind.examples:
        pattern = parse_pattern(example)
        if not pattern.learns and not pattern.needs and pattern.layout() is not None:
            band, mask = (kernel_for(pattern, batch, 2, kernel) for kernel in ("banded", "reference"))
            assert band.count == pytest.approx(mask.count)
            torch.testing.assert_close(band(*heads) * real, mask(*heads) * real)


def test_random_draws_uniformly():
    n, k, seeds = 20, 4, 400
    counts = sum(Random(k, seed).allowed(Batch.of_lengths([n]))[0, 0].int() for seed in range(seeds))
    counts.fill_diagonal_(0)
    share = counts.sum(0) / (seeds * (n - 1))  # of the other queries that draw this key
    assert (share - k / (n - 1)).abs().max() < 0.03  # six standard errors
    assert counts.max() / seeds < 0.4


def test_different_seeds_draw_different_graphs():
    batch = Batch.of_lengths([30])
    assert not torch.equal(Random(3, 0).allowed(batch), Random(3, 1).allowed(batch))


def test_minus_binds_tighter_than_union_as_in_python():
    a, b, c = Neighbour(3), Global("cls"), Neighbour(1)
    assert parse_pattern("neighbour(3) | global(cls) - neighbour(1)") == a | b - c
    assert parse_pattern("(neighbour(3) | global(cls)) - neighbour(1)") == (a | b) - c


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("neighbor(2)", "did you mean 'neighbour'"),
        ("global(cls) | neigbour(2)", "character 15"),
        ("neighbour", "write neighbour(2)"),
        ("neighbour(-1)", "from 0 up"),
        ("random(99999999999999999999)", "up to 2147483647"),
        ("(" * 5000 + "syntax", "too many parentheses"),
        ("neighbour(2", "expected"),
        ("neighbour(2) global(cls)", "unexpected 'global'"),
        ("neighbour(2) & global(cls)", "unexpected '&'"),
        ("neighbour(2) @ late", "unexpected '@': layers are named in a plan"),
        ("neighbour(2", "expected ',' or ')', found 'the end'"),
        ("random()", "random(3) or random(like=syntax)"),
        ("random(3, like=syntax)", "random(3) or random(like=syntax)"),
        ("random(3, sed=1)", "did you mean 'seed'"),
        ("random(like=3)", "like=syntax"),
        ("random(seed=1, 3)", "must come first"),
        ("global(cls, 2)", "at most 1"),
        ("lexical(k=2, k=3)", "twice"),
        ("global(first)", "unknown pattern 'first'"),
        ("", "the end"),
        ("neighbour(" + "9" * 5000 + ")", "is too large"),
        ("neighbour(٣)", "unexpected '٣'"),
        ("neighbour(²)", "unexpected '²'"),
        ("nachbär(2)", "unexpected 'ä'"),
        ("neighbour(0x10)", "expected ',' or ')'"),
        ("neighbour(1_000)", "expected ',' or ')'"),
        ("neighbour(2.5)", "unexpected '.'"),
        ("neighbour(cls)", "unknown pattern 'cls'"),
        ("x" * 5000, "unknown pattern 'xxx"),
        ("neighbour(2)\x00", "unexpected '\\x00'"),
        ("neighbour(2) |" * 5000, "at most 100 parts"),
        (" | ".join(["neighbour(1)"] * 600), "at most 100 parts"),
        (" - ".join(["neighbour(1)"] * 600), "at most 100 parts"),
        (" | ".join(["neighbour(1) - syntax"] * 300), "at most 100 parts"),
        ("random(like=" * 600 + "syntax" + ")" * 600, "write fewer"),
        ("weighted(" * 150 + "syntax" + ")" * 150, "at most 100 parts"),
        ("neighbour(1) - (" * 400 + "syntax" + ")" * 400, "write fewer"),
    ],
)
def test_a_wrong_pattern_says_what_is_wrong_and_where(text, said):
    with pytest.raises(InputError) as error:
        parse_pattern(text)
    assert said in str(error.value)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 400


@pytest.mark.parametrize(
    ("text", "canonical"),
    [("neighbour(-0)", "neighbour(0)"), ("neighbour(010)", "neighbour(10)"), ("global(000)", "global(0)")],
)
def test_odd_numbers_are_read_as_whole_ones(text, canonical):
    assert str(parse_pattern(text)) == canonical


@pytest.mark.parametrize("join", [Pattern.__or__, Pattern.__sub__, lambda a, b: Random(like=b, besides=a)])
def test_patterns_joined_in_python_end_in_a_sentence_too(join):
    pattern = Neighbour(1)
    with pytest.raises(InputError, match="at most 100 parts"):
        for _ in range(600):
            pattern = join(pattern, Neighbour(1))


@pytest.mark.parametrize("sign", [" | ", " - "])
def test_the_largest_patterns_are_printed_compared_hashed_and_walked(sign):
    text = sign.join(["neighbour(1)"] * 100)
    pattern = parse_pattern(text)
    assert str(pattern) == text
    assert pattern == parse_plan(text).steps[0][0]
    assert hash(pattern) == hash(parse_pattern(text))
    assert sum(not isinstance(part, Union | Difference) for part in pattern.walk()) == 100
    pattern.allowed(Batch.of_lengths([3]))


def test_more_hops_than_words_join_all_words_of_a_sentence_at_once():
    words = torch.arange(5)[None]
    chain = Batch(torch.ones(1, 5, dtype=torch.bool), word_ids=words, head_ids=(words - 1).clamp(min=0))
    assert parse_pattern("syntax(hops=1000000000)").allowed(chain).all()
    assert parse_pattern("syntax(hops=4)").allowed(chain).all()
    assert not parse_pattern("syntax(hops=3)").allowed(chain).all()


def test_cls_may_be_written_large():
    assert str(parse_pattern("global(CLS)")) == "global(cls)"


def test_a_missing_column_is_named():
    with pytest.raises(InputError, match="head_ids and word_ids"):
        parse_pattern("syntax | global(cls)").allowed(Batch.of_lengths([3]))


def test_the_collator_pads_each_column_with_its_own_value():
    rows = [
        {
            "input_ids": [5, 6, 7],
            "attention_mask": [1, 1, 1],
            "word_ids": [-1, 0, 0],
            "head_ids": [-1, 0, 0],
            "label": 1,
        },
        {"input_ids": [8], "attention_mask": [1], "word_ids": [-1], "head_ids": [-1], "label": 0},
    ]
    batch = Collator(pad_token_id=9)(rows)
    assert batch["input_ids"].tolist() == [[5, 6, 7], [8, 9, 9]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert batch["word_ids"].tolist() == [[-1, 0, 0], [-1, -1, -1]]
    assert batch["labels"].tolist() == [1, 0]
