from __future__ import annotations

import json
import re

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from models import tiny_model
from reference import Sentence, allowed, quantile, weights
from test_patterns import batches, patterns
from test_runs import input_hash

from sparsebert.errors import InputError, shown
from sparsebert.models.sparsified import sparsify
from sparsebert.patterns import (
    Biased,
    Dense,
    Difference,
    Global,
    HardLayer,
    Learned,
    Neighbour,
    Random,
    Union,
    Weighted,
    parse_pattern,
)
from sparsebert.patterns.batches import Batch
from sparsebert.patterns.hard_degrees import HardDegrees, kept_edges, load_degrees, quantiles
from sparsebert.patterns.plans import parse_plan
from sparsebert.sweeps.running import find_or_train
from sparsebert.training.finetuning import finetune
from sparsebert.training.runs import RunConfig

LENGTHS = list(range(15, 65))

# ---- strategies

_shares = st.sampled_from([0.0, 0.2, 0.5, 0.7, 1.0])
_weights = st.integers(-3, 3).map(float)


@st.composite
def hard_degrees(draw, heads: int = 2, layers: int = 2, weighted: bool | None = None) -> HardDegrees:
    """Degrees of 0 to 4 distances, with or without weights; rows end where a head keeps no more."""
    longest, open_ended = draw(st.integers(0, 4)), draw(st.booleans())

    def tables(values):
        row = st.lists(values, max_size=longest + open_ended)
        return draw(st.lists(st.lists(row, min_size=heads, max_size=heads), min_size=layers, max_size=layers))

    weighted = draw(st.booleans()) if weighted is None else weighted
    return HardDegrees(
        max_distance=longest,
        open_ended=open_ended,
        kept=tables(_shares),
        weights=tables(_weights) if weighted else None,
    )


_layers = st.builds(HardLayer, hard_degrees(), st.integers(0, 1))
_learned = st.one_of(
    _layers,
    st.builds(Difference, _layers, patterns),
    st.builds(Biased, patterns, st.builds(HardLayer, hard_degrees(weighted=True), st.integers(0, 1))),
)


@st.composite
def with_gaps(draw) -> Batch:
    """Sequences of at least one real token, padding among them as well as around them."""
    length = draw(st.integers(1, 12))
    rows = st.lists(st.booleans(), min_size=length, max_size=length).filter(any)
    return Batch(torch.tensor(draw(st.lists(rows, min_size=1, max_size=3))))


def assert_as_defined(pattern, batch: Batch) -> None:
    """The fast mask and weights are those of the double loop, for each row and head."""
    mask, bias = pattern.allowed(batch), pattern.bias(batch)
    mask = mask.expand(len(batch.real), 2, *mask.shape[2:])
    assert not mask[~batch.pairs.expand_as(mask)].any()
    for row in range(len(batch.real)):
        keep, sentence = batch.real[row].nonzero()[:, 0], Sentence(batch, row)
        for head in range(2):
            pairs = torch.tensor(allowed(pattern, sentence, head))
            assert torch.equal(mask[row, head][keep][:, keep], pairs)
            expected = weights(pattern, sentence, head)
            assert (bias is None) == (expected is None)
            if bias is not None:
                found = bias.expand_as(mask)[row, head][keep][:, keep]
                torch.testing.assert_close(found[pairs], torch.tensor(expected)[pairs])


@settings(max_examples=100)
@given(_layers, st.one_of(with_gaps(), batches()))
def test_hard_degrees_keep_and_weigh_the_edges_of_their_definition(pattern, batch):
    assert_as_defined(pattern, batch)


@settings(max_examples=100)
@given(st.lists(st.one_of(_learned, patterns), min_size=2, max_size=3), batches())
def test_a_union_weighs_each_part_by_itself_and_no_pair_that_a_part_without_weights_allows(parts, batch):
    assert_as_defined(Union(tuple(parts)), batch)


@settings(max_examples=60)
@given(_layers, patterns, st.integers(0, 3), st.integers(0, 5), batches())
def test_random_draws_besides_learned_degrees(hard, pattern, k, seed, batch):
    assert_as_defined(Random(k, seed, besides=hard), batch)
    assert_as_defined(Random(None, seed, like=pattern, besides=hard), batch)


@settings(max_examples=60)
@given(_layers, st.none() | patterns, st.integers(0, 5), batches())
def test_random_is_the_degree_matched_control_of_learned_degrees(hard, besides, seed, batch):
    control = Random(like=hard, besides=besides, seed=seed)
    assert_as_defined(control, batch)
    if besides is None:
        assert torch.equal(control.allowed(batch).sum(-1), hard.allowed(batch).sum(-1))


@given(with_gaps())
def test_distances_count_real_tokens_and_not_the_places_of_a_row(batch):
    for row, real in enumerate(batch.real):
        places = real.nonzero()[:, 0]
        table = batch.distances.expand(len(batch.real), -1, -1)[row][places][:, places]
        assert table.tolist() == [[abs(i - j) for j in range(len(places))] for i in range(len(places))]


def test_rows_without_gaps_share_one_table_of_distances():
    on_the_left = Batch(torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 0, 0], [0, 1, 1, 0, 0]]).bool())
    assert Batch.of_lengths([5, 2]).distances.shape == on_the_left.distances.shape == (1, 5, 5)
    gap = Batch(torch.tensor([[1, 1, 0, 1, 1], [1, 1, 1, 1, 1]]).bool())
    assert gap.distances[0, 1, 3] == 1 and gap.distances[1, 1, 3] == 2
    plain = HardLayer(HardDegrees(max_distance=1, kept=[[[1]]]), 0)
    assert plain.allowed(gap)[:, 0, 1, 3].tolist() == [True, False]


# ---- irregular degrees follow their distribution


@settings(max_examples=60)
@given(st.lists(st.floats(0.01, 1), min_size=2, max_size=9), st.integers(25, 300), st.integers(0, 5))
def test_realised_degrees_are_the_quantiles_of_the_distribution(masses, n, layer):
    p = torch.tensor(masses, dtype=torch.float64)
    p /= p.sum()
    longest, heads = len(p) - 1, 3
    survival = p.flip(0).cumsum(0).flip(0)
    table = torch.cat([survival, torch.zeros(1)]).float().repeat(heads, 1)
    table[:, 0] = 1
    mask = kept_edges(table, layer, Batch.of_lengths([n]))[0]
    drawn = [quantile(i, layer * heads + head) for head in range(heads) for i in range(n)]
    # Shares are kept in 32 bits: a quantile that equals one but for rounding may fall on either side.
    assume(all(abs(number - float(share)) > 1e-6 for number in drawn for share in survival))
    for head in range(heads):
        # Near a boundary a token's neighbours are missing on one side only, since n > 2 * longest.
        right = [int(mask[head, i, i + 1 :].sum()) for i in range(n)]
        left = [int(mask[head, i, :i].sum()) for i in range(n)]
        degrees = [max(pair) for pair in zip(left, right, strict=True)]
        expected = [quantile_of(p, 1 - quantile(i, layer * heads + head)) for i in range(n)]
        assert degrees == expected
        for degree in range(longest + 1):
            # Drawn independently, such a count would vary by sqrt(n p (1 - p)), up to 8 for n = 300.
            assert abs(degrees.count(degree) - n * p[degree]) < 3


def quantile_of(p, level: float) -> int:
    """The smallest degree such that this share of the tokens has no larger one."""
    below = 0.0
    for degree, mass in enumerate(p.tolist()):
        below += mass
        if below >= level:
            return degree
    return len(p) - 1


def test_kept_edges_reach_equally_far_on_both_sides():
    table = torch.tensor([[1, 0.8, 0.5, 0.2, 0.0]])
    mask = kept_edges(table, 1, Batch.of_lengths([40]))[0, 0]
    for i in range(3, 37):
        assert mask[i, i - 3 : i].flip(0).tolist() == mask[i, i + 1 : i + 4].tolist()
    assert not torch.equal(mask, mask.T)  # a token's degree is its own, not its neighbour's


def test_heads_and_layers_start_their_quantiles_at_different_places():
    starts = [quantiles(torch.arange(1)[None], layer, 4)[0, :, 0] for layer in range(3)]
    assert torch.cat(starts).unique().numel() == 12
    assert torch.cat(starts).max() < 1 and torch.cat(starts).min() >= 0


def test_shares_are_met_over_heads_and_texts_of_any_length():
    degrees = HardDegrees(max_distance=3, kept=[[[0.37, 0.37, 0.11]] * 4] * 2)
    batch = Batch.of_lengths(LENGTHS)
    for layer in range(2):
        mask = HardLayer(degrees, layer).related(batch) & batch.pairs
        for distance, share in ((1, 0.37), (2, 0.37), (3, 0.11)):
            pairs = (batch.distances == distance)[:, None] & batch.pairs
            assert (mask & pairs).sum() / pairs.sum() / 4 == pytest.approx(share, abs=0.02)


# ---- files


@given(hard_degrees(heads=3))
def test_degrees_are_read_as_they_were_saved(degrees):
    assert HardDegrees.model_validate_json(degrees.to_json()) == degrees


def test_a_file_has_a_line_for_each_head(tmp_path):
    degrees = HardDegrees(max_distance=2, kept=[[[1, 0.5], []], None], weights=[[[0.25, -1], []], None])
    path = degrees.save(tmp_path / "new" / "folder" / "d.json")
    assert load_degrees(str(path)) == degrees
    lines = [line.strip() for line in path.read_text().splitlines()]
    assert {"[1.0, 0.5],", "[0.25, -1.0],", "null"} <= set(lines) and lines.count("[]") == 2
    assert json.loads(path.read_text())["max_distance"] == 2


def test_a_table_has_a_column_for_all_larger_distances():
    kept = [[[1, 0.5, 0.25], [1]]]
    closed = HardDegrees(max_distance=3, kept=kept)
    assert closed.table(0).tolist() == [[1, 1, 0.5, 0.25, 0], [1, 1, 0, 0, 0]]
    opened = HardDegrees(max_distance=2, open_ended=True, kept=kept, weights=[[[3, 2, 1], []]])
    assert opened.table(0).tolist() == [[1, 1, 0.5, 0.25], [1, 1, 0, 0]]
    assert opened.weight_table(0).tolist() == [[0, 3, 2, 1], [0, 0, 0, 0]]


def test_the_hash_of_a_file_follows_what_it_means_and_not_its_layout(tmp_path):
    degrees, path = HardDegrees(max_distance=1, kept=[[[0.5]]]), tmp_path / "d.json"
    plan = parse_plan(f'learned("{degrees.save(path)}")')
    before = plan.file_hashes
    path.write_text(json.dumps(json.loads(path.read_text())))
    assert plan.file_hashes == before
    path.write_text(path.read_text().replace("0.5", "0.75"))
    assert plan.file_hashes != before


def refusal(call) -> str:
    with pytest.raises(InputError) as refused:
        call()
    assert "\n" not in str(refused.value)
    return str(refused.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "invalid JSON"),
        ("[]", "an object"),
        ('{"max_distance": 1, "kept": [[[1]]]', "invalid JSON"),
        ('{"max_distance": 1}', "kept: field required"),
        ('{"max_distance": 1, "kept": [[[1]]], "wights": []}', "wights"),
        ('{"max_distance": 1, "kept": [[[1.5]]]}', "kept.0.0.0"),
        ('{"max_distance": 1, "kept": [[[-0.5]]]}', "kept.0.0.0"),
        ('{"max_distance": -1, "kept": [[[]]]}', "max_distance"),
        ('{"max_distance": 1, "kept": [[[1, 1]]]}', "no row is longer than max_distance, 1"),
        ('{"max_distance": 1, "kept": [[[1], [1]], [[1]]]}', "a row for each head"),
        ('{"max_distance": 1, "kept": [[]]}', "a row for each head"),
        ('{"max_distance": 1, "kept": [[[1], [1]]], "weights": [[[1]]]}', "weights"),
        ('{"max_distance": 1, "kept": [[[1], [1]]], "weights": [null]}', "weights"),
        ('{"max_distance": 1, "kept": [[[1], [1]]], "weights": []}', "weights"),
        ('{"max_distance": 1, "kept": [[[NaN]]]}', "kept.0.0.0"),
        ('{"max_distance": 1, "kept": [[[1]]], "weights": [[[NaN]]]}', "weights.0.0.0"),
        ('{"max_distance": 1, "kept": [[[1]]], "weights": [[[-Infinity]]]}', "weights.0.0.0"),
    ],
)
def test_a_file_that_holds_something_else_is_refused(tmp_path, text, said):
    path = tmp_path / "d.json"
    path.write_text(text)
    answer = refusal(lambda: load_degrees(str(path)))
    assert (
        answer.startswith(f"the file of learned degrees '{shown(path)}' cannot be read: ") and said in answer
    )


@pytest.mark.parametrize("share", [0.1, 0.5, 0.98])
def test_a_torn_file_is_refused(tmp_path, share):
    path = HardDegrees(max_distance=3, kept=[[[1, 1, 0.5]] * 2] * 2).save(tmp_path / "d.json")
    path.write_text(path.read_text()[: int(len(path.read_text()) * share)])
    assert "cannot be read" in refusal(lambda: load_degrees(str(path)))


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    assert "no.json' cannot be read: No such file" in refusal(lambda: load_degrees(f"{tmp_path}/no.json"))
    assert "--save FOLDER" in refusal(lambda: load_degrees(str(tmp_path)))


def test_a_path_may_start_at_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    degrees = HardDegrees(max_distance=1, kept=[[[1]]])
    degrees.save(tmp_path / "d.json")
    assert load_degrees("~/d.json") == degrees


# ---- the patterns `learned` and `weighted`


@pytest.fixture
def saved(workspace):
    """`d.json` in the working folder: degrees with weights for layers 1 and 3 of 4, of 2 heads each."""
    layer = [[1, 0.5], [0.25]]
    HardDegrees(
        max_distance=2, kept=[None, layer, None, [[1], []]], weights=[None, [[1, -1], [2]], None, [[0], []]]
    ).save("d.json")
    return workspace / "d.json"


def test_a_pattern_is_another_one_at_each_layer(saved):
    batch = Batch.of_lengths([9, 4])
    degrees = load_degrees("d.json")
    first, other = (parse_pattern("learned(d.json) | global(1)").at(layer) for layer in (1, 3))
    assert not torch.equal(first.allowed(batch), other.allowed(batch))
    assert_as_defined(first, batch)
    assert_as_defined(Weighted(Neighbour(2), "d.json").at(1), batch)
    assert torch.equal(HardLayer(degrees, 1).allowed(batch), Learned("d.json").at(1).allowed(batch))
    nested = parse_pattern('weighted(learned("d.json") | random(1, besides=learned(d.json)), "d.json")')
    assert_as_defined(nested.at(1), batch)


@pytest.mark.parametrize(
    ("plan", "said"),
    [
        ("learned(d.json)", "for the layers [1, 3] and not for 0"),
        ("learned(d.json) @ 1-3", "and not for 2"),
        ("weighted(dense, d) @ 0", "unknown pattern 'd'"),
        ('weighted(dense, "d.json") @ 0', "and not for 0"),
        ("random(2, besides=learned(d.json)) @ 2", "and not for 2"),
        ("learned(no.json) @ 1", "'no.json' cannot be read"),
        ("learned @ 1", 'write learned("FILE")'),
        ("global(cls) | learned() @ 1", "--learn-degrees"),
        ("learned(d.json)", "place them there"),
    ],
)
def test_degrees_that_do_not_fit_a_plan_are_refused_and_the_model_stays_as_it_was(saved, plan, said):
    model = tiny_model("bert")
    assert said in refusal(lambda: sparsify(model, plan))
    assert model.config._attn_implementation == "sdpa" and not model.base_model._forward_pre_hooks


def test_degrees_of_another_number_of_heads_are_refused(saved):
    said = refusal(lambda: sparsify(tiny_model("bert", num_attention_heads=4), "learned(d.json) @ 1"))
    assert said == "these degrees were learned for 2 heads a layer, and this encoder has 4"


def test_no_quantile_rounds_up_to_one():
    every = quantiles(torch.tensor([[19973]]), layer=8, heads=12)  # in float64 the fourth lies nearest to 1
    assert every[0, 3, 0] > 0.999999 and every.max() < 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("learned(3, 4)", "at most 1"),
        ("learned(a b)", "found 'b'"),
        ("learned(neighbour(2))", "found '('"),
        ("learned(a.json", "expected ','"),
        ('learned("a.json)', "unexpected '\"' (character 9"),
        ('learned("")', "the path of a JSON file"),
        ('learned("a;b")', "without quotes, ';' and '@' in it, not 'a;b'"),
        ('learned("a@b")', "without quotes, ';' and '@' in it, not 'a@b'"),
        ("lerned", "did you mean 'learned'"),
        ("weighted", "write weighted(neighbour(2))"),
        ("weighted(3)", "takes a pattern as pattern, such as pattern=syntax"),
        ('weighted("a.json")', "takes a pattern as pattern, such as pattern=syntax"),
        ("weighted(neighbour(2), 3)", "path of a JSON file"),
        ("weighted(neighbour(2), syntax)", "path of a JSON file"),
        ("weighted(neighbour(2), file=3)", "unknown argument of weighted 'file'"),
        ('"a.json"', "expected a pattern"),
        ('neighbour("a.json")', "from 0 up"),
        ('random(like="a.json")', "like=syntax"),
    ],
)
def test_a_wrong_pattern_says_what_is_wrong(text, said):
    assert said in refusal(lambda: parse_pattern(text))


def test_weights_from_a_file_without_any_are_refused(tmp_path):
    path = tmp_path / "bare.json"
    HardDegrees(max_distance=1, kept=[[[1.0]]]).save(path)
    plan = parse_plan(f'weighted(neighbour(1), "{path}")')
    assert "has degrees without weights" in refusal(lambda: plan.layers(1))


@pytest.mark.parametrize("plan", ['learned("a;b")', 'learned("a@b") @ 1', 'dense @ 0; learned("a@b")'])
def test_a_plan_with_signs_of_plans_in_a_path_is_refused(plan):
    refusal(lambda: parse_plan(plan))


@pytest.mark.parametrize(
    ("text", "pattern"),
    [
        ("learned", Learned()),
        ("learned( )", Learned()),
        ("learned(runs/a-1.json)", Learned("runs/a-1.json")),
        ("learned(5)", Learned("5")),
        ('learned( "my runs/a|b (1).json" )', Learned("my runs/a|b (1).json")),
        ('learned(path="a")', Learned("a")),
        ('learned(")") | dense', Learned(")") | Dense()),
        ('weighted(learned("a") | global(cls))', Weighted(Learned("a") | Global("cls"))),
        ('weighted(neighbour(1), path="a")', Weighted(Neighbour(1), "a")),
        ("learned(a) - neighbour(1)", Learned("a") - Neighbour(1)),
    ],
)
def test_a_path_is_written_with_or_without_quotes(text, pattern):
    assert parse_pattern(text) == pattern == parse_pattern(str(pattern))


def test_a_plan_knows_its_files_and_can_rename_them():
    plan = parse_plan(
        'learned(a) | global(cls) @ 0; weighted(learned(b), "a") @ 1; random(like=learned(c)) - learned @ 2'
    )
    assert list(plan.files) == ["a", "b", "c"]
    renamed = plan.with_files(lambda path: path.upper() if path else "new")
    assert str(renamed) == (
        'learned("A") | global(cls) @ 0; weighted(learned("B"), "A") @ 1; '
        'random(like=learned("C")) - learned("new") @ 2'
    )
    assert plan.open_layers(3, "degrees") == [2] and plan.open_layers(3, "weights") == []


# ---- runs with degrees from a file


@pytest.fixture
def fitting(workspace):
    """Degrees for the tiny encoder: 2 layers of 2 heads."""
    path = workspace / "tiny.json"
    HardDegrees(max_distance=2, kept=[[[1, 0.5], []], [[1], [1, 1]]]).save(path)
    return path


def test_a_run_with_degrees_from_a_file_has_the_density_of_its_definition(small, fitting):
    record = finetune(RunConfig(**small | {"plan": f'learned("{fitting}") | global(cls)'}))
    assert record.learning is None
    lengths = lengths_of_validation(small)
    pairs = sum(n * n for n in lengths)
    for layer in range(2):
        pattern = HardLayer(load_degrees(str(fitting)), layer) | Global("cls")
        rows = [Sentence(Batch.of_lengths([n]), 0) for n in lengths]
        kept = sum(sum(map(sum, allowed(pattern, row, head))) for row in rows for head in range(2)) / 2
        assert record.density_per_layer[layer] == pytest.approx(kept / pairs, rel=1e-6)


def lengths_of_validation(small) -> list[int]:
    from sparsebert.data.tasks import get_task
    from sparsebert.models.encoders import load_tokenizer

    texts = get_task(small["task"]).load()["validation"]["text"]
    return [len(load_tokenizer("tiny")(text)["input_ids"]) for text in texts]


def test_a_run_is_found_again_until_its_degrees_change(small, fitting, capsys):
    config = RunConfig(**small | {"train_size": 8, "plan": f'learned("{fitting}") | global(cls)'})
    before = input_hash(config)
    assert before != input_hash(config.model_copy(update={"plan": "dense"}))
    first, found = find_or_train(config)
    assert not found and first.data_hash == before
    assert find_or_train(config) == (first, True)

    fitting.write_text(fitting.read_text().replace("0.5", "0.75"))
    assert input_hash(config) != before
    second, found = find_or_train(config)
    assert not found and second.name == first.name and second.density > first.density
    assert "moved to" in capsys.readouterr().err


def test_a_run_whose_file_is_gone_says_so_before_anything_is_prepared(small, workspace):
    config = RunConfig(**small | {"plan": "learned(gone.json)"})
    assert "'gone.json' cannot be read" in refusal(lambda: find_or_train(config))
    assert re.search("'gone.json' cannot be read", refusal(lambda: finetune(config)))
    assert not (workspace / "cache").exists()


def test_a_head_is_unbounded_if_most_tokens_keep_the_edges_beyond_the_largest_distance():
    kept = [[[1.0, 1.0, 0.8], [1.0, 0.5]], None, [[1.0], [1.0, 1.0, 0.4]]]
    assert HardDegrees(max_distance=2, open_ended=True, kept=kept).unbounded_heads() == [(0, 0)]
    assert HardDegrees(max_distance=3, kept=kept).unbounded_heads() == []
