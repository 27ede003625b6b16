"""Tokens that leave: the seam, LAT and LTP, against references by hand."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from models import tiny_model
from reducing import KINDS, LENGTHS, columns, gradient_and_slopes, loss_of, reduced
from safetensors.torch import load_file
from test_finetune import interrupt_at, results
from torch.utils.flop_counter import FlopCounterMode

from sparsebert import load, sparsify
from sparsebert.errors import InputError
from sparsebert.kernels import kernel_for
from sparsebert.models.architectures import ARCHITECTURES, architecture_of
from sparsebert.models.companions import apart
from sparsebert.models.predictors import attach_masks
from sparsebert.paths import Folders
from sparsebert.patterns import parse_pattern, parse_plan
from sparsebert.patterns.batches import Batch
from sparsebert.reductions import REDUCTIONS, attach_reduction, reduction_text
from sparsebert.reductions.reduction import attend_and_score
from sparsebert.training.finetuning import evaluate, finetune
from sparsebert.training.runs import RunConfig

WAYS = ("lat(keep=0.5 @ 1; 0.7 @ 2)", "ltp(start=1.2)")


# ---- what stays


def received_by_hand(weights, real):
    """Loops over heads and queries of each text."""
    batch, heads, length, _ = weights.shape
    found = torch.zeros(batch, length, dtype=weights.dtype)
    for text in range(batch):
        for head in range(heads):
            for query in range(length):
                if real[text, query]:
                    found[text] += weights[text, head, query]
        found[text] /= heads * real[text].sum()
    return found


@pytest.mark.parametrize("pattern", ["dense", "neighbour(2) | global(cls)", "random(2)"])
@pytest.mark.parametrize(("gradient", "scale"), [(False, None), (True, None), (True, 0.3)])
def test_attention_received_is_a_mean_over_heads_and_real_queries(pattern, gradient, scale):
    torch.manual_seed(0)
    batch = Batch.of_lengths([71, 1, 40])
    query, key, value = (torch.randn(3, 2, 71, 4, dtype=torch.float64) for _ in range(3))
    kernel = kernel_for(parse_pattern(pattern), batch, 2)
    with torch.set_grad_enabled(gradient):
        output, received = attend_and_score(kernel, query, key, value, scale=scale)
    allowed = kernel.context.allowed
    scores = (query @ key.transpose(-1, -2) * (scale or 0.5)).masked_fill(~allowed, -math.inf)
    weights = scores.softmax(-1).nan_to_num()
    real = batch.real[:, None, :, None]
    torch.testing.assert_close(output * real, weights @ value * real)
    torch.testing.assert_close(received, received_by_hand(weights, batch.real))
    torch.testing.assert_close(received.sum(-1), torch.ones(3, dtype=torch.float64))


def test_attention_received_in_half_precision_is_near_the_whole():
    torch.manual_seed(0)
    length = 2000
    heads = [torch.randn(1, 2, length, 4) for _ in range(3)]
    kernel = kernel_for(parse_pattern("dense"), Batch.of_lengths([length]), 2)
    with torch.no_grad():
        _, whole = attend_and_score(kernel, *heads)
        with torch.autocast("cpu", torch.bfloat16):
            _, found = attend_and_score(kernel, *(x.bfloat16() for x in heads))
    assert found.dtype == torch.float32
    assert (found - whole).norm() < 0.005 * whole.norm()


def layers_by_hand(model, inputs, stays):
    """A BERT's logits for one text, of whose tokens those stay that `stays(layer, received, n)` names."""
    encoder = model.base_model
    hidden, n = encoder.embeddings(input_ids=inputs), inputs.shape[1]
    heads = model.config.num_attention_heads
    for number, layer in enumerate(encoder.encoder.layer):
        own, split = layer.attention.self, (1, hidden.shape[1], heads, -1)
        query, key, value = (
            part(hidden).view(split).transpose(1, 2) for part in (own.query, own.key, own.value)
        )
        weights = (query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])).softmax(-1)
        mixed = (weights @ value).transpose(1, 2).flatten(2)
        hidden = layer.attention.output(mixed, hidden)
        kept = sorted(stays(number, weights.mean((0, 1, 2)), n))
        hidden = layer.feed_forward_chunk(hidden[:, kept])
    return model.classifier(encoder.pooler(hidden))


def lat_by_hand(layer, received, n):
    share = {1: 0.5, 2: 0.7}.get(layer, 1.0)
    ranked = sorted(range(1, len(received)), key=lambda token: -received[token].item())
    return [0, *ranked][: math.ceil(round(share * len(received), 6))]


def ltp_by_hand(layer, received, n):
    return [token for token, got in enumerate(received) if token == 0 or got * n > 1.2 * (layer + 1) / 4]


@pytest.mark.parametrize(("text", "by_hand"), [(WAYS[0], lat_by_hand), (WAYS[1], ltp_by_hand)])
def test_a_reduced_bert_is_one_whose_tokens_were_taken_by_hand(text, by_hand):
    model, batch = tiny_model("bert"), columns()
    with sparsify(model, "dense", reduction=reduced(model, text)) as sparse, sparse.measure() as meter:
        found = model(**batch).logits.detach()
    for row, length in enumerate(LENGTHS):
        with torch.no_grad():
            expected = layers_by_hand(model, batch["input_ids"][row : row + 1, :length], by_hand)
        torch.testing.assert_close(found[row : row + 1], expected)
    assert min(meter.kept) < 0.9


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("text", WAYS)
def test_a_text_alone_has_the_answer_that_it_has_in_a_batch(kind, text):
    model, batch = tiny_model(kind), columns()
    dense = model(**batch).logits
    with sparsify(model, "neighbour(2) | global(cls) @ 2-", reduction=reduced(model, text)):
        together = model(**batch).logits
        for row, length in enumerate(LENGTHS):
            alone = model(**{name: column[row : row + 1, :length] for name, column in batch.items()}).logits
            torch.testing.assert_close(alone, together[row : row + 1])
    assert not torch.allclose(together, dense)
    torch.testing.assert_close(model(**batch).logits, dense)  # undone


@pytest.mark.parametrize("training", [True, False])
def test_a_reduction_is_in_training_if_its_model_is(training):
    assert attach_reduction(tiny_model("bert").train(training), "lat").training == training


@pytest.mark.parametrize("kind", sorted(set(ARCHITECTURES) - set(KINDS)))
def test_encoders_that_tokens_cant_leave_say_so(kind):
    with pytest.raises(InputError, match="tokens can't leave"):
        attach_reduction(tiny_model(kind), "lat")


def test_encoders_with_relative_positions_say_so(monkeypatch):
    monkeypatch.setattr(ARCHITECTURES["mpnet"], "between", "MPNetAttention")  # where tokens could leave
    with pytest.raises(InputError, match="tokens can't leave a 'mpnet' encoder, whose positions"):
        attach_reduction(tiny_model("mpnet"), "lat")


@pytest.mark.parametrize("text", [*WAYS, "adaptive(start=0.5)", "compressed(share=0.5, slots=2)"])
def test_tokens_leave_under_masks_that_are_predicted_from_a_file(text, tmp_path):
    model, batch = tiny_model("bert"), columns()
    masks = attach_masks(model, parse_plan("predicted"), 9)
    (tmp_path / "masks").write_bytes(masks.float().contents())
    delattr(model, masks.attribute)
    reduction = reduced(model, text, training=True)
    reduction.advance(0.5)
    with sparsify(model, f'predicted("{tmp_path / "masks"}")', reduction=reduction) as sparse:
        logits = model.train()(**batch).logits
        loss = logits.sum() + reduction.added_loss(logits, lambda: model(**batch).logits)
        loss.backward()
        reduction.advance(1.0)
        with sparse.measure() as meter, torch.no_grad():
            model.eval()(**batch)
    assert min(meter.kept) < 1 and max(meter.over_real) < 1


# ---- what it costs


@pytest.mark.parametrize(("text", "tokens"), [("lat(keep=0.99)", [9] * 4), ("lat(keep=0.6)", [9, 6, 4, 3])])
def test_multiply_adds_are_those_that_torch_counts(text, tokens):
    """All of these layers are computed in the open, where torch counts them; it knows no fused attention."""
    model, batch = tiny_model("bert"), columns((9,))
    sparse, counter = sparsify(model, "dense", reduction=reduced(model, text)), FlopCounterMode(display=False)
    with sparse, sparse.measure() as meter, counter, torch.no_grad():
        model(**batch)
    width, heads = model.config.hidden_size, model.config.num_attention_heads
    beside = width * (width + model.config.num_labels)  # pooler and classifier
    scored = sum(heads * n**2 for n in tokens)  # sums of the attention that is received
    assert counter.get_total_flops() == 2 * (meter.multiply_adds + beside + scored)


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("kind", sorted(ARCHITECTURES))
def test_layers_are_dropped_from_the_top(kind, count):
    model, batch = tiny_model(kind), columns()
    states = model(**batch, output_hidden_states=True).hidden_states
    sparse = sparsify(model, "dense")
    sparse.architecture.keep_layers(count)
    sparse.undo()
    fewer = model(**batch, output_hidden_states=True).hidden_states
    assert len(fewer) == count + 1
    if kind != "modernbert":  # which norms the last layer's output
        torch.testing.assert_close(fewer[-1], states[count])
    with pytest.raises(InputError, match="layers=9"):
        sparse.architecture.keep_layers(9)


@pytest.mark.parametrize("of", ["num_hidden_groups", "inner_group_num"])
def test_layers_of_an_albert_that_differ_are_not_dropped(of):
    architecture = architecture_of(tiny_model("albert", **{of: 2}))
    architecture.keep_layers(4)
    with pytest.raises(InputError, match="layers=2 can't be, since this ALBERT has 2 layers that differ"):
        architecture.keep_layers(2)


# ---- training


def test_lat_answers_as_with_the_whole_text():
    """Three shortened passes, the shortest first, and nothing beside the loss while the encoder is dense."""
    model, batch = tiny_model("bert"), columns()
    reduction, lengths = reduced(model, "lat(keep=0.5, dense_share=0.4)", training=True), []
    with sparsify(model.train(), "dense", reduction=reduction) as sparse:
        for module in sparse.architecture.modules:
            module.register_forward_hook(lambda module, args, output: lengths.append(output[0].shape[1]))
        logits = model(**batch).logits
        assert lengths == [9] * 4
        reduction.advance(0.3)
        assert reduction.added_loss(logits, lambda: model(**batch).logits) == 0
        reduction.advance(0.5)
        added = reduction.added_loss(logits, lambda: model(**batch).logits)
    assert lengths[4:8] == [9, 5, 3, 2]
    assert all(shortest <= own for shortest, own in zip(lengths[4:8] * 2, lengths[8:], strict=True))
    assert added > 0


def test_thresholds_get_their_gradient_from_what_is_multiplied():
    torch.manual_seed(1)
    model, batch = tiny_model("bert"), columns()
    reduction = reduced(model, "ltp(dense_share=0, price=0.3)", training=True)
    reduction.advance(0.1)

    with sparsify(model, "dense", reduction=reduction):
        steps = partial(loss_of, model, batch, reduction, lambda logits: logits)
        found, slopes = gradient_and_slopes(reduction.thresholds, steps)
    torch.testing.assert_close(found, slopes, rtol=1e-4, atol=1e-7)


def test_a_number_is_told_apart_by_its_square():
    torch.testing.assert_close(
        apart(torch.tensor([[1.0], [3.0]]), torch.tensor([[1.0], [1.0]])), torch.tensor(2.0)
    )


@pytest.mark.slow
@pytest.mark.parametrize("text", ["lat(keep=0.6)", "ltp(price=0.5, start=1)"])
def test_a_run_is_trained_saved_and_loaded(text, workspace, tmp_path):
    asked = {"task": "reviews", "encoder": "tiny", "train_size": 64, "eval_size": 32, "batch_size": 8}
    config = RunConfig(**asked, reduce=text)
    record = finetune(config, save_to=tmp_path / "model", progress_seconds=0)
    assert record.kept_per_layer[-1] < 1 and record.multiply_adds > 0
    again = evaluate(tmp_path / "model")
    assert again["metrics"] == record.metrics
    assert again["multiply_adds"] == pytest.approx(record.multiply_adds)
    name = text.partition("(")[0]
    with load(tmp_path / "model") as sparse:
        assert str(sparse.reduction) == reduction_text(text) and sparse.reduction.name == name
    (tmp_path / "model" / "reduction.safetensors").write_bytes(b"x")
    with pytest.raises(InputError, match=r"reduction.safetensors can't be read"):
        load(tmp_path / "model")


@pytest.mark.parametrize("text", ["ltp(price=0.5, start=1)", "compressed(share=0.7, slots=2)"])
def test_an_interrupted_run_goes_on_and_ends_as_if_nothing_had_happened(text, small, workspace):
    task = f"file:{workspace / 'scores.csv'}"  # whose metrics show every small difference
    config = RunConfig(**small | {"task": task, "epochs": 2, "reduce": text})
    with pytest.MonkeyPatch.context() as patched:
        interrupt_at(patched, 7)
        with pytest.raises(KeyboardInterrupt):
            finetune(config, scratch=workspace / "scratch", checkpoint_seconds=0)
    resumed = finetune(config, scratch=workspace / "scratch", save_to=workspace / "resumed")
    whole = finetune(config, save_to=workspace / "whole")
    assert results(resumed) == pytest.approx(results(whole), rel=1e-5)
    assert resumed.kept_per_layer == whole.kept_per_layer
    found, expected = (load_file(workspace / run / "reduction.safetensors") for run in ("resumed", "whole"))
    torch.testing.assert_close(found, expected)


@pytest.mark.slow
def test_one_training_of_lat_serves_other_shares(workspace, tmp_path):
    asked = {"task": "reviews", "encoder": "tiny", "train_size": 32, "eval_size": 32}
    finetune(RunConfig(**asked, reduce="lat"), save_to=tmp_path / "model", progress_seconds=0)
    costs = [evaluate(tmp_path / "model", reduce=f"lat(keep={k})")["multiply_adds"] for k in (0.9, 0.5, 0.2)]
    assert costs == sorted(costs, reverse=True)
    with pytest.raises(InputError, match="was trained with lat"):
        evaluate(tmp_path / "model", reduce="ltp")


# ---- as text


@pytest.mark.parametrize("name", sorted(REDUCTIONS))
def test_texts_are_read_back(name):
    assert reduction_text(f" {name} ( dense_share = 0.30 ) ") == f"{name}(dense_share=0.3)"
    assert reduction_text(f"{name}()") == name


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("lot", "did you mean"),
        ("lat(0.5)", "unknown setting of lat"),
        ("lat(kep=0.5)", "did you mean 'keep'"),
        ("lat(keep)", "write keep=, with its value"),
        ("lat(keep=2)", "a share above 0 and up to 1"),
        ("lat(keep=0.5 @ 3-1)", "ends before it starts"),
        ("ltp(price=cheap)", "price: input should be a valid number"),
        ("lat(keep=0.5", "is no reduction"),
    ],
)
def test_wrong_texts_are_told_in_one_sentence(text, answer):
    with pytest.raises(InputError, match=answer):
        RunConfig.checked(reduce=text)


def test_layers_that_the_encoder_lacks_are_told():
    with pytest.raises(InputError, match="names a layer that this encoder lacks"):
        attach_reduction(tiny_model("bert"), "lat(keep=0.5 @ 7)")


def test_words_that_leave_would_get_no_label(tmp_path):
    from sparsebert.training.resolved import Run

    path = tmp_path / "words.jsonl"
    rows = [f'{{"words": ["a{number}", "b"], "tags": ["X", "Y"]}}' for number in range(40)]
    path.write_text("\n".join(rows))
    with pytest.raises(InputError, match="words that leave get no label"):
        Run.of(RunConfig(task=f"file:{path}", reduce="lat"), Folders.named())


def test_degrees_and_reductions_are_not_learned_at_once():
    with pytest.raises(InputError, match="can't be learned while tokens leave"):
        RunConfig.checked(plan="learned", degrees={}, reduce="lat")


def test_columns_of_tokens_that_leave_go_with_them():
    words = torch.tensor([[-1, 0, 1, 1], [-1, 0, -1, -1]])
    embeddings = torch.randn(2, 4, 5)
    embeddings[0, 3] = embeddings[0, 0]
    batch = Batch.of_lengths([4, 2], word_ids=words, embeddings=embeddings, second=torch.tensor([3, 1]))
    kept = torch.tensor([[True, False, True, True], [True, False, False, False]])
    left, places = batch.keep(kept)
    assert places[0].tolist() == [0, 2, 3]
    assert left.real.tolist() == [[True] * 3, [True, False, False]]
    assert left.word_ids[0].tolist() == [-1, 1, 1] and left.second.tolist() == [2, 1]
    assert left.embeddings[left.real].equal(embeddings[kept])
    assert parse_pattern("copies").allowed(left)[0, 0].nonzero().tolist() == [
        [0, 0],
        [0, 2],
        [1, 1],
        [2, 0],
        [2, 2],
    ]
