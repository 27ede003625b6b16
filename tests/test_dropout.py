from __future__ import annotations

import pytest
import torch
from models import tiny_batch, tiny_model
from torch import nn

from sparsebert.kernels.dropout import Dropout, kept, speed_up_dropout
from sparsebert.models.architectures import ARCHITECTURES


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_values_are_kept_as_often_as_torch_keeps_them(p):
    torch.manual_seed(0)
    factors = kept((400, 1000), p, torch.float64)
    assert factors.unique().tolist() == pytest.approx([0, 1 / (1 - p)], rel=1e-3)
    deviation = (p * (1 - p) / factors.numel()) ** 0.5
    assert (factors == 0).double().mean().item() == pytest.approx(p, abs=5 * deviation)
    assert factors.mean().item() == pytest.approx(1, abs=5 * deviation / (1 - p))


def test_values_are_kept_independently_of_each_other():
    """Four of them share a random number; none may tell of another."""
    torch.manual_seed(0)
    dropped = (kept((100_000, 8), 0.5, torch.float32) == 0).double()
    apart = torch.corrcoef(dropped.T) - torch.eye(8)
    assert apart.abs().max() < 5 / 100_000**0.5
    assert (dropped[:-1] * dropped[1:]).mean().item() == pytest.approx(0.25, abs=0.005)


@pytest.mark.parametrize("shape", [(), (1,), (5,), (3, 7), (0, 4)])
def test_every_shape_is_drawn(shape):
    assert kept(shape, 0.1, torch.float32).shape == shape


@pytest.mark.parametrize(("p", "factor"), [(0.0, 1.0), (1.0, 0.0)])
def test_certainties_are_kept(p, factor):
    assert (kept((50,), p, torch.float32) == factor).all()


def test_draws_follow_from_the_seed_and_move_the_generator_on():
    torch.manual_seed(3)
    first, second = (kept((100,), 0.5, torch.float32) for _ in range(2))
    torch.manual_seed(3)
    assert torch.equal(kept((100,), 0.5, torch.float32), first) and not torch.equal(first, second)
    own = [kept((100,), 0.5, torch.float32, generator=torch.Generator().manual_seed(3)) for _ in range(2)]
    assert torch.equal(*own)


def test_gradients_pass_where_values_were_kept():
    values = torch.ones(1000, dtype=torch.float64, requires_grad=True)
    out = Dropout(0.3)(values)
    out.sum().backward()
    assert torch.equal(values.grad, out) and 0 < (out == 0).sum() < 1000


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_a_model_keeps_its_dropout_and_its_outputs(kind):
    model = tiny_model(kind)
    inputs = {
        name: values for name, values in tiny_batch().items() if name in ("input_ids", "attention_mask")
    }
    before, weights = model(**inputs).logits, set(model.state_dict())
    rates = {name: (m.p, m.training) for name, m in model.named_modules() if isinstance(m, nn.Dropout)}
    speed_up_dropout(model)
    after = {name: (m.p, m.training) for name, m in model.named_modules() if isinstance(m, nn.Dropout)}
    assert after == rates and set(model.state_dict()) == weights
    assert not any(type(module) is nn.Dropout for module in model.modules())
    assert torch.equal(model(**inputs).logits, before)
