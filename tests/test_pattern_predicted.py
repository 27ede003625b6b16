"""Masks that are predicted: the network as loops, one mask whatever the batch, and how a run learns it."""

from __future__ import annotations

import itertools
import math
import sys
from dataclasses import replace

import pytest
import torch
from models import tiny_batch, tiny_model
from safetensors.torch import load_file, save_file
from test_finetune import interrupt_at, results
from test_saving import encoded, said

from sparsebert.models.architectures import architecture_of
from sparsebert.models.encoders import load_classifier
from sparsebert.models.predictors import Predictors, attach_masks
from sparsebert.models.sparsified import sparsify
from sparsebert.patterns import parse_pattern, parse_plan
from sparsebert.patterns.batches import Batch
from sparsebert.patterns.predicted import PredictedLayer, Predictor
from sparsebert.selftest.models import HEADS, LAYERS, HandMasked, computed_by_hand, outputs_and_gradients
from sparsebert.training.finetuning import evaluate, finetune
from sparsebert.training.resolved import attach_learner
from sparsebert.training.runs import RunConfig
from sparsebert.training.saving import load, save

TOKENS, WIDTH = 60, 6  # 10 maps, of which 8 are taken


def predictor(seed: int = 0) -> Predictor:
    """A random one in float64, some of whose entries are too small to count."""
    torch.manual_seed(seed)
    made = Predictor(WIDTH, TOKENS).double()
    with torch.no_grad():
        made.sums.mul_(20)
        made.maps.mul_(4)
    return made


def heads_of(real: torch.Tensor, seed: int = 0) -> Batch:
    """Random queries and keys, of padding too."""
    generator = torch.Generator().manual_seed(seed)
    shape = (len(real), HEADS, real.shape[1], WIDTH)
    made = [torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2)]
    return Batch(real, queries=made[0], keys=made[1])


def padded() -> Batch:
    """Texts of 11, 7, 1 and 9 tokens, with padding on the right, on the left and in between."""
    real = torch.zeros(4, 11, dtype=torch.bool)
    real[0], real[1, :7], real[2, :1], real[3, 1:4], real[3, 5:] = True, True, True, True, True
    return heads_of(real)


def alone(batch: Batch, row: int) -> Batch:
    """One text without its padding."""
    keep = batch.real[row]
    queries, keys = (heads[row : row + 1, :, keep] for heads in (batch.queries, batch.keys))
    return Batch(keep[None, keep], queries=queries, keys=keys)


def scores_by_hand(made: Predictor, text: Batch, sparse: bool) -> list[list[list[float]]]:
    """Of one text without padding: a score for each head, query and key."""
    length, count = text.real.shape[1], made.maps.shape[1]
    sums, maps = made.sums.tolist(), made.maps.tolist()
    found = []
    for head in range(HEADS):
        queries, keys = made.queries(text.queries[0, head]).tolist(), made.keys(text.keys[0, head]).tolist()
        rows = []
        for query in queries:
            fits = []
            for map_ in range(count):
                summed = [sum(keys[j][c] * sums[j][map_] for j in range(length)) for c in range(WIDTH // 2)]
                fits.append(sum(q * s for q, s in zip(query, summed, strict=True)) / HEADS**0.5)
            shares = [math.exp(fit) / sum(map(math.exp, fits)) for fit in fits]
            best = sorted(range(count), key=lambda map_: -shares[map_])[: 8 if sparse else count]
            used = [[0 if sparse and abs(entry) <= 0.02 else entry for entry in row] for row in maps[:length]]
            rows.append([sum(shares[map_] * used[j][map_] for map_ in best) for j in range(length)])
        found.append(rows)
    return found


def mask_by_hand(scores: list[list[float]], keep: int) -> list[list[bool]]:
    """Of one head: the best keys, the earlier of two that are even, and [CLS]."""
    length = len(scores)
    most = math.ceil(keep * length / 100)
    best = [sorted(range(length), key=lambda j: (-row[j], j))[:most] for row in scores]
    return [[j in best[i] or j in (0, i) or i == 0 for j in range(length)] for i in range(length)]


# ---- the network and its mask


@pytest.mark.parametrize("keep", [1, 25, 40, 100])
def test_the_mask_equals_the_loops_whatever_the_padding(keep):
    made, batch = predictor(), padded()
    mask = PredictedLayer(made, keep).allowed(batch)
    for row in range(len(batch.real)):
        there, text = batch.real[row], alone(batch, row)
        expected = [mask_by_hand(head, keep) for head in scores_by_hand(made, text, sparse=True)]
        assert mask[row][:, there][:, :, there].tolist() == expected
        assert not mask[row][:, ~there].any() and not mask[row][:, :, ~there].any()
        assert torch.equal(PredictedLayer(made, keep).allowed(text)[0], mask[row][:, there][:, :, there])


def test_even_scores_go_to_the_earlier_key():
    made = predictor()
    with torch.no_grad():
        made.maps.fill_(0.01)  # too small to count
    mask = PredictedLayer(made, 30).allowed(heads_of(torch.ones(1, 9, dtype=torch.bool)))
    assert mask.tolist() == [[mask_by_hand([[0.0] * 9] * 9, 30)] * HEADS]


def test_the_error_is_that_of_all_maps_as_dense_attention_and_reaches_the_network_alone():
    made, batch = predictor(), padded()
    batch = replace(batch, queries=batch.queries.requires_grad_(), keys=batch.keys.requires_grad_())
    squares, queries = 0.0, 0
    for row in range(len(batch.real)):
        text = alone(batch, row)
        for head, rows in enumerate(scores_by_hand(made, text, sparse=False)):
            attention = (text.queries[0, head] @ text.keys[0, head].T / WIDTH**0.5).softmax(-1).tolist()
            pairs = [zip(a, b, strict=True) for a, b in zip(rows[1:], attention[1:], strict=True)]
            squares += sum((score - truth) ** 2 for row_of in pairs for score, truth in row_of)
            queries += len(pairs)
    error = made.error(batch)
    assert error.item() == pytest.approx(squares / queries, rel=1e-5)  # attention is computed in float32
    error.backward()
    assert all(own.grad.abs().sum() > 0 for own in made.parameters())
    assert batch.queries.grad is None and batch.keys.grad is None
    assert made.error(heads_of(torch.ones(2, 1, dtype=torch.bool))) == 0  # only [CLS] is there


def test_a_network_learns_the_attention_of_texts():
    torch.manual_seed(0)
    made, batch = Predictor(WIDTH, TOKENS), padded()
    batch = replace(batch, queries=3 * batch.queries.float(), keys=batch.keys.float())
    optimizer, before = torch.optim.Adam(made.parameters(), 0.05), made.error(batch).item()
    for _ in range(100):
        optimizer.zero_grad()
        made.error(batch).backward()
        optimizer.step()
    assert made.error(batch).item() < before / 2


# ---- in a model


@pytest.mark.parametrize("kind", ["bert", "albert", "distilbert", "modernbert", "mpnet"])
@pytest.mark.parametrize(
    "plan", ["predicted", "neighbour(1) | predicted(keep=40) @ late; random(2) - predicted @ 0"]
)
def test_a_model_answers_as_masked_by_hand_and_no_gradient_reaches_the_network(kind, plan, monkeypatch):
    model, batch, masks = tiny_model(kind), tiny_batch(), {}
    learner = attach_masks(model, parse_plan(plan), 9).double()
    for own in learner.layers.parameters():
        own.data.normal_()
    related = PredictedLayer.related

    def remembered(pattern, columns):
        assert columns.queries is not None
        masks[pattern.layer] = related(pattern, columns)
        return masks[pattern.layer]

    monkeypatch.setattr(PredictedLayer, "related", remembered)
    with sparsify(model, plan, learner) as sparse, sparse.measure() as meter:
        logits, gradients = outputs_and_gradients(model, batch)
        columns, patterns = sparse.batch_of(batch), sparse.patterns
    assert not any(name.startswith(Predictors.attribute) for name in gradients)
    monkeypatch.setattr(PredictedLayer, "related", lambda pattern, columns: masks[pattern.layer])
    monkeypatch.setattr(PredictedLayer, "reads", frozenset())
    windows = architecture_of(model).windows
    near = [columns.distances <= windows.get(layer, 9) for layer in range(LAYERS)]
    hands = [(p.allowed(columns) & own).expand(3, HEADS, 9, 9) for p, own in zip(patterns, near, strict=True)]
    assert meter.over_real == pytest.approx([m.sum().item() / HEADS / (81 + 16 + 49) for m in hands])
    assert 0.2 < min(meter.over_real) < 0.8
    expected, exact = computed_by_hand(HandMasked(hands, [torch.zeros(1).double()] * LAYERS), model, batch)
    torch.testing.assert_close(logits, expected)
    torch.testing.assert_close(gradients, exact)


def test_a_text_alone_is_answered_as_in_a_batch():
    model, batch = tiny_model("bert"), tiny_batch()
    learner = attach_masks(model, parse_plan("predicted"), 9).double()
    with sparsify(model, "predicted", learner), torch.no_grad():
        together = model(**batch).logits
        for row, length in enumerate(batch["attention_mask"].sum(-1).tolist()):
            one = {name: column[row : row + 1, :length] for name, column in batch.items()}
            torch.testing.assert_close(model(**one).logits, together[row : row + 1])


# ---- as text


@pytest.mark.parametrize(
    "text",
    ["predicted", "predicted(keep=7)", 'predicted("a/b.c")', 'neighbour(2) | predicted("x", keep=1)'],
)
def test_the_text_of_a_pattern_is_read_back(text):
    assert str(parse_pattern(text)) == text
    assert parse_plan(f"{text} @ late").open_layers(4, "masks") == ([] if '"' in text else [2, 3])


def test_what_cannot_be_predicted_is_refused_in_one_sentence(tmp_path):
    for keep in (0, 101):
        assert "a percentage from 1 to 100" in said(
            lambda keep=keep: parse_pattern(f"predicted(keep={keep})")
        )
    assert "names no file" in said(lambda: parse_pattern("predicted | global(cls)").at(0))
    batch = Batch.of_lengths([3])
    assert "ask it in a model" in said(lambda: PredictedLayer(predictor(), 25).allowed(batch))
    long = heads_of(torch.ones(1, TOKENS + 1, dtype=torch.bool))
    assert "up to 60 tokens, and one has 61" in said(lambda: PredictedLayer(predictor(), 25).allowed(long))
    other = replace(padded(), queries=torch.zeros(4, HEADS, 11, 8))
    assert "heads of 6 numbers" in said(lambda: PredictedLayer(predictor(), 25).allowed(other))
    path = tmp_path / "masks"
    assert "cannot be read" in said(lambda: parse_pattern(f'predicted("{path}")').at(0))
    path.write_text("{}")
    assert "holds no predicted masks" in said(lambda: parse_pattern(f'predicted("{path}")').at(0))
    save_file({f"1.{name}": table for name, table in predictor().state_dict().items()}, path)
    assert parse_pattern(f'predicted("{path}")').at(1).predictor.maps.shape == (TOKENS, 10)
    assert "has no masks for layer 0" in said(lambda: parse_pattern(f'predicted("{path}")').at(0))
    save_file({name: table for name, table in load_file(path).items() if name != "1.sums"}, path)
    assert "holds no predicted masks" in said(lambda: parse_pattern(f'predicted("{path}")').at(1))


def test_a_run_learns_masks_alone(small):
    model = load_classifier("tiny", ["any"])
    for plan, more, what in (
        ("predicted", {"degrees": {}}, "--learn-degrees"),
        ("predicted", {"reduce": "lat"}, "--reduce"),
        ("predicted | weighted(neighbour(1))", {}, "masks or weights, not both"),
    ):
        config = RunConfig(**small | {"plan": plan} | more)
        assert what in said(lambda c=config: attach_learner(model, parse_plan(c.plan), c, 32))


# ---- in a run


@pytest.fixture
def scored(small, workspace):
    """Fields of a run whose metrics show every difference: 4 steps dense, 1 of predictors, 3 masked."""
    return small | {
        "task": f"file:{workspace / 'scores.csv'}",
        "epochs": 2,
        "plan": "predicted | neighbour(0)",
    }


def test_a_run_trains_the_model_then_its_predictors_then_the_model_under_the_masks(scored, monkeypatch):
    advance, seen = Predictors.advance, []

    def spied(learner, done):
        before = learner.stage
        advance(learner, done)
        groups = (learner._weights().values(), learner.layers.parameters())
        sums = [sum(own.detach().double().abs().sum().item() for own in group) for group in groups]
        seen.append((before, *sums, bool(learner.has_teacher), learner.teacher.double().abs().sum().item()))

    monkeypatch.setattr(Predictors, "advance", spied)
    record = finetune(RunConfig(**scored))
    stages = [stage for stage, *_ in seen[1:-1]]  # of the 8 steps
    assert stages == ["dense"] * 4 + ["predictors"] + ["masked"] * 3
    for (_, *before), (stage, *after) in itertools.pairwise(seen[1:-1]):  # the first step's rate is 0
        assert (before[0] != after[0]) == (stage != "predictors")
        assert (before[1] != after[1]) == (stage == "predictors")
    assert [has for *_, has, _ in seen] == [False] * 4 + [True] * 6
    assert [total for *_, total in seen[4:]] == pytest.approx([seen[4][1]] * 6)
    assert record.kernels == ["reference"] * 2 and 0.25 < record.density < 0.6 and record.learning is None


@pytest.mark.parametrize("step", [5, 8])
def test_an_interrupted_run_goes_on_with_its_teacher(scored, workspace, step):
    config, scratch = RunConfig(**scored), workspace / "scratch"
    with pytest.MonkeyPatch.context() as patched:
        interrupt_at(patched, step)
        with pytest.raises(KeyboardInterrupt):
            finetune(config, scratch=scratch, checkpoint_seconds=0)
    assert results(finetune(config, scratch=scratch)) == pytest.approx(results(finetune(config)), rel=1e-5)


def test_a_saved_model_has_its_masks_beside_it(scored, workspace, monkeypatch):
    trained = []

    def logits_and_save(model, plan, *args):
        with sparsify(model.eval(), plan, args[3]), torch.no_grad():
            trained.append(model(**encoded()).logits)
        return save(model, plan, *args)

    monkeypatch.setattr(sys.modules["sparsebert.training.finetuning"], "save", logits_and_save)
    record = finetune(RunConfig(**scored), save_to=workspace / "model")
    with torch.no_grad():
        logits = load(workspace / "model").model(**encoded()).logits
    torch.testing.assert_close(logits, trained[0], rtol=0, atol=1e-6)
    found = evaluate(workspace / "model")
    assert found["metrics"]["pearson"] == pytest.approx(record.metrics["pearson"], abs=1e-6)
    assert found["density_per_layer"] == pytest.approx(record.density_per_layer)
    assert found["plan"] == f'predicted("{workspace / "model" / "masks.safetensors"}") | neighbour(0)'
    again = scored | {"plan": found["plan"], "epochs": 1}
    assert finetune(RunConfig(**again), save_to=workspace / "again").density < 0.6
    assert (workspace / "again" / "masks.safetensors").read_bytes() == (
        workspace / "model" / "masks.safetensors"
    ).read_bytes()
