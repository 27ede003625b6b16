"""Adaptive token pruning, against masks and scores by hand."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from models import tiny_model
from reducing import KINDS, LENGTHS, columns, gradient_and_slopes, logits_only, loss_of, reduced

from sparsebert import sparsify
from sparsebert.models.architectures import architecture_of
from sparsebert.reductions import adaptive
from sparsebert.selftest.models import LAYERS, HandMasked, computed_by_hand
from sparsebert.training.finetuning import evaluate, finetune
from sparsebert.training.runs import RunConfig

TEXT = "adaptive(start=0.5, dense_share=0)"


def test_scores_are_those_of_the_formula():
    torch.manual_seed(0)
    paid, output = torch.rand(2, 3, 5), torch.randn(2, 3, 5, 4)
    found = adaptive.read_by_first(paid, output)
    for text in range(2):
        for token in range(5):
            norms = [math.dist(output[text, head, token], [0] * 4) for head in range(3)]
            by_hand = sum(paid[text, head, token].item() * norms[head] for head in range(3)) / sum(norms)
            assert found[text, token].item() == pytest.approx(by_hand, rel=1e-5)


def stays_by_hand(model, inputs, thresholds):
    """Of one text, the tokens that are left after each stage of a BERT, taken out by hand; its logits."""
    encoder, left, found = model.base_model, list(range(inputs.shape[1])), []
    hidden, heads = encoder.embeddings(input_ids=inputs), model.config.num_attention_heads
    for number, layer in enumerate(encoder.encoder.layer):
        own, split = layer.attention.self, (1, hidden.shape[1], heads, -1)
        query, key, value = (
            part(hidden).view(split).transpose(1, 2) for part in (own.query, own.key, own.value)
        )
        weights = (query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])).softmax(-1)
        mixed = weights @ value
        if number in thresholds:
            kept = [0]
            for token in range(1, len(left)):
                norms = mixed[0, :, token].norm(dim=-1)
                score = (weights[0, :, 0, token] * norms).sum() / norms.sum()
                if score * inputs.shape[1] > thresholds[number]:
                    kept.append(token)
            left = [left[token] for token in kept]
            found.append(left)
        hidden = layer.attention.output(mixed.transpose(1, 2).flatten(2), hidden)
        hidden = layer.feed_forward_chunk(hidden[:, kept] if number in thresholds else hidden)
    return found, model.classifier(encoder.pooler(hidden))


@pytest.mark.parametrize("training", [False, True])
def test_a_text_is_answered_as_when_tokens_are_taken_by_hand(training):
    """Both when they leave and, in training, when they stay and are nobody's key; and as masked by hand."""
    model, batch = tiny_model("bert"), columns()
    reduction = reduced(model, TEXT)
    with sparsify(model, "dense", reduction=reduction) as sparse, torch.no_grad():
        reduction.train(training)
        with sparse.measure() as meter:
            found = model(**batch).logits
    masks = [batch["attention_mask"].bool()[:, None, None].repeat(1, 2, 9, 1) for _ in range(LAYERS)]
    counts = []
    for row, length in enumerate(LENGTHS):
        with torch.no_grad():
            stages, expected = stays_by_hand(
                model, batch["input_ids"][row : row + 1, :length], {1: 0.5, 2: 1.0, 3: 1.5}
            )
        torch.testing.assert_close(found[row : row + 1], expected)
        counts.append([length, length, *map(len, stages)])
        for layer in range(2, LAYERS):
            gone = torch.tensor([place not in stages[layer - 2] for place in range(9)])
            masks[layer][row] &= ~gone | torch.eye(9, dtype=torch.bool)
    none = [torch.zeros(3, 2, 9, 9, dtype=torch.float64)] * LAYERS
    by_hand, _ = computed_by_hand(HandMasked(masks, none), model, batch, logits_only)
    torch.testing.assert_close(found, by_hand)
    assert counts[0][-1] < 9
    if not training:
        tokens = torch.tensor(counts, dtype=torch.float64)
        torch.testing.assert_close(meter.over_real, (tokens[:, :-1] ** 2).sum(0).div(81 + 16 + 49).tolist())
        torch.testing.assert_close(meter.kept, tokens[:, 1:].sum(0).div(20).tolist())


@pytest.mark.parametrize("kind", KINDS)
def test_a_text_alone_has_the_answer_that_it_has_in_a_batch(kind):
    model, batch = tiny_model(kind), columns()
    dense = model(**batch).logits
    with sparsify(model, "neighbour(2) | global(cls) @ 2-", reduction=reduced(model, TEXT)):
        together = model(**batch).logits
        for row, length in enumerate(LENGTHS):
            alone = model(**{name: column[row : row + 1, :length] for name, column in batch.items()}).logits
            torch.testing.assert_close(alone, together[row : row + 1])
    assert not torch.allclose(together, dense)
    torch.testing.assert_close(model(**batch).logits, dense)  # undone


def test_thresholds_get_the_gradient_of_sigmoids_at_the_values_of_steps(monkeypatch):
    """Finite differences, with the distance of each step from its sigmoid held fixed."""
    model, batch = tiny_model("bert"), columns()
    text = "adaptive(start=0.5, dense_share=0, budget=0.3, temperature=0.5)"
    reduction = reduced(model, text, training=True)
    apart, calls = [], []

    def held(hard, soft):
        if len(apart) < 3:
            apart.append((hard - soft).detach())
            return hard + soft - soft.detach()
        calls.append(None)
        return apart[(len(calls) - 1) % 3] + soft

    monkeypatch.setattr(adaptive, "straight_through", held)

    with sparsify(model, "dense", reduction=reduction):
        steps = partial(loss_of, model, batch, reduction, lambda _: model(**batch).logits)
        found, slopes = gradient_and_slopes(reduction.logarithms, steps)
        torch.testing.assert_close(found, slopes, rtol=1e-4, atol=1e-7)
        assert found.abs().min() > 0


def test_the_cost_in_training_is_the_one_that_is_measured_in_use():
    model, batch = tiny_model("bert"), columns()
    reduction = reduced(model, TEXT)
    with sparsify(model, "dense", reduction=reduction) as sparse, torch.no_grad():
        with sparse.measure() as meter:
            model(**batch)
        reduction.train()
        model(**batch)
        found = reduction.cost()
    whole = sum(architecture_of(model).multiply_adds(n, n**2, n) for n in LENGTHS) * LAYERS / 3
    assert meter.multiply_adds / whole == pytest.approx(found.item()) and found < 0.95


def test_stages_stand_at_the_quarters_of_the_layers():
    architecture = architecture_of(tiny_model("bert"))
    for layers, stages in ((12, [3, 6, 9]), (6, [1, 3, 4]), (2, [0, 1])):
        architecture.config.num_hidden_layers = layers
        assert list(adaptive.Adaptive(adaptive.Settings(), architecture).stages) == stages


@pytest.mark.slow
def test_a_run_is_trained_saved_and_loaded(workspace, tmp_path):
    asked = {"task": "reviews", "encoder": "tiny", "train_size": 64, "eval_size": 32, "batch_size": 8}
    config = RunConfig(**asked, reduce="adaptive(budget=0.5, start=0.95)")
    record = finetune(config, save_to=tmp_path / "model", progress_seconds=0)
    assert record.kept_per_layer[-1] < 1
    again = evaluate(tmp_path / "model")
    assert again["metrics"] == record.metrics
    assert again["multiply_adds"] == pytest.approx(record.multiply_adds)
