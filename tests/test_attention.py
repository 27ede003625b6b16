from __future__ import annotations

import pytest
import torch
from models import CONFIGS, tiny_batch, tiny_model
from reference import Sentence, allowed
from transformers import AttentionInterface, AutoModelForSequenceClassification, MPNetConfig
from transformers.masking_utils import AttentionMaskInterface, eager_mask

from sparsebert.attention import ARCHITECTURES, sparsify
from sparsebert.batches import Batch
from sparsebert.errors import InputError
from sparsebert.patterns import Dense
from sparsebert.plans import parse_plan

PLANS = [
    "neighbour(1) | global(cls)",
    "syntax | global(cls) @ late",
    "random(2, seed=3) @ early; lexical(2) - neighbour(1) | global(cls) @ 2-",
    "random(like=syntax, besides=global(cls)) | global(cls) @ 1",
]
MODEL_COLUMNS = ("input_ids", "attention_mask")
kinds = pytest.mark.parametrize("kind", sorted(ARCHITECTURES))


class HandMasked:
    """Eager attention with each layer's mask written out by hand, in the order in which layers are called."""

    def __init__(self, model, plan, batch):
        self.calls = 0
        columns = Batch(
            batch["attention_mask"].bool(),
            batch["word_ids"],
            batch["head_ids"],
            model.get_input_embeddings()(batch["input_ids"]).detach(),
        )
        rows, size = columns.real.shape
        self.masks = []
        for pattern in parse_plan(plan).layers(4):
            mask = torch.zeros(rows, 1, size, size, dtype=torch.bool)
            for row in range(rows):
                n = int(columns.real[row].sum())
                mask[row, 0, :n, :n] = torch.tensor(allowed(pattern, Sentence(columns, row)))
            self.masks.append(mask)

    def __call__(self, module, query, key, value, attention_mask, scaling=None, dropout=0.0, **_):
        scaling = scaling or query.shape[-1] ** -0.5
        scores = query @ key.transpose(2, 3) * scaling
        if attention_mask is not None:
            scores = scores + attention_mask
        mask = self.masks[self.calls]
        self.calls += 1
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
        return (scores.softmax(-1) @ value).transpose(1, 2).contiguous(), None


def outputs_and_gradients(model, batch):
    model.zero_grad()
    logits = model(**batch).logits
    torch.nn.functional.cross_entropy(logits, torch.tensor([0, 2, 1])).backward()
    return logits.detach(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


@kinds
@pytest.mark.parametrize("plan", PLANS)
def test_a_sparsified_model_equals_a_hand_masked_eager_one_forward_and_backward(kind, plan):
    batch = tiny_batch()
    model = tiny_model(kind)
    by_hand = HandMasked(model, plan, batch)
    AttentionInterface.register("by_hand", by_hand)
    AttentionMaskInterface.register("by_hand", eager_mask)
    model.set_attn_implementation("by_hand")
    expected, expected_gradients = outputs_and_gradients(model, {c: batch[c] for c in MODEL_COLUMNS})
    assert by_hand.calls == 4

    model.set_attn_implementation("sdpa")
    with sparsify(model, plan):
        logits, gradients = outputs_and_gradients(model, batch)
    torch.testing.assert_close(logits, expected, rtol=1e-9, atol=1e-12)
    assert gradients.keys() == expected_gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected_gradients[name], rtol=1e-7, atol=1e-10, msg=name)


@kinds
def test_the_plans_change_what_the_model_computes(kind):
    batch, model = tiny_batch(), tiny_model(kind)
    untouched = model(**{c: batch[c] for c in MODEL_COLUMNS}).logits
    for plan in PLANS:
        with sparsify(model, plan):
            assert (model(**batch).logits - untouched).abs().max() > 1e-3


@kinds
def test_a_dense_plan_equals_the_untouched_model_and_undo_restores_it(kind):
    batch, model = tiny_batch(), tiny_model(kind)
    columns = {c: batch[c] for c in MODEL_COLUMNS}
    untouched = model(**columns).logits
    with sparsify(model, "dense"):
        assert torch.equal(model(**batch).logits, untouched)
    sparse = sparsify(model, "neighbour(0)")
    assert not torch.equal(model(**columns).logits, untouched)
    sparse.undo()
    sparse.undo()
    assert model.config._attn_implementation == "sdpa"
    assert torch.equal(model(**columns).logits, untouched)


@kinds
def test_padding_changes_nothing(kind):
    batch, model = tiny_batch((9, 9, 5)), tiny_model(kind)
    with sparsify(model, "random(2) | global(cls)"):
        together = model(**batch).logits
        alone = model(**{column: value[2:, :5] for column, value in batch.items()}).logits
    torch.testing.assert_close(together[2:], alone, rtol=1e-9, atol=1e-12)


def test_density_is_measured_per_layer_over_real_tokens_and_over_the_padded_square():
    batch, model = tiny_batch((9, 4, 7)), tiny_model("bert")
    with sparsify(model, "neighbour(1) @ 1; dense @ 2") as sparse, sparse.measure(padded_to=20) as meter:
        model(**batch)
        model(**tiny_batch((3, 3)))
    near, real, padded = (
        sum(3 * n - 2 for n in (9, 4, 7, 3, 3)),
        sum(n * n for n in (9, 4, 7, 3, 3)),
        5 * 20**2,
    )
    assert meter.over_real == pytest.approx([1, near / real, 1, 1])
    assert meter.over_padded == pytest.approx([real / padded, near / padded, real / padded, real / padded])


def test_density_counts_what_the_encoder_itself_leaves_out():
    batch, model = (
        tiny_batch((12, 12)),
        tiny_model("modernbert"),
    )  # layers 1 and 3 have a window of 3 each side
    with sparsify(model, "dense") as sparse, sparse.measure() as meter:
        model(**batch)
    window = sum(min(i + 3, 11) - max(i - 3, 0) + 1 for i in range(12)) / 144
    assert meter.over_real == pytest.approx([1, window, 1, window])


@pytest.mark.parametrize(
    "kind", sorted(set(ARCHITECTURES) - {"albert"})
)  # which transformers does not checkpoint
def test_the_mask_follows_the_model_through_a_training_step_with_dropout_and_checkpointing(kind):
    batch, model = tiny_batch(), tiny_model(kind)
    model.train()
    results = []
    for checkpointing in (False, True):
        if checkpointing:
            model.activation_checkpointing_enable()
        with sparsify(model, "neighbour(1) | global(cls) @ late"):
            torch.manual_seed(0)
            results.append(outputs_and_gradients(model, batch))
    (plain, plain_gradients), (checkpointed, checkpointed_gradients) = results
    assert torch.equal(plain, checkpointed)
    for name, gradient in plain_gradients.items():
        torch.testing.assert_close(gradient, checkpointed_gradients[name])


def test_other_architectures_are_refused_by_name():
    model = AutoModelForSequenceClassification.from_config(
        MPNetConfig(
            vocab_size=50, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
        )
    )
    with pytest.raises(InputError, match=r"'mpnet' models cannot be sparsified.*roberta"):
        sparsify(model, "neighbour(1)")


def test_a_model_follows_one_plan_at_a_time():
    model = tiny_model("bert")
    with sparsify(model, "dense"), pytest.raises(InputError, match="already"):
        sparsify(model, "neighbour(1)")


def test_a_plan_for_layers_that_the_model_lacks_leaves_it_untouched():
    model = tiny_model("bert")
    with pytest.raises(InputError, match="its layers are 0-3"):
        sparsify(model, "neighbour(1) @ 4")
    assert model.config._attn_implementation == "sdpa"
    assert not model.base_model._forward_pre_hooks


def test_a_pattern_that_reads_parses_says_so_when_there_are_none():
    batch, model = tiny_batch(), tiny_model("bert")
    with sparsify(model, "syntax"), pytest.raises(InputError, match=r"syntax.*head_ids and word_ids"):
        model(input_ids=batch["input_ids"])


def test_a_mask_of_pairs_is_refused():
    batch, model = tiny_batch(), tiny_model("bert")
    with sparsify(model, "neighbour(1)"), pytest.raises(InputError, match=r"\[batch, length\]"):
        model(input_ids=batch["input_ids"], attention_mask=torch.ones(3, 1, 9, 9))


def test_every_architecture_has_a_model_to_test_it():
    assert set(CONFIGS) == set(ARCHITECTURES)
    assert all(isinstance(p, Dense) for p in parse_plan("dense").layers(4))
