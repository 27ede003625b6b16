from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from models import tiny_batch, tiny_model
from test_finetune import interrupt_at
from transformers import BertConfig, BertForSequenceClassification

from sparsebert.degrees import DegreeConfig, LearnedDegrees
from sparsebert.degrees.hardening import check_target, count_pairs, mass_widths
from sparsebert.degrees.learning import other_parts
from sparsebert.degrees.methods import Survival, attention_mass
from sparsebert.degrees.training import attach_degrees
from sparsebert.errors import InputError
from sparsebert.models.sparsified import sparsify
from sparsebert.patterns import Global, parse_pattern
from sparsebert.patterns.batches import Batch
from sparsebert.patterns.hard_degrees import kept_edges
from sparsebert.patterns.plans import parse_plan
from sparsebert.registry import METHODS, register
from sparsebert.sweeps.running import find_or_train
from sparsebert.training.finetuning import finetune
from sparsebert.training.runs import RunConfig, RunRecord

SOFT = [name for name, method in METHODS.items() if method.soft]
SHARINGS = ("network", "layer", "head")
LONGEST, HEADS = 5, 4
with_methods = pytest.mark.parametrize("method", SOFT)
with_sharings = pytest.mark.parametrize("sharing", SHARINGS)


def learner_of(layers: int = 2, longest: int = LONGEST, heads: int = HEADS, seed: int = 0, **fields):
    """A float64 learner of these many layers at a random place."""
    torch.manual_seed(seed)
    learner = LearnedDegrees(
        DegreeConfig(max_distance=longest, **fields), list(range(layers)), layers, heads
    ).double()
    with torch.no_grad():
        learner.theta.normal_()
        if learner.config.method == "span":  # from no neighbour to all that are told apart
            learner.theta.uniform_(0, 1)
    return learner


def refusal(call) -> str:
    with pytest.raises(InputError) as refused:
        call()
    assert "\n" not in str(refused.value)
    return str(refused.value)


# ---- survival


@settings(max_examples=60)
@given(st.data(), st.sampled_from(["survival", "ensemble", "span"]), st.booleans())
def test_survival_starts_at_one_and_never_increases(data, method, open_ended):
    learner = learner_of(method=method, open_ended=open_ended)
    values = st.lists(st.floats(-60, 60), min_size=learner.theta.numel(), max_size=learner.theta.numel()).map(
        torch.tensor
    )
    with torch.no_grad():
        learner.theta.copy_(data.draw(values).view_as(learner.theta))
    survival = learner.log_survival().exp()
    assert survival.shape == (2, HEADS, LONGEST + 2)
    assert (survival[..., 0] == 1).all()
    assert (survival[..., 1:] <= survival[..., :-1] + 1e-9).all()
    assert survival.min() > 0  # so that logarithms and gradients are numbers
    if open_ended:
        assert torch.equal(survival[..., -1], survival[..., -2])
    else:
        assert survival[..., -1].max() < 1e-5


@with_sharings
@pytest.mark.parametrize("method", ["survival", "ensemble"])
def test_survival_is_the_share_of_tokens_with_that_degree_or_a_larger_one(method, sharing):
    learner = learner_of(method=method, sharing=sharing)
    survival = learner.log_survival().exp()
    theta = learner.theta.expand(2, HEADS, LONGEST + 1)
    for layer, head, distance in itertools.product(range(2), range(HEADS), range(LONGEST + 1)):
        odds = [math.exp(value) for value in theta[layer, head].tolist()]
        expected = sum(odds[distance:]) / sum(odds)
        assert survival[layer, head, distance].item() == pytest.approx(expected, rel=1e-9)


def test_the_survival_of_a_gate_is_how_often_it_is_open():
    learner = learner_of(method="gates").train()
    batch, open_gates, draws = Batch.of_lengths([LONGEST + 2]), 0, 1000
    torch.manual_seed(0)
    for _ in range(draws):
        learner.prepare(batch)
        open_gates = open_gates + torch.stack(
            [learner.bias(layer, batch)[0, :, 0] for layer in (0, 1)]
        ).exp().gt(1e-5)
    survival = learner.log_survival().exp()
    error = (survival * (1 - survival) / draws).sqrt()
    assert ((open_gates / draws - survival).abs() <= 5 * error + 1e-12).all()


@with_methods
@pytest.mark.parametrize("sharing, groups", [("network", (1, 1)), ("layer", (2, 1)), ("head", (2, HEADS))])
def test_what_shares_a_distribution_is_what_was_asked_for(method, sharing, groups):
    learner = learner_of(method=method, sharing=sharing)
    assert learner.theta.shape[:2] == groups
    survival = learner.log_survival()
    rows = {tuple(row) for row in survival.detach().round(decimals=9).view(-1, LONGEST + 2).tolist()}
    assert len(rows) == groups[0] * groups[1]


@with_methods
@with_sharings
def test_learning_starts_near_the_dense_encoder_where_every_distribution_has_a_gradient(method, sharing):
    learner = LearnedDegrees(DegreeConfig(method=method, max_distance=24, sharing=sharing), [0, 1], 2, 3)
    learner.prepare(Batch.of_lengths([30, 60]))
    assert (learner.density > 0.85).all() and (learner.density <= 1).all()
    learner.density.mean().backward()
    assert (learner.theta.grad.abs().sum(-1) > 1e-4).all()


@pytest.mark.parametrize("far", [-1e3, 1e3])
def test_a_span_has_a_gradient_however_far_a_step_went(far):
    learner = learner_of(method="span")
    with torch.no_grad():
        learner.theta.fill_(far)
    learner.method.keep_in_reach(learner.theta.data)
    learner.prepare(Batch.of_lengths([LONGEST + 2]))
    learner.density.mean().backward()
    assert (learner.theta.grad > 1e-3).all()
    survival = learner.log_survival().exp()[..., 1:]
    expected = [0.1] + [1e-6] * LONGEST if far < 0 else [1] * (LONGEST - 1) + [0.9] * 2
    assert survival[0, 0].tolist() == pytest.approx(expected)


# ---- the density to expect, and its price


def padded_anyhow() -> Batch:
    """Odd and even lengths, padding on either side and in between, one row shorter than the distances."""
    real = torch.zeros(4, 13, dtype=torch.bool)
    real[0] = True
    real[1, 5:] = True
    real[2, :3] = True
    real[3, [0, 1, 4, 5, 6, 9, 12]] = True
    return Batch(real)


def lengths_of(batch: Batch) -> list[int]:
    return batch.real.sum(-1).tolist()


def expected_by_hand(survival, batch: Batch, has_global: bool) -> float:
    """Of a layer: the mean over heads of the summed probabilities that pairs of real tokens exist."""
    total = 0.0
    for n, (i, j), row in itertools.product(
        lengths_of(batch), itertools.product(range(13), range(13)), survival.tolist()
    ):
        if max(i, j) < n:
            free = i == j or (has_global and 0 in (i, j))
            total += 1 if free else row[min(abs(i - j), LONGEST + 1)]
    return total / len(survival) / sum(n * n for n in lengths_of(batch))


@with_methods
@with_sharings
@pytest.mark.parametrize("open_ended", [True, False])
def test_the_density_to_expect_is_that_of_each_pair_summed(method, sharing, open_ended):
    learner, batch = learner_of(method=method, sharing=sharing, open_ended=open_ended), padded_anyhow()
    learner.others[0] = Global("cls")
    learner.prepare(batch)
    for layer, survival in enumerate(learner.log_survival().detach().exp()):
        assert learner.density[layer].item() == pytest.approx(
            expected_by_hand(survival, batch, has_global=layer == 0), rel=1e-6
        )


@pytest.mark.parametrize("method", ["survival", "ensemble"])
@pytest.mark.parametrize("open_ended", [True, False])
def test_the_density_to_expect_is_the_mean_of_graphs_that_are_drawn(method, open_ended):
    learner, batch = learner_of(method=method, open_ended=open_ended), padded_anyhow()
    learner.others[0] = Global("cls")
    learner.prepare(batch)
    draws, random = 2000, np.random.default_rng(0)
    pairs = sum(n * n for n in lengths_of(batch))
    for layer in range(2):
        p = learner.theta[layer].softmax(-1).detach().numpy()
        found = np.zeros(draws)
        for head, n in itertools.product(range(HEADS), lengths_of(batch)):
            degree = random.choice(LONGEST + 1, size=(draws, n, 1), p=p[head])
            if open_ended:
                degree = np.where(degree == LONGEST, n, degree)
            distance = abs(np.arange(n)[:, None] - np.arange(n))
            mask = distance <= degree
            if layer == 0:
                mask[:, 0] = mask[:, :, 0] = True
            found += mask.sum((1, 2)) / HEADS / pairs
        error = found.std() / math.sqrt(draws)
        assert error < 0.001
        assert abs(found.mean() - learner.density[layer].item()) < 4 * error


@with_methods
@with_sharings
@pytest.mark.parametrize("open_ended", [True, False])
def test_the_gradient_of_the_penalty_is_that_of_finite_differences(method, sharing, open_ended):
    learner = learner_of(4, heads=2, method=method, sharing=sharing, open_ended=open_ended, price=3.0)
    plan = "learned | global(cls) @ 0-2; learned | neighbour(1) @ 3"
    with sparsify(tiny_model("bert"), parse_plan(plan), learner):
        no_logits = torch.zeros(1, 3), None
        assert learner.added_loss(*no_logits) == 0  # before a batch has passed

        def penalty() -> torch.Tensor:
            learner.prepare(padded_anyhow())
            return learner.added_loss(*no_logits)

        value = penalty()
        assert value.item() == pytest.approx(3 * learner.density.mean().item())
        value.backward()
        slopes, theta = torch.zeros_like(learner.theta), learner.theta.detach()
        for place in itertools.product(*map(range, theta.shape)):
            ends = []
            for step in (1e-5, -1e-5):
                theta[place] += step
                ends.append(penalty().item())
                theta[place] -= step
            slopes[place] = (ends[0] - ends[1]) / 2e-5
    torch.testing.assert_close(learner.theta.grad, slopes, rtol=1e-5, atol=1e-8)
    assert slopes.abs().max() > 1e-3


def test_counted_pairs_of_batches_add_up():
    batches = [Batch.of_lengths([9, 4]), padded_anyhow()]
    others = {0: Global("cls"), 1: None, 3: parse_pattern("neighbour(1) | random(2)")}
    together = count_pairs(batches[0], others, 3) + count_pairs(batches[1], others, 3)
    lengths = [9, 4, *lengths_of(padded_anyhow())]
    assert together.total == sum(n * n for n in lengths)
    assert together.fixed[:2].tolist() == [sum(3 * n - 2 for n in lengths), sum(lengths)]
    full = torch.ones(3, HEADS, 5)
    assert together.density(full).tolist() == pytest.approx([1, 1, 1])
    none = together.density(torch.zeros(3, HEADS, 5))
    kept = sum(other_pairs(others[3], batch) for batch in batches)
    assert none[2].item() == pytest.approx(kept / together.total)


def other_pairs(pattern, batch: Batch) -> int:
    return pattern.allowed(batch).sum().item()


def test_as_the_ensemble_cools_each_token_takes_its_quantile():
    learner, batch = learner_of(method="ensemble"), Batch.of_lengths([40])
    learner.temperature.fill_(1e-4)
    learner.prepare(batch)
    for layer in range(2):
        survival = learner.log_survival()[layer].detach().exp()
        hard = kept_edges(survival.float(), layer, batch)
        weight = learner.bias(layer, batch).detach().exp()
        assert (weight[hard].mean(), weight[~hard].mean()) == pytest.approx((1, 0), abs=0.01)
        assert torch.equal(weight > 0.5, hard)


# ---- hardening


LENGTHS = list(range(15, 65, 7))
TARGETS = (0.1, 0.15, 0.25, 0.4)


def encoder() -> BertForSequenceClassification:
    """4 layers of 12 heads, enough for one width per head to come close to any density."""
    config = BertConfig(
        vocab_size=9, hidden_size=24, num_hidden_layers=4, num_attention_heads=12, intermediate_size=8
    )
    return BertForSequenceClassification(config).eval()


def measured(plan: str, learner: LearnedDegrees | None = None) -> list[float]:
    real = Batch.of_lengths(LENGTHS).real
    with sparsify(encoder(), plan, learner) as sparse, torch.no_grad(), sparse.measure() as meter:
        sparse.model(input_ids=real.long(), attention_mask=real.long())
    return meter.over_real


def hardened(target: float | None, plan: str = "learned | global(cls)", **fields) -> LearnedDegrees:
    """A random learner of the encoder's 4 layers after hardening on texts of 15 to 64 tokens."""
    learner = learner_of(4, longest=24, heads=12, target_density=target, **fields)
    with torch.no_grad():
        learner.theta.mul_(2)
    batch = Batch.of_lengths(LENGTHS)
    pairs = count_pairs(batch, dict.fromkeys(range(4), other_parts(parse_pattern(plan).at(0, learner))), 24)
    learner.harden(*learner.method.harden(learner.log_survival().detach(), pairs, None))
    return learner


@pytest.mark.parametrize(
    "fields",
    [
        {"harden": "support"},
        {"harden": "support", "sharing": "layer"},
        {"harden": "support", "sharing": "network"},
        {"harden": "support", "open_ended": False},
        {"harden": "support", "method": "span"},
        {"harden": "support", "method": "gates"},
        {"harden": "regular"},
        {"harden": "regular", "open_ended": False},
        {"harden": "irregular"},
        {"harden": "irregular", "sharing": "network"},
    ],
    ids=lambda fields: "-".join(map(str, fields.values())),
)
def test_the_density_that_is_measured_is_the_one_asked_for(fields, tmp_path):
    plans = [("learned | global(cls)", target) for target in TARGETS]
    for plan, target in [*plans, ("learned", 0.25)]:
        learner = hardened(target, plan, **fields)
        densities = measured(plan, learner)
        assert sum(densities) / 4 == pytest.approx(target, abs=0.005)
    path = learner.hardened().save(tmp_path / "degrees.json")
    assert measured(f'learned("{path}")') == densities


def test_the_density_asked_for_is_met_within_the_windows_that_an_encoder_has_of_its_own():
    model, plan, longest = tiny_model("modernbert"), parse_plan("learned | global(cls)"), 8
    learner = attach_degrees(model, plan, DegreeConfig(target_density=0.3, max_distance=longest))
    batch = Batch.of_lengths([30, 17])
    assert learner.windows == {1: 3, 3: 3}
    others = dict.fromkeys(range(4), parse_pattern("global(cls)"))
    pairs = count_pairs(batch, others, longest, learner.windows)
    assert pairs.by_distance[1, 4:].sum() == 0 < pairs.by_distance[0, 4:].sum()
    learner.harden(*learner.method.harden(learner.log_survival().detach(), pairs, None))
    real = batch.real.long()
    with sparsify(model, plan, learner) as sparse, torch.no_grad(), sparse.measure() as meter:
        model(input_ids=3 * real, attention_mask=real)
    assert sum(meter.over_real) / 4 == pytest.approx(0.3, abs=0.005)
    all_pairs = (pairs.by_distance[0].sum() + pairs.fixed[0]).item()  # of a layer without a window
    assert all_pairs == pytest.approx(pairs.total)


@pytest.mark.parametrize("target", [0.5, 0.8])
def test_open_ended_degrees_reach_far_however_little_survives_there(target):
    log_survival = -0.6 * torch.arange(26.0).expand(4, 12, -1)
    batch = Batch.of_lengths([60])
    pairs = count_pairs(batch, dict.fromkeys(range(4), None), 24)
    how = DegreeConfig(harden="irregular", target_density=target)
    kept, _ = METHODS["survival"](how).harden(log_survival, pairs, None)
    assert pairs.density(kept).mean().item() == pytest.approx(target, abs=0.005)


@pytest.mark.parametrize("how", ["support", "irregular", "regular"])
@pytest.mark.parametrize("target", [None, *TARGETS])
def test_hard_degrees_keep_nearer_edges_first(how, target):
    kept = hardened(target, harden=how).kept
    assert (kept[..., 0] > 1 - 1e-6).all() and kept.min() >= 0 and kept.max() <= 1
    assert (kept[..., 1:] <= kept[..., :-1]).all()
    if how == "regular":
        assert set(kept.unique().tolist()) == {0, 1}
    if how == "irregular":
        assert ((kept > 0.01) & (kept < 0.99)).any()


def test_support_keeps_the_edges_that_survive_most():
    learner = hardened(0.25)
    strength, kept = learner.log_survival()[..., 1:], learner.kept[..., 1:]
    assert strength[kept > 0].min() >= strength[kept < 1].max() - 1e-9
    assert ((kept > 0) & (kept < 1)).sum() <= 1  # the last edge that fits
    torch.testing.assert_close(learner.weights[..., 1:][kept > 0], strength[kept > 0].detach())


def test_without_a_target_edges_are_kept_that_are_more_likely_than_not():
    survival = hardened(None).log_survival().exp()
    assert torch.equal(hardened(None).kept[..., 1:] > 0, survival[..., 1:] >= 0.5)
    irregular = hardened(None, harden="irregular").kept
    torch.testing.assert_close(irregular[..., :-1], survival[..., :-1].detach(), rtol=0, atol=1e-6)
    width = hardened(None, harden="regular").kept[..., 1:-1].sum(-1)
    mean_degree = survival[..., 1:-1].sum(-1)
    assert (width - mean_degree).abs().max() <= 0.5 + 1e-9


@pytest.mark.parametrize("open_ended", [True, False])
def test_no_token_keeps_what_does_not_survive(open_ended):
    learner = learner_of(harden="irregular", open_ended=open_ended)
    with torch.no_grad():
        learner.theta[..., 2] = 30.0  # the degree of all tokens
    learner.harden(*learner.method.harden(learner.log_survival().detach(), None, None))
    assert learner.kept[0, 0].tolist() == [1, 1, 1, 0, 0, 0, 0]
    learner = learner_of(harden="irregular", open_ended=open_ended)
    kept, _ = learner.method.harden(learner.log_survival().detach(), None, None)
    assert bool((kept[..., -1] > 0).all()) is open_ended


def test_heads_that_share_a_distribution_share_their_edges():
    kept = hardened(0.25, sharing="network").kept
    assert torch.equal(kept, kept[:1, :1].expand_as(kept))
    kept = hardened(0.25, sharing="layer", harden="irregular").kept
    assert torch.equal(kept, kept[:, :1].expand_as(kept)) and not torch.equal(kept[0], kept[1])


def test_a_tilted_distribution_stays_in_its_family():
    """Irregular degrees reach the target by p(d) times exp(-t d), with one t for all heads."""
    learner = learner_of(4, longest=24, heads=12, harden="irregular", target_density=0.15)
    pairs = count_pairs(Batch.of_lengths(LENGTHS), dict.fromkeys(range(4)), 24)
    kept, weights = learner.method.harden(learner.log_survival().detach(), pairs, None)
    assert weights is None
    p = learner.theta.softmax(-1).detach()
    tilted = kept[..., :-1] - torch.cat([kept[..., 1:-1], torch.zeros(4, 12, 1)], -1)
    slope = (tilted / p).clamp(min=1e-300).log().diff(dim=-1)
    likely = torch.minimum(tilted[..., 1:], tilted[..., :-1]) > 1e-9
    assert likely.sum() > 100
    assert slope[likely].max() == pytest.approx(slope[likely].min().item(), abs=1e-4)


@pytest.mark.parametrize("how", ["support", "irregular", "regular"])
def test_a_target_below_what_the_rest_of_the_plan_takes_is_refused(how):
    said = refusal(lambda: hardened(0.05, harden=how))
    n = np.array(LENGTHS)
    floor = (3 * n - 2).sum() / (n * n).sum()
    assert said.startswith("target_density=0.05 is out of reach") and f"density {floor:.3f}" in said


@pytest.mark.parametrize("how", ["support", "irregular", "regular"])
def test_a_target_above_what_the_distances_give_is_refused(how):
    said = refusal(lambda: hardened(0.9, harden=how, open_ended=False))
    assert said.startswith("target_density=0.9 is out of reach")


def test_a_target_of_all_pairs_is_within_reach_of_open_ended_degrees():
    assert measured("learned", hardened(1.0, "learned")) == pytest.approx([1] * 4)
    check_target(1.0, count_pairs(Batch.of_lengths([9]), {0: None}, 3), open_ended=True)


# ---- widths from the attention of the encoder


@pytest.mark.parametrize("kind", ["bert", "albert", "distilbert"])
def test_the_attention_mass_is_that_of_each_pair_summed(kind):
    model, batches = tiny_model(kind).train(), [tiny_batch(), tiny_batch((5, 2), seed=1)]
    model.set_attn_implementation("eager")
    expected = torch.zeros(2, 2, LONGEST + 2, dtype=torch.float64)
    model.eval()
    for batch in batches:
        columns = {name: batch[name] for name in ("input_ids", "attention_mask")}
        attentions = model(**columns, output_attentions=True).attentions
        for row, n in enumerate(batch["attention_mask"].sum(-1).tolist()):
            for (place, layer), head, i, j in itertools.product(
                enumerate((1, 3)), range(2), range(n), range(n)
            ):
                if i != j and not (layer == 1 and 0 in (i, j)):
                    share = attentions[layer][row, head, i, j].item()
                    expected[place, head, min(abs(i - j), LONGEST + 1)] += share
    model.set_attn_implementation("sdpa")
    model.train()

    learner = LearnedDegrees(DegreeConfig(max_distance=LONGEST), [1, 3], 4, 2).double()
    plan = "learned | global(cls) @ 1; learned @ 3"
    with sparsify(model, plan, learner) as sparse:
        mass = attention_mass(sparse, batches, learner.others, LONGEST)
        assert model.training and model.config._attn_implementation == "sparsebert"
    torch.testing.assert_close(mass, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("target", TARGETS)
def test_widths_keep_one_share_of_the_attention_of_every_head(target):
    torch.manual_seed(0)
    mass = torch.rand(4, 12, 26, dtype=torch.float64) ** 4
    mass[..., 0] = 0
    pairs = count_pairs(Batch.of_lengths(LENGTHS), dict.fromkeys(range(4), Global("cls")), 24)
    kept = mass_widths(mass, pairs, target, open_ended=True)
    assert pairs.density(kept).mean().item() == pytest.approx(target, abs=1e-6)
    whole = kept.ceil()
    assert (whole[..., 1:] <= whole[..., :-1]).all()
    share = mass / mass.sum(-1, keepdim=True)
    within = (share * whole).sum(-1)  # with each head's last edge
    without_last = within - share.gather(-1, (whole.sum(-1, keepdim=True) - 1).long())[..., 0]
    assert without_last.max() <= within.min() + 1e-9
    learner = learner_of(4, longest=24, heads=12, method="mass", target_density=target)
    learner.harden(kept)
    assert sum(measured("learned | global(cls)", learner)) / 4 == pytest.approx(target, abs=0.005)


# ---- what is refused


@pytest.mark.parametrize(
    ("plan", "degrees", "said"),
    [
        ("learned | global(cls)", None, "--learn-degrees"),
        ("neighbour(1)", {}, "plan 'neighbour(1)' has no degrees to learn; write for instance learned"),
        ("learned @ 0; weighted(neighbour(1)) @ 1", {}, "not both at once"),
        ("weighted(neighbour(1))", {"target_density": 0.3}, "leave target_density and weights=false out"),
        ("weighted(neighbour(1))", {"weights": False}, "leave target_density and weights=false out"),
        ("learned - neighbour(1)", {}, "joins 'learned' with '|' and once"),
        ("(learned | global(cls)) - neighbour(1)", {}, "joins 'learned' with '|' and once"),
        ("random(like=learned)", {}, "joins 'learned' with '|' and once"),
        ("learned | learned", {}, "joins 'learned' with '|' and once"),
        ("learned @ 7", {}, "its layers are 0-1"),
        ("learned", {"target_density": 0.02}, "target_density=0.02 is out of reach"),
        ("learned", {"target_density": 0.9, "max_distance": 1, "open_ended": False}, "is out of reach"),
        (
            "learned",
            {"target_density": 0.02, "method": "mass"},
            "target_density=0.02 is out of reach",
        ),
    ],
)
def test_a_run_that_cannot_learn_says_why_in_one_sentence(small, plan, degrees, said):
    assert said in refusal(lambda: finetune(RunConfig(**small | {"plan": plan, "degrees": degrees})))


@pytest.mark.parametrize(
    ("degrees", "said"),
    [
        ({"method": "survial"}, "unknown method of learning degrees 'survial': did you mean 'survival'?"),
        ({"method": 3}, "method=3: "),
        ({"method": "span", "harden": "irregular"}, "method=span gives no degree distribution"),
        ({"method": "gates", "harden": "regular"}, "write harden=support"),
        ({"method": "mass"}, "target_density, which is missing"),
        ({"sharng": "head"}, "unknown field of degrees 'sharng': did you mean 'sharing'"),
        ({"sharing": "all"}, "sharing=all: "),
        ({"target_density": 0}, "target_density=0: "),
        ({"target_density": 1.5}, "target_density=1.5: "),
        ({"soft_share": 1}, "soft_share=1: "),
        ({"max_distance": 0}, "max_distance=0: "),
        ({"price": -1}, "price=-1: "),
        ({"price": "inf"}, "price=inf: "),
    ],
)
def test_a_wrong_way_to_learn_is_refused_in_one_sentence(degrees, said):
    assert said in refusal(lambda: RunConfig.checked(plan="learned", degrees=degrees))


@pytest.mark.parametrize("kernel", ["banded", "flex"])
def test_a_kernel_that_cannot_compute_soft_degrees_is_refused_before_they_are_learned(kernel):
    config = {"plan": "learned", "kernel": kernel}
    assert "write kernel=auto" in refusal(lambda: RunConfig.checked(**config, degrees={}))
    assert RunConfig.checked(**config, degrees={"method": "mass", "target_density": 0.2}).kernel == kernel


def test_what_is_learned_is_attached_where_the_plan_leaves_it_open():
    model = tiny_model("bert")
    learner = attach_degrees(model, parse_plan("learned | global(cls) @ 1; dense @ 3"), DegreeConfig())
    assert model.sparsebert_degrees is learner and learner.layers == [1] and not learner.is_hard
    assert "sparsebert_degrees.theta" in dict(model.named_parameters())
    weighted = attach_degrees(tiny_model("bert"), parse_plan("weighted(neighbour(1)) @ late"), None)
    assert weighted.layers == [2, 3] and weighted.is_hard
    assert attach_degrees(tiny_model("bert"), parse_plan("neighbour(1)"), None) is None


# ---- within a run


def learning_run(small, plan: str = "learned | global(cls)", **degrees) -> RunConfig:
    fields = {"target_density": 0.4, "max_distance": 6, "rate": 0.5} | degrees
    return RunConfig(**{"epochs": 2} | small | {"plan": plan, "degrees": fields})


@pytest.mark.parametrize(
    "degrees",
    [
        {"sharing": "layer", "harden": "irregular"},
        {"method": "ensemble", "harden": "regular", "open_ended": False},
        {"method": "span", "weights": False},
        {"method": "gates", "sharing": "network"},
        {"method": "mass"},
    ],
    ids=lambda degrees: "-".join(map(str, degrees.values())),
)
def test_a_run_ends_with_hard_degrees_of_the_density_asked_for(small, degrees):
    config = learning_run(small, **degrees)
    record = finetune(config)
    learning = record.learning
    # The rows have about ten tokens and there are four heads: one width more is 2 points of density.
    coarse = 0.03 if degrees.get("harden") == "regular" else 0.015
    assert learning.target_density == 0.4 and learning.hard_density == pytest.approx(0.4, abs=coarse)
    assert record.density == pytest.approx(learning.hard_density)
    assert learning.degrees.max_distance == 6 and [len(rows) for rows in learning.degrees.kept] == [2, 2]
    assert (learning.degrees.weights is None) == (degrees.get("weights") is False)
    if degrees.get("method") == "mass":
        assert learning.survival is learning.soft_density is learning.soft_metrics is None
    else:
        assert learning.soft_metrics.keys() == record.metrics.keys()
        assert np.array(learning.survival).shape == (2, 2, 7)
        assert learning.soft_density != pytest.approx(learning.hard_density, abs=1e-4)
    assert RunRecord.model_validate_json(record.model_dump_json()) == record


@pytest.mark.parametrize("method", METHODS)
def test_a_method_says_of_itself_what_figures_and_tables_ask(method):
    config = DegreeConfig(method=method, target_density=0.5)
    assert config.label
    assert config.method_class.soft == (method in SOFT) and METHODS.fingerprint([method]) is None
    assert f"{method}: " in DegreeConfig.model_fields["method"].description


def test_labels_are_those_of_the_recorded_figures():
    assert DegreeConfig().label == "learned, per head"
    assert DegreeConfig(sharing="layer", harden="regular").label == "learned, per layer, regular"
    assert DegreeConfig(method="ensemble", harden="irregular").label == "learned ensemble"


def test_a_method_of_ones_own_is_learned_and_hardened_like_the_others(small, monkeypatch):
    monkeypatch.setitem(METHODS, "own", None)  # so that it is gone afterwards
    monkeypatch.setitem(METHODS.fingerprints, "own", "")
    del METHODS["own"]

    @register
    class Own(Survival):
        name = "own"
        label = "even start"

        def start(self, groups):
            return torch.zeros(*groups, self.longest + 1)

    config = learning_run(small, method="own")
    assert config.degrees.label == "even start" and METHODS.fingerprint(["own"])
    record = finetune(config)
    assert record.learning.hard_density == pytest.approx(0.4, abs=0.015)
    text = record.model_dump_json()
    del METHODS["own"]
    assert RunRecord.model_validate_json(text).config.degrees.method == "own"  # readable elsewhere


def test_layers_that_do_not_learn_stay_as_they_are_and_the_run_is_found_again(small):
    config = learning_run(small, "learned | global(cls) @ late")
    record, found = find_or_train(config)
    assert not found and find_or_train(config) == (record, True)
    assert learning_run(small, config.plan, target_density=0.5).name != config.name
    assert record.density_per_layer[0] == 1
    assert record.density_per_layer[1] == record.learning.hard_density == pytest.approx(0.4, abs=0.015)
    assert record.learning.degrees.kept[0] is None and len(record.learning.survival) == 1


@with_methods
def test_a_price_buys_density_and_no_price_buys_none(small, method):
    dear, free = (
        finetune(learning_run(small, target_density=None, price=price, method=method)) for price in (30, 0)
    )
    assert dear.learning.soft_density < free.learning.soft_density - 0.05
    assert dear.learning.target_density is None


def test_weights_on_the_edges_that_remain_are_trained(small):
    record = finetune(learning_run(small, weight_rate=0.5, harden="regular"))
    weights = [value for layer in record.learning.degrees.weights for row in layer for value in row]
    assert max(map(abs, weights)) > 0.1  # they start at 0
    without = finetune(learning_run(small, weights=False, harden="regular"))
    assert without.learning.degrees.kept == record.learning.degrees.kept
    assert without.train_loss != record.train_loss


def test_weights_of_a_fixed_pattern_are_trained_without_learned_degrees(small):
    plan = "neighbour(2) | global(cls)"
    plain, weighted = (
        finetune(RunConfig(**small | {"plan": text}))
        for text in (plan, "weighted(neighbour(2)) | global(cls)")
    )
    assert weighted.density_per_layer == plain.density_per_layer
    assert weighted.learning.target_density is None
    first, last = np.array(weighted.learning.degrees.weights)
    assert np.abs(first[:, :2]).min() > 0 and np.abs(first[:, 2:]).max() == 0  # pairs of the pattern alone
    assert np.abs(last).max() == 0  # there [CLS] is read, and its pairs are those of global(cls)


# ---- interruptions


@pytest.mark.parametrize("method, step", [("survival", 5), ("survival", 8), ("gates", 3)])
def test_an_interrupted_run_ends_with_the_same_degrees(small, workspace, method, step):
    fields = small | {"task": f"file:{workspace / 'scores.csv'}", "epochs": 2.5}
    config = learning_run(fields, method=method, soft_share=0.6)  # of 10 steps the first 6 are soft
    scratch = workspace / "scratch"
    with pytest.MonkeyPatch.context() as patched:
        interrupt_at(patched, step)
        with pytest.raises(KeyboardInterrupt):
            finetune(config, scratch=scratch, checkpoint_seconds=0)
    kept = {folder.name for folder in scratch.iterdir()}  # the last and the one before it
    assert f"checkpoint-{step - 1}" in kept and len(kept) <= 2
    resumed, whole = finetune(config, scratch=scratch), finetune(config)
    assert resumed.steps == whole.steps == 10
    assert resumed.learning.soft_density == pytest.approx(whole.learning.soft_density, rel=1e-5)
    assert resumed.learning.soft_metrics == pytest.approx(whole.learning.soft_metrics, rel=1e-4)
    np.testing.assert_allclose(resumed.learning.survival, whole.learning.survival, atol=2e-4)
    found, expected = resumed.learning.degrees, whole.learning.degrees
    for layer in range(2):
        torch.testing.assert_close(found.table(layer), expected.table(layer), rtol=0, atol=1e-4)
        weights = [degrees.weight_table(layer) for degrees in (found, expected)]
        torch.testing.assert_close(*weights, rtol=0, atol=1e-4)
    assert resumed.metrics == pytest.approx(whole.metrics, rel=1e-4)
    assert resumed.density_per_layer == pytest.approx(whole.density_per_layer)
    assert resumed.train_loss == pytest.approx(whole.train_loss, rel=1e-4)
