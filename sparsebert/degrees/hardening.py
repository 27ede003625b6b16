"""From soft to hard: which edges are kept, so that the density asked for is the density that is measured."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from sparsebert.errors import InputError
from sparsebert.patterns import Neighbour, Pattern
from sparsebert.patterns.batches import Batch

_NOTHING = 1.5e-6  # a table of survival has 1e-6 in the place of 0

Table = Float[Tensor, "layer head distance"]  # distances 0, ..., max_distance and one column for all beyond


@dataclass
class Pairs:
    """Pairs of real tokens in some data, for each layer that learns."""

    by_distance: Float[Tensor, "layer distance"]  # that no other part of the plan allows
    fixed: Float[Tensor, " layer"]  # self-pairs, and what other parts of the plan allow
    total: float

    def density(self, share: Table) -> Float[Tensor, " layer"]:
        """Allowed pairs / all pairs, if each edge exists with the share of its layer, head and distance."""
        return (self.fixed + (self.by_distance * share.mean(1)).sum(-1)) / self.total

    def __add__(self, other: Pairs) -> Pairs:
        return Pairs(self.by_distance + other.by_distance, self.fixed + other.fixed, self.total + other.total)


def count_pairs(
    batch: Batch, others: dict[int, Pattern | None], max_distance: int, windows: dict[int, int] | None = None
) -> Pairs:
    """Count a batch's pairs for each layer in `others`, which gives the rest of its plan.

    Layers in `windows` have no pairs of tokens farther apart than that, whatever the plan.
    """
    counted, last = {}, max_distance + 1
    kinds = [(other, (windows or {}).get(layer)) for layer, other in others.items()]
    for other, window in set(kinds):
        pairs = batch.pairs if window is None else batch.pairs & (batch.distances <= window)[:, None]
        allowed = (other or Neighbour(0)).allowed(batch) & pairs  # self-pairs are always allowed
        heads = allowed.shape[1]
        left = pairs & ~allowed
        distance = batch.distances.clamp(max=last)[:, None].expand_as(left)
        found = torch.bincount(distance[left], minlength=last + 1) / heads
        counted[other, window] = found, allowed.sum() / heads
    found, fixed = zip(*(counted[kind] for kind in kinds), strict=True)
    return Pairs(torch.stack(found), torch.stack(fixed), batch.real.sum(-1).double().square().sum().item())


def check_target(target: float, pairs: Pairs, open_ended: bool) -> None:
    """`InputError` if no choice of edges gives the target.

    It can be below what self-pairs and the rest of the plan take already, or above what all edges give.
    """
    floor = (pairs.fixed / pairs.total).mean().item()
    last = None if open_ended else -1  # without an open end nothing beyond the largest distance can be kept
    ceiling = floor + (pairs.by_distance[:, 1:last].sum(-1) / pairs.total).mean().item()
    if target > ceiling + 0.005:
        raise InputError(
            f"target_density={target:g} is out of reach: on these texts all edges up to max_distance have "
            f"density {ceiling:.3f}; ask for less, give a larger max_distance, or write open_ended=true"
        )
    if target < floor - 0.005:
        raise InputError(
            f"target_density={target:g} is out of reach: on these texts self-pairs and the rest of the plan "
            f"already have density {floor:.3f}; ask for more, or remove the other parts of the plan"
        )


def support(strength: Table, pairs: Pairs, target: float | None, open_ended: bool = True) -> Table:
    """The strongest edges until the density is reached; without a target, those of strength 1/2 and more.

    An edge is a distance of a head of a layer. Of edges of equal strength nearer ones come first. The last
    edge that fits in part is kept by a part of the tokens, so that the target is met exactly.
    """
    kept = torch.zeros_like(strength)
    kept[..., 0] = 1
    if target is None:
        kept[..., 1:] = (strength[..., 1:] >= 0.5).to(kept)
        if not open_ended:
            kept[..., -1] = 0
        return kept
    columns = slice(1, strength.shape[-1] - (not open_ended))
    value = strength[..., columns].round(decimals=9).numpy(force=True)
    cost = pairs.by_distance[:, None, columns].expand(*value.shape).numpy(force=True)
    distance = np.broadcast_to(np.arange(value.shape[-1]), value.shape)
    order = np.lexsort((distance.ravel(), -value.ravel()))
    ranked = np.stack([-value.ravel()[order], distance.ravel()[order]])
    new_group = np.concatenate([[True], (ranked[:, 1:] != ranked[:, :-1]).any(0)])
    group = new_group.cumsum() - 1  # edges of equal strength and distance share their fate
    group_cost = np.bincount(group, weights=cost.ravel()[order])
    layers, heads = strength.shape[:2]
    budget = heads * (target * pairs.total * layers - pairs.fixed.sum().item())
    before = group_cost.cumsum() - group_cost
    share = np.clip((budget - before) / np.maximum(group_cost, 1e-12), 0, 1)
    flat = np.empty(value.size)
    flat[order] = share[group]
    kept[..., columns] = torch.from_numpy(flat.reshape(value.shape)).to(kept)
    return kept


def tilted(log_survival: Table, pairs: Pairs, target: float | None, open_ended: bool) -> Table:
    """Each distribution p(d) times exp(-t d), the same t for all: the one that meets the target."""
    survival = log_survival.exp()
    if target is None:
        kept = survival.where(survival > _NOTHING, 0)
        kept[..., -1] *= open_ended
        return kept
    log_p = (survival[..., :-1] - survival[..., 1:]).clamp(min=1e-12)
    log_p[..., -1] = survival[..., -2]  # the largest degree: P(d = D) = S(D)
    log_p = log_p.log()
    degree = torch.arange(log_p.shape[-1], device=log_p.device)

    def at(tilt: float) -> Table:
        p = (log_p - tilt * degree).softmax(-1)
        tail = p.flip(-1).cumsum(-1).flip(-1).clamp(max=1)
        beyond = tail[..., -1:] if open_ended else torch.zeros_like(tail[..., -1:])
        return torch.cat([tail, beyond], -1)

    return at(_solve(lambda tilt: pairs.density(at(tilt)).mean().item() - target, -60, 60))


def regular(survival: Table, pairs: Pairs, target: float | None, open_ended: bool) -> Table:
    """One width per head, its mean degree rounded; rounding starts where the target is met best."""
    width = survival[..., 1:-1].sum(-1, keepdim=True)
    distance = torch.arange(survival.shape[-1], device=survival.device)
    longest = survival.shape[-1] - 2

    def at(lift: float) -> Table:
        rounded = (width + lift).floor().clamp(min=0)
        kept = (distance <= rounded).to(survival)
        kept[..., -1] = (rounded[..., 0] >= longest) & open_ended
        return kept

    if target is None:
        return at(0.5)
    lift = _solve(lambda lift: target - pairs.density(at(lift)).mean().item(), -longest, longest)
    near = [at(lift - 1e-6), at(lift + 1e-6)]
    return min(near, key=lambda kept: abs(pairs.density(kept).mean().item() - target))


def _solve(falling, low: float, high: float) -> float:
    """Where a function that never increases crosses zero, by bisection."""
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if falling(middle) > 0 else (low, middle)
    return (low + high) / 2


def mass_widths(
    mass: Float[Tensor, "layer head distance"], pairs: Pairs, target: float, open_ended: bool
) -> Table:
    """Per head the smallest width that keeps a share of the attention mass, the share that meets the target.

    `mass` is the attention at each distance, summed over data. An edge's strength is how much of the mass is
    not nearer than it: keeping edges of strength above 1 - share keeps that share.
    """
    total = mass.sum(-1, keepdim=True)
    not_nearer = mass.flip(-1).cumsum(-1).flip(-1) / total
    return support(not_nearer, pairs, target, open_ended)
