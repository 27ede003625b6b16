from __future__ import annotations

import copy
import itertools
import pickle

import pytest
import torch
from models import CONFIGS, tiny_batch, tiny_model
from reference import Sentence, allowed, quantile, weights
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
    DebertaV2Config,
)

from sparsebert.degrees import DegreeConfig, LearnedDegrees
from sparsebert.errors import InputError
from sparsebert.models.architectures import ARCHITECTURES, Architecture, architecture_of
from sparsebert.models.encoders import extend_positions
from sparsebert.models.sparsified import sparsify
from sparsebert.patterns import Global, Neighbour
from sparsebert.patterns.batches import Batch
from sparsebert.patterns.hard_degrees import HardDegrees
from sparsebert.patterns.plans import parse_plan
from sparsebert.registry import METHODS, register
from sparsebert.selftest.models import HandMasked, computed_by_hand, outputs_and_gradients

PLANS = [
    "neighbour(1) | global(cls)",
    "syntax | global(cls) @ late",
    "random(2, seed=3) @ early; lexical(2) - neighbour(1) | global(cls) @ 2-",
    "random(like=syntax, besides=global(cls)) | global(cls) @ 1",
    "learned(plain.json) | global(cls)",
    "learned(weighted.json) | global(cls) @ early; learned(weighted.json) - neighbour(1) @ late",
    'weighted(syntax | neighbour(1), "weighted.json") | learned(weighted.json) | global(cls) @ 1-2',
]
# Shares of 0 and 1 and shares between, rows of different lengths, weights of both signs.
KEPT = [[[1, 1, 0.5], [0.25, 0, 1, 0.75, 0.3]], [[], [1, 1]], [[0.6] * 5, [1] * 5], [[1], [0, 0, 0, 0, 1]]]
WEIGHTS = [
    [[-0.5, 1.0, -2.0], [0.3] * 5],
    [[], [0.7, -0.7]],
    [[2, 1, 0.1, -1, -2], [-0.4] * 5],
    [[1.5], [-1] * 5],
]


@pytest.fixture(autouse=True)
def degrees(tmp_path, monkeypatch):
    """A working folder with degrees for 4 layers of 2 heads, with and without weights."""
    monkeypatch.chdir(tmp_path)
    found = HardDegrees(max_distance=4, open_ended=True, kept=KEPT, weights=WEIGHTS)
    found.save("weighted.json")
    found.model_copy(update={"weights": None}).save("plain.json")


MODEL_COLUMNS = ("input_ids", "attention_mask")
kinds = pytest.mark.parametrize("kind", sorted(ARCHITECTURES))


def hand_masked(plan, model, batch):
    """The masks and weights of a plan by the definitions of its patterns."""
    columns = Batch(
        batch["attention_mask"].bool(),
        batch["word_ids"],
        batch["head_ids"],
        model.get_input_embeddings()(batch["input_ids"]).detach(),
    )
    rows, size = columns.real.shape
    masks = torch.zeros(4, rows, 2, size, size, dtype=torch.bool)
    added = torch.zeros(masks.shape, dtype=torch.float64)
    for layer, pattern in enumerate(parse_plan(plan).layers(4)):
        for row, head in itertools.product(range(rows), range(2)):
            sentence = Sentence(columns, row)
            inside = (layer, row, head, slice(sentence.n), slice(sentence.n))
            masks[inside] = torch.tensor(allowed(pattern, sentence, head))
            if table := weights(pattern, sentence, head):
                added[inside] = torch.tensor(table)
    return HandMasked(masks, added)


def states_and_gradients(model, batch):
    """Of the real tokens alone, since a classifier may read a padding token."""
    model.zero_grad()
    states = model.base_model(**batch).last_hidden_state[batch["attention_mask"].bool()]
    (states * torch.arange(states.shape[1])).sum().backward()
    return states.detach(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def assert_equal(results, expected):
    torch.testing.assert_close(results[0], expected[0], rtol=1e-9, atol=1e-12)
    assert results[1].keys() == expected[1].keys()
    for name, gradient in results[1].items():
        torch.testing.assert_close(gradient, expected[1][name], rtol=1e-7, atol=1e-10, msg=name)


@kinds
@pytest.mark.parametrize("plan", PLANS)
def test_a_sparsified_model_equals_a_hand_masked_eager_one_forward_and_backward(kind, plan):
    batch, model = tiny_batch(), tiny_model(kind)
    expected = computed_by_hand(hand_masked(plan, model, batch), model, batch)
    with sparsify(model, plan):
        assert_equal(outputs_and_gradients(model, batch), expected)


LENGTHS, LONGEST = (9, 4, 7), 3  # of the rows of `tiny_batch`, and the largest distance told apart below


def by_hand_at_distances(table, shares, open_ended):
    """A layer's pairs under `learned | global(cls)`, from values and shares by layer, head and distance."""
    masks = torch.zeros(4, 3, 2, 9, 9, dtype=torch.bool)
    flat = []
    for layer, (row, n), head in itertools.product(range(4), enumerate(LENGTHS), range(2)):
        for i, j in itertools.product(range(9), range(9)):
            distance = min(abs(i - j), LONGEST + 1)
            free = 0 in (i, j) or i == j
            kept = quantile(i, layer * 2 + head) < shares[layer, head, distance]
            within = open_ended or distance <= LONGEST
            masks[layer, row, head, i, j] = max(i, j) < n and (free or (kept and within))
            flat.append(torch.tensor(0.0).double() if free else table[layer, head, distance])
    return HandMasked(masks, torch.stack(flat).view(masks.shape))


def learner_of(**fields):
    torch.manual_seed(1)
    learner = LearnedDegrees(DegreeConfig(max_distance=LONGEST, **fields), [0, 1, 2, 3], 4, 2).double()
    torch.nn.init.normal_(learner.theta)
    torch.nn.init.normal_(learner.weights)
    return learner


@kinds
@pytest.mark.parametrize("sharing, open_ended", [("network", True), ("layer", True), ("head", False)])
def test_soft_degrees_weigh_each_edge_with_its_survival_forward_and_backward(kind, open_ended, sharing):
    batch, model = tiny_batch(), tiny_model(kind)
    learner = learner_of(open_ended=open_ended, sharing=sharing)
    share = learner.theta.softmax(-1).expand(4, 2, LONGEST + 1)
    survival = [share[..., distance:].sum(-1) for distance in (*range(LONGEST + 1), LONGEST)]
    by_hand = by_hand_at_distances(torch.stack(survival, -1).log(), torch.ones(4, 2, LONGEST + 2), open_ended)
    expected = computed_by_hand(by_hand, model, batch)
    expected_theta, learner.theta.grad = learner.theta.grad, None
    assert expected_theta[:1].abs().min() > 0  # in the last layer only [CLS] is read

    with sparsify(model, "learned | global(cls)", learner):
        assert_equal(outputs_and_gradients(model, batch), expected)
    torch.testing.assert_close(learner.theta.grad, expected_theta, rtol=1e-7, atol=1e-10)


@kinds
@pytest.mark.parametrize("open_ended", [True, False])
def test_hard_degrees_have_trained_weights_on_their_edges_and_none_elsewhere(kind, open_ended):
    batch, model, learner = tiny_batch(), tiny_model(kind), learner_of(open_ended=open_ended)
    kept = torch.rand(4, 2, LONGEST + 2).round(decimals=1)
    kept[:, 1] = kept[:, 1].round()  # a head of a regular degree beside one of an irregular degree
    kept[..., 0] = 1
    if not open_ended:
        kept[..., -1] = 0
    learner.harden(kept, torch.randn(4, 2, LONGEST + 2))
    expected = computed_by_hand(by_hand_at_distances(learner.weights, kept, open_ended), model, batch)
    expected_weights, learner.weights.grad = learner.weights.grad, None
    assert expected_weights.count_nonzero() >= 4

    with sparsify(model, "learned | global(cls)", learner):
        assert_equal(outputs_and_gradients(model, batch), expected)
    torch.testing.assert_close(learner.weights.grad, expected_weights, rtol=1e-7, atol=1e-10)
    assert learner.theta.grad is None


@pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable` is deprecated")
@pytest.mark.parametrize("hard, reentrant", [(False, False), (True, False), (True, True)])
def test_gradient_checkpoints_change_no_gradient_of_degrees_and_weights(hard, reentrant):
    model, learner, found = tiny_model("bert"), learner_of(), []
    if hard:
        learner.harden(torch.ones_like(learner.kept), learner.weights.detach())
    model.enable_input_require_grads()
    with sparsify(model.train(), "learned | global(cls)", learner, kernel="reference"):
        for _ in range(2):
            torch.manual_seed(0)
            outputs_and_gradients(model, tiny_batch())
            learned = learner.weights if hard else learner.theta
            found.append(learned.grad)
            learned.grad = None
            model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    torch.testing.assert_close(found[1], found[0])


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
@pytest.mark.parametrize("kind", ["bert", "mpnet"])
@pytest.mark.parametrize("hard", [False, True])
def test_a_copy_of_a_model_follows_the_plan_with_degrees_of_its_own(kind, hard, copied):
    batch, model = tiny_batch(), tiny_model(kind)
    model.learner = learner_of()
    if hard:
        model.learner.harden(torch.ones_like(model.learner.kept), model.learner.weights.detach())
    untouched = model(**{c: batch[c] for c in MODEL_COLUMNS}).logits
    with sparsify(model, "learned | global(cls)", model.learner):
        logits = model(**batch).logits
        other = copied(model)
    assert torch.equal(model(**{c: batch[c] for c in MODEL_COLUMNS}).logits, untouched)
    assert torch.equal(other(**batch).logits, logits)
    other(**batch).logits.sum().backward()
    assert (other.learner.weights if hard else other.learner.theta).grad.any()
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("method", [name for name, method in METHODS.items() if method.soft])
def test_weights_and_degrees_change_what_the_model_computes(method):
    batch, model = tiny_batch(), tiny_model("bert")
    learner = LearnedDegrees(DegreeConfig(method=method, max_distance=3), [0, 1, 2, 3], 4, 2).double()
    with torch.no_grad():
        learner.theta.mul_(0.1)
    learner.eval()
    untouched = model(**{c: batch[c] for c in MODEL_COLUMNS}).logits
    with sparsify(model, "learned | global(cls)", learner):
        assert (model(**batch).logits - untouched).abs().max() > 1e-3


def test_a_plan_may_be_a_pattern_a_plan_or_a_text():
    batch, model = tiny_batch(), tiny_model("bert")
    results = []
    for plan in (Neighbour(1) | Global("cls"), parse_plan(PLANS[0]), PLANS[0]):
        with sparsify(model, plan) as sparse:
            assert sparse.plan == parse_plan(PLANS[0])
            results.append(model(**batch).logits)
    assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])


@kinds
@pytest.mark.parametrize("side", ["left", "right", "between"])
def test_padding_is_nothing_wherever_it_stands(kind, side):
    model, plan = tiny_model(kind), "neighbour(1) | random(2) | global(cls) @ 1-"
    batch = {column: tiny_batch((9, 9, 9))[column] for column in MODEL_COLUMNS}
    real = torch.ones(3, 9, dtype=torch.long)
    if side == "between":
        real[0, 3:5] = 0
    else:
        real[0, :3] = side == "right"
        real[0, 6:] = side == "left"
    batch = {
        "input_ids": batch["input_ids"].masked_fill(real == 0, architecture_of(model).config.pad_token_id),
        "attention_mask": real,
    }
    own = Batch(real.bool())
    masks = torch.stack(
        [pattern.allowed(own).expand(-1, 2, -1, -1) for pattern in parse_plan(plan).layers(4)]
    )
    by_hand = HandMasked(masks, torch.zeros(masks.shape, dtype=torch.float64))
    expected = computed_by_hand(by_hand, model, batch, states_and_gradients)
    with sparsify(model, plan):
        assert_equal(states_and_gradients(model, batch), expected)


KERNELS_ON_A_CPU = [("banded", "neighbour(3) | global(cls)"), ("banded", "neighbour(2) | random(2)")]
KERNELS_ON_A_CPU += [("flex", "neighbour(3) | global(cls)"), ("auto", "neighbour(3)")]


@kinds
@pytest.mark.parametrize(("kernel", "plan"), KERNELS_ON_A_CPU)
def test_every_kernel_gives_the_results_of_the_reference(kind, kernel, plan):
    batch, model = tiny_batch((60, 21, 40)), tiny_model(kind)
    batch = {column: batch[column] for column in MODEL_COLUMNS}
    results = []
    for chosen in ("reference", kernel):
        with sparsify(model, plan, kernel=chosen) as sparse, sparse.measure() as meter:
            if kernel == "flex":  # which has gradients on a GPU only
                with torch.no_grad():
                    results.append((model(**batch).logits, {}))
            else:
                results.append(outputs_and_gradients(model, batch))
        results[-1][1]["density"] = torch.tensor(meter.over_real)
    assert_equal(*results)


@kinds
def test_a_model_with_extended_positions_follows_its_plan_and_is_itself_again(kind, tmp_path):
    model = tiny_model(kind, max_position_embeddings=26 if kind in ("mpnet", "roberta") else 24)
    batch = {column: tiny_batch((40, 33, 7))[column] for column in MODEL_COLUMNS}
    extend_positions(model, 40)
    untouched = model(**batch).logits
    with sparsify(model, PLANS[0]):
        sparse = outputs_and_gradients(model, batch)
        model.save_pretrained(tmp_path)
    assert torch.equal(model(**batch).logits, untouched)
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path, dtype=torch.float64).eval()
    torch.testing.assert_close(again(**batch).logits, untouched)
    with sparsify(again, PLANS[0]):
        assert_equal(outputs_and_gradients(again, batch), sparse)


def test_the_bias_of_relative_positions_is_the_encoders_own_at_any_length():
    model = tiny_model("mpnet")
    encoder = model.base_model.encoder
    for length in (1, 2, 9, 130, 300):
        table = architecture_of(model).by_offset(length)
        reach = table.shape[1] // 2
        places = torch.arange(length)
        offsets = (places[None] - places[:, None]).clamp(-reach, reach)
        expected = encoder.compute_position_bias(torch.zeros(1, length, 1))[0]
        assert torch.equal(table[:, offsets + reach], expected)


def test_an_architecture_from_outside_takes_one_class(monkeypatch):
    class MineConfig(BertConfig):
        model_type = "mine"

    model = BertForSequenceClassification(
        MineConfig(**CONFIGS["bert"].to_diff_dict() | {"model_type": "mine"})
    )
    with pytest.raises(InputError, match=r"'mine' models cannot be used.*sparsebert\.register"):
        sparsify(model, "neighbour(1)")

    class Adapter(Architecture):
        name = "mine"
        attention = "BertSelfAttention"

    register(Adapter)
    try:
        batch = {column: tiny_batch()[column] for column in MODEL_COLUMNS}
        untouched = model.eval()(**batch).logits
        with sparsify(model, Neighbour(1)):
            assert not torch.equal(model(**batch).logits, untouched)
    finally:
        del ARCHITECTURES["mine"]
        ARCHITECTURES.fingerprints.pop("mine", None)


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
    untouched, usual = model(**columns).logits, model.config._attn_implementation
    with sparsify(model, "dense"):
        torch.testing.assert_close(model(**batch).logits, untouched, rtol=1e-12, atol=1e-14)
    sparse = sparsify(model, "neighbour(0)")
    assert not torch.equal(model(**columns).logits, untouched)
    sparse.undo()
    sparse.undo()
    assert model.config._attn_implementation == usual
    assert torch.equal(model(**columns).logits, untouched)


@pytest.mark.parametrize("kind", ["bert", "mpnet"])
def test_a_plan_that_was_undone_does_not_come_back_after_the_own_attention(kind):
    model = tiny_model(kind)
    usual = model.config._attn_implementation
    sparse = sparsify(model, "neighbour(0)")
    with sparse.own_attention("eager"):
        sparse.undo()
    assert model.config._attn_implementation == usual
    with sparse.own_attention("eager"):
        assert model.config._attn_implementation == "eager"
    assert model.config._attn_implementation == usual


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


def test_density_is_measured_once_at_a_time():
    with sparsify(tiny_model("bert"), "neighbour(1)") as sparse, sparse.measure() as meter:
        with pytest.raises(InputError, match="measured already"), sparse.measure():
            pass
        sparse.model(**tiny_batch())
    assert meter.over_real[0] < 1
    with sparse.measure():
        pass


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
    "kind", sorted(set(ARCHITECTURES) - {"albert", "mpnet"})
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


@pytest.mark.parametrize("plan", ["dense", "neighbour(3) | global(cls)"])
def test_padding_that_an_encoders_own_windows_leave_alone_does_no_harm_in_training(plan):
    batch, model = tiny_batch((20, 3)), tiny_model("modernbert", attention_dropout=0.1)
    with sparsify(model.train(), plan):
        loss = model(**batch, labels=torch.tensor([0, 1])).loss
        loss.backward()
    assert loss.isfinite()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_dropout_needs_no_gradients():
    batch, model = tiny_batch((12, 12)), tiny_model("bert", attention_probs_dropout_prob=0.5).train()
    refused = pytest.raises(InputError, match="it has no dropout")
    with sparsify(model, "neighbour(2)", kernel="flex"), torch.no_grad(), refused:
        model(**batch)


@pytest.mark.parametrize("kernel", ["banded", "reference"])
def test_what_was_prepared_in_inference_mode_does_no_harm_to_training(kernel):
    batch, model = tiny_batch((12, 12)), tiny_model("bert")
    with sparsify(model, "neighbour(2) | global(cls)", kernel=kernel):
        with torch.inference_mode():
            model(**batch)
        model(**batch, labels=torch.tensor([0, 1])).loss.backward()
    assert model.get_input_embeddings().weight.grad.abs().sum() > 0


@pytest.mark.parametrize("plan", ["syntax", "neighbour(2) | lexical(2)", "neighbour(3) - neighbour(1)"])
def test_a_kernel_that_never_computes_a_pattern_is_refused_at_once(plan):
    model = tiny_model("bert")
    with pytest.raises(InputError, match=r"kernel=banded can't be used here.*not made of a band"):
        sparsify(model, plan, kernel="banded")
    with sparsify(model, plan):
        pass


def test_other_architectures_are_refused_by_name_with_the_reason():
    config = DebertaV2Config(
        vocab_size=50, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    model = AutoModelForSequenceClassification.from_config(config)
    reason = r"'deberta-v2' models cannot be used, since their scores join .*choose .*roberta"
    with pytest.raises(InputError, match=reason):
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


def test_parses_of_a_call_that_failed_are_forgotten():
    batch, model = tiny_batch(), tiny_model("bert")
    with sparsify(model, "syntax"):
        with pytest.raises(TypeError):
            model(batch["input_ids"], **batch)
        with pytest.raises(InputError, match=r"syntax.*head_ids and word_ids"):
            model(input_ids=batch["input_ids"])


@pytest.mark.filterwarnings("ignore:flex_attention called without")
@pytest.mark.parametrize(
    ("kernel", "plan"),
    [
        ("dense", "dense"),
        ("reference", "syntax | lexical(2)"),
        ("banded", "neighbour(1) | global(cls)"),
        ("segmented", "neighbour(1) | segments(first sees second)"),
        ("flex", "neighbour(1) | global(cls)"),
    ],
)
def test_half_precision_on_request_is_near_the_whole(kernel, plan):
    model, batch = tiny_model("bert").float(), tiny_batch()
    batch["token_type_ids"] = (torch.arange(9) > 2).long().expand(3, 9)
    with torch.no_grad(), sparsify(model, plan, kernel="auto" if kernel == "dense" else kernel) as sparse:
        whole = model(**batch).logits
        with torch.autocast("cpu", torch.bfloat16):
            found = model(**batch).logits
        assert set(sparse.kernels) == {kernel}
    assert (found - whole).norm() < 0.05 * whole.norm()


def test_a_mask_of_pairs_is_refused():
    batch, model = tiny_batch(), tiny_model("bert")
    with sparsify(model, "neighbour(1)"), pytest.raises(InputError, match=r"\[batch, length\]"):
        model(input_ids=batch["input_ids"], attention_mask=torch.ones(3, 1, 9, 9))
