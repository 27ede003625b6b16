"""Pruned token compression, against keys and slots taken by hand."""

from __future__ import annotations

import math

import pytest
import torch
from models import tiny_batch, tiny_model
from reducing import LENGTHS, columns, logits_only, reduced
from torch import nn
from torch.nn.functional import gumbel_softmax
from torch.utils.flop_counter import FlopCounterMode

from sparsebert import sparsify
from sparsebert.errors import InputError
from sparsebert.models.architectures import architecture_of
from sparsebert.patterns.batches import Batch
from sparsebert.reductions import attach_reduction, compressed
from sparsebert.selftest.models import LAYERS, HandMasked, computed_by_hand
from sparsebert.training.finetuning import evaluate, finetune
from sparsebert.training.runs import RunConfig

PRUNED = "compressed(share=0.7, slots=0)"
COMBINED = "compressed(share=0.7, slots=3)"
KINDS = ("bert", "roberta", "electra", "xlm-roberta")


def important_by_hand(received, share, protected):
    """Places of the keys that stay."""
    low, high = min(received), max(received)
    ranked = sorted(range(1, len(received)), key=lambda key: -received[key])
    top = [0, *ranked][: max(1, math.floor(round(share * len(received), 6)))]
    safe = [k for k, got in enumerate(received) if high > low and (got - low) / (high - low) >= protected]
    return sorted({*top, *safe})


def by_hand(model, inputs, reduction):
    """A BERT's logits for one text; the keys of each layer that attends, by their places."""
    encoder, settings = model.base_model, reduction.settings
    hidden, heads = encoder.embeddings(input_ids=inputs), model.config.num_attention_heads
    keys, found = list(range(inputs.shape[1])), []
    for number, layer in enumerate(encoder.encoder.layer):
        if number == reduction.skipped:
            combine, width = reduction.combine, hidden.shape[-1]
            taken = [[] for _ in range(settings.slots)]
            for token in hidden[0, 1:]:
                alike = [
                    combine.query(slot) @ combine.key(token) / math.sqrt(width) for slot in combine.slots
                ]
                taken[max(range(settings.slots), key=lambda slot: alike[slot])].append(combine.value(token))
            slots = [
                slot + torch.stack(own).mean(0) for slot, own in zip(combine.slots, taken, strict=True) if own
            ]
            hidden = layer.feed_forward_chunk(torch.stack([hidden[0, 0], *slots])[None])
            keys = list(range(hidden.shape[1]))
            continue
        found.append(keys)
        own, split = layer.attention.self, (1, hidden.shape[1], heads, -1)
        query, key, value = (
            part(hidden).view(split).transpose(1, 2) for part in (own.query, own.key, own.value)
        )
        weights = (query @ key[:, :, keys].transpose(-1, -2) / math.sqrt(query.shape[-1])).softmax(-1)
        hidden = layer.attention.output((weights @ value[:, :, keys]).transpose(1, 2).flatten(2), hidden)
        hidden = layer.feed_forward_chunk(hidden)
        if reduction.skipped is None or number < reduction.skipped:
            stay = important_by_hand(weights.mean((0, 1, 2)).tolist(), settings.share, settings.protected)
            keys = [keys[place] for place in stay]
    return model.classifier(encoder.pooler(hidden)), found


@pytest.mark.parametrize("text", [PRUNED, COMBINED, "compressed(protected=0.2, slots=2, at=1)"])
def test_a_text_is_answered_as_when_keys_are_taken_by_hand(text):
    model, batch = tiny_model("bert"), columns()
    reduction = reduced(model, text)
    with sparsify(model, "dense", reduction=reduction) as sparse, torch.no_grad(), sparse.measure() as meter:
        found = model(**batch).logits
    own = {layer: 0 for layer in range(LAYERS) if layer != reduction.skipped}  # pairs
    for row, length in enumerate(LENGTHS):
        with torch.no_grad():
            expected, keys = by_hand(model, batch["input_ids"][row : row + 1, :length], reduction)
        torch.testing.assert_close(found[row : row + 1], expected)
        for layer, places in zip(own, keys, strict=True):
            behind = reduction.skipped is not None and layer > reduction.skipped
            own[layer] += (len(places) if behind else length) * len(places)
    for layer, pairs in own.items():
        assert meter.over_real[layer] == pytest.approx(pairs / (81 + 16 + 49))


def test_pruned_keys_are_masked_by_hand():
    model, batch = tiny_model("bert"), columns()
    reduction = reduced(model, PRUNED)
    masks = [torch.zeros(3, 2, 9, 9, dtype=torch.bool) for _ in range(LAYERS)]
    for row, length in enumerate(LENGTHS):
        with torch.no_grad():
            _, keys = by_hand(model, batch["input_ids"][row : row + 1, :length], reduction)
        for mask, places in zip(masks, keys, strict=True):
            mask[row, :, :, places] = True
    none = [torch.zeros(3, 2, 9, 9, dtype=torch.float64)] * LAYERS
    expected, _ = computed_by_hand(HandMasked(masks, none), model, batch, logits_only)
    with sparsify(model, "dense", reduction=reduction):
        torch.testing.assert_close(model(**batch).logits, expected)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("text", [PRUNED, COMBINED])
@pytest.mark.parametrize("plan", ["dense", "neighbour(2) | global(cls) @ 2-", "syntax | random(1)"])
def test_a_text_alone_has_the_answer_that_it_has_in_a_batch(kind, text, plan):
    model, batch = tiny_model(kind), tiny_batch(LENGTHS)
    plain = columns()
    dense = model(**plain).logits
    with sparsify(model, plan, reduction=reduced(model, text)):
        together = model(**batch).logits
        for row, length in enumerate(LENGTHS):
            alone = model(**{name: column[row : row + 1, :length] for name, column in batch.items()}).logits
            torch.testing.assert_close(alone, together[row : row + 1])
    assert not torch.allclose(together, dense)
    torch.testing.assert_close(model(**plain).logits, dense)  # undone


def test_combining_costs_two_projections_and_a_pair_with_each_slot():
    model, batch = tiny_model("bert"), columns((9,))
    reduction = reduced(model, "compressed(share=1, slots=3, at=2)")
    with sparsify(model, "dense", reduction=reduction) as sparse, sparse.measure() as meter, torch.no_grad():
        model(**batch)
    slots = round(meter.kept[3] * 9)
    cost, width = architecture_of(model).multiply_adds, 16
    assert 2 <= slots <= 4
    expected = 2 * cost(9, 81, 9) + cost(slots, slots**2, slots)
    expected += 2 * 9 * width**2 + 2 * (9 * 3) * width + cost(0, 0, slots)
    assert meter.multiply_adds == pytest.approx(expected)


def test_multiply_adds_are_those_that_torch_counts():
    """Of layers that are computed in the open; torch knows no fused attention."""
    model, batch = tiny_model("bert"), columns((9,))
    reduction = reduced(model, "compressed(share=0.7, protected=2, slots=3, at=3)")
    sparse, counter = sparsify(model, "dense", reduction=reduction), FlopCounterMode(display=False)
    with sparse, sparse.measure() as meter, counter, torch.no_grad():
        model(**batch)
    width, heads = model.config.hidden_size, model.config.num_attention_heads
    beside = width * (width + model.config.num_labels)  # pooler and classifier
    beside += 3 * width**2  # of the slots, which are the same for all texts
    beside += sum(heads * 9 * keys for keys in (9, 6, 4))  # sums of the attention that is received
    assert counter.get_total_flops() == pytest.approx(2 * (meter.multiply_adds + beside))


def test_slots_get_the_gradient_of_the_softmax_at_the_values_of_its_choice(monkeypatch):
    torch.manual_seed(0)
    combine = compressed.Combining(6, 3, 0.8).double()
    hidden, weigh = torch.randn(2, 7, 6, dtype=torch.float64), torch.randn(2, 3, 6, dtype=torch.float64)
    real = torch.tensor([[True] * 7, [True] * 4 + [False] * 3])

    def soft(alike, temperature):
        torch.manual_seed(1)
        return gumbel_softmax(alike, temperature, dim=1)

    held = []

    def holding(alike, temperature, hard, dim):
        torch.manual_seed(1)
        chosen = gumbel_softmax(alike, temperature, hard=True, dim=1)
        held[:] = held or [(chosen - soft(alike, temperature)).detach()]
        return held[0] + soft(alike, temperature)

    monkeypatch.setattr(compressed, "gumbel_softmax", holding)

    def loss():
        slots, filled = combine(hidden, real)
        return (slots * weigh * filled[..., None]).sum()

    loss().backward()
    monkeypatch.setattr(compressed, "gumbel_softmax", lambda alike, t, hard, dim: held[0] + soft(alike, t))
    for parameter in combine.parameters():
        found, flat, step = parameter.grad.flatten(), parameter.data.view(-1), 1e-6
        for place in range(0, len(flat), 5):
            sides = []
            for sign in (1, -1):
                flat[place] += sign * step
                with torch.no_grad():
                    sides.append(loss())
                flat[place] -= sign * step
            slope = (sides[0] - sides[1]) / (2 * step)
            torch.testing.assert_close(found[place], slope, rtol=1e-4, atol=1e-7)
    assert combine.query.weight.grad.abs().max() > 0


def test_padding_is_in_no_slot_and_a_slot_without_tokens_leaves():
    combine = compressed.Combining(4, 50, 1.0)
    hidden = torch.randn(1, 6, 4)
    real = torch.tensor([[False, True, True, True, False, False]])
    slots, filled = combine.eval()(hidden, real)
    again, same = combine(torch.where(real[..., None], hidden, 9.0), real)
    assert 1 <= filled.sum() <= 3 and torch.equal(filled, same)
    torch.testing.assert_close(slots[filled], again[filled])


def test_every_parameter_is_trained():
    model, batch = tiny_model("bert"), columns()
    reduction = reduced(model, COMBINED, training=True)
    with sparsify(model.train(), "dense", reduction=reduction):
        nn.functional.cross_entropy(model(**batch).logits, torch.tensor([0, 2, 1])).backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in reduction.parameters())
    assert {id(p) for group in reduction.groups() for p in group["params"]} == set(
        map(id, reduction.parameters())
    )


@pytest.mark.parametrize(
    ("kind", "text", "answer"),
    [
        ("bert", "compressed(at=4)", "this encoder has 4 layers"),
        ("distilbert", "compressed", "write slots=0"),
        ("albert", "compressed", "write slots=0"),
    ],
)
def test_a_layer_that_cant_be_replaced_is_told(kind, text, answer):
    with pytest.raises(InputError, match=answer):
        attach_reduction(tiny_model(kind), text)
    attach_reduction(tiny_model(kind), "compressed(slots=0)")


@pytest.mark.slow
def test_a_run_is_trained_saved_and_loaded(workspace, tmp_path):
    asked = {"task": "reviews", "encoder": "tiny", "train_size": 64, "eval_size": 32, "batch_size": 8}
    config = RunConfig(**asked, reduce="compressed(slots=4)")
    record = finetune(config, save_to=tmp_path / "model", progress_seconds=0)
    assert record.kept_per_layer[-1] < 1
    again = evaluate(tmp_path / "model")
    assert again["metrics"] == record.metrics
    assert again["multiply_adds"] == pytest.approx(record.multiply_adds)


def test_slots_are_to_patterns_what_cls_is():
    word_ids = torch.tensor([[-1, 0, 1], [-1, 0, -1]])
    batch = Batch.of_lengths([3, 2], word_ids=word_ids, second=torch.tensor([2, 2]))
    slots = batch.like_first(torch.tensor([[True, True, False, True], [True, False, False, True]]))
    assert (slots.word_ids == -1).all() and slots.head_ids is None
    assert slots.second.tolist() == [3, 2] and slots.kinds[slots.real].tolist() == [0, 1, 1, 0, 1]
