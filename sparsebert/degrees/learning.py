"""Degrees as parameters: a survival function per network, layer or head, and the density it leads to.

While they are learned, an edge at distance o counts with S(o), the probability that it exists: log S is added
to its score. Four ways to parametrise S are here; `hardening` turns any of them into edges that exist or not.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn
from torch.nn.functional import logsigmoid, pad

from sparsebert.errors import InputError
from sparsebert.patterns import Bias, Biased, Pattern, Relation, Union, parts_of
from sparsebert.patterns.batches import Batch
from sparsebert.patterns.hard_degrees import HardDegrees, by_distance, kept_edges, quantiles
from sparsebert.patterns.layouts import Layout, layout_of_shares

Table = Float[Tensor, "layer head distance"]  # distances 0, ..., max_distance and one column for all beyond

_LEAST = 1e-6  # of a weight, so that its logarithm stays finite
# Hard-concrete gates as in Louizos, Welling and Kingma (2018): temperature and the stretch beyond [0, 1].
_BETA, _GAMMA, _ZETA = 2 / 3, -0.1, 1.1
_UNIT = 10.0  # of a gate's parameter, which has as few steps as the others to get where they get
_RAMP = 4.0  # tokens over which an adaptive span fades (Sukhbaatar et al., 2019, use 32 on longer texts)


class DegreeConfig(BaseModel):
    """How the degrees of the pattern `learned` are learned; unknown fields are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: Literal["survival", "ensemble", "span", "gates", "mass"] = Field(
        "survival",
        description="survival: edges count with the probability that they exist; ensemble: each token has "
        "its quantile of the distribution; span: adaptive attention span; gates: hard-concrete gates per "
        "distance; mass: widths from the attention of the encoder before fine-tuning",
    )
    sharing: Literal["network", "layer", "head"] = Field(
        "head", description="what has a degree distribution of its own"
    )
    target_density: float | None = Field(
        None, gt=0, le=1, description="density of the layers that learn, over real tokens; default: none"
    )
    price: float = Field(
        0.03, ge=0, le=1000, description="loss per unit of density, before the target counts"
    )
    max_distance: int = Field(24, ge=1, le=4096, description="largest distance told apart from larger ones")
    open_ended: bool = Field(
        True, description="true: the largest degree stands for all tokens; false: no edge goes further"
    )
    harden: Literal["support", "irregular", "regular"] = Field(
        "support",
        description="support: the edges most likely to exist; irregular: each token takes its quantile; "
        "regular: one width per head",
    )
    weights: bool = Field(True, description="keep a learned weight per distance and head on the hard edges")
    soft_share: float = Field(0.6, gt=0, lt=1, description="part of the training before the degrees harden")
    rate: float = Field(0.1, gt=0, le=10, description="learning rate of the distributions")
    weight_rate: float = Field(0.02, ge=0, le=10, description="learning rate of the weights on hard edges")

    @model_validator(mode="after")
    def _possible(self) -> DegreeConfig:
        if self.method in ("span", "gates", "mass") and self.harden != "support":
            raise InputError(
                f"method={self.method} gives no degree distribution to draw from, so harden={self.harden} "
                "can't be; write harden=support"
            )
        if self.method == "mass" and self.target_density is None:
            raise InputError("method=mass takes widths that fit a target_density, which is missing")
        return self


@dataclass(frozen=True, eq=False)
class LiveLayer(Pattern):
    """The pattern `learned` at one layer, while its degrees are learned."""

    degrees: LearnedDegrees
    layer: int
    changes = True

    def __str__(self) -> str:
        return "learned"

    def related(self, batch: Batch) -> Relation:
        return self.degrees.related(self.layer, batch)

    def bias(self, batch: Batch) -> Bias | None:
        return self.degrees.bias(self.layer, batch)

    def weight_table(self) -> Float[Tensor, "head distance"] | None:
        """The weights on hard edges at distances 0, 1, ..., and one for all beyond."""
        return self.degrees.edge_weights(self.layer) if self.degrees.config.weights else None

    def layout(self) -> Layout | None:
        if not self.degrees.is_hard:
            return None
        kept = self.degrees.kept[self.degrees.rows[self.layer]]
        return layout_of_shares(kept, self.layer, self.weight_table())


class LearnedDegrees(nn.Module):
    """Degree distributions of the layers in `layers`, to be trained with the model that they are attached to.

    It stands for the pattern `learned` in a plan, and for the weights of `weighted(P)`. It is soft until
    `harden` gives it edges; then they are fixed and only their weights are trained.
    """

    def __init__(
        self,
        config: DegreeConfig,
        layers: list[int],
        count: int,
        heads: int,
        windows: dict[int, int] | None = None,
    ):
        super().__init__()
        self.config, self.layers, self.count, self.heads = config, layers, count, heads
        self.windows = windows or {}
        self.rows = {layer: row for row, layer in enumerate(layers)}
        groups = {"network": (1, 1), "layer": (len(layers), 1), "head": (len(layers), heads)}[config.sharing]
        self.theta = nn.Parameter(_start(config, groups))
        shape = (len(layers), heads, config.max_distance + 2)
        self.weights = nn.Parameter(torch.zeros(shape))
        self.register_buffer("kept", torch.ones(shape))
        self.register_buffer("is_hard", torch.tensor(False))
        self.register_buffer("price", torch.tensor(config.price))
        self.register_buffer("temperature", torch.tensor(1.0))
        self.register_buffer("running", torch.tensor(torch.nan))  # mean of the density over the last steps
        self.density: Float[Tensor, " layer"] | None = None  # expected, of the batch that passes
        self._soft: Table | None = None

    # the Learner of a plan

    def learned(self, layer: int) -> Pattern:
        return LiveLayer(self, layer)

    def weighted(self, layer: int, pattern: Pattern) -> Pattern:
        return Biased(pattern, LiveLayer(self, layer))

    # what the attention asks

    def log_survival(self) -> Table:
        """log S, of shape [layer, head, max_distance + 2]; S is 1 at distance 0.

        It never rises with the distance, except for gates.
        """
        return self._spread(_log_survival(self.config, self.theta))

    def prepare(self, batch: Batch, others: dict[int, Pattern | None]) -> None:
        """Compute what the layers will ask for, and the density to expect of this batch."""
        if self.is_hard:
            return
        log_survival = self.log_survival()
        self._soft = log_survival
        if self.config.method == "gates":
            self._soft = self._spread(_gates(self.theta, self.training)).clamp(min=_LEAST).log()
            self._soft[..., 0] = 0
        with torch.no_grad():
            pairs = count_pairs(batch, others, self.config.max_distance, self.windows)
        self.density = pairs.density(log_survival.exp())

    def related(self, layer: int, batch: Batch) -> Relation:
        if self.is_hard:
            return kept_edges(self.kept[self.rows[layer]], layer, batch)
        if self.config.open_ended:
            return batch.pairs
        return (batch.distances <= self.config.max_distance)[:, None]

    def bias(self, layer: int, batch: Batch) -> Bias | None:
        row = self.rows[layer]
        if self.is_hard:
            return by_distance(self.edge_weights(layer), batch) if self.config.weights else None
        bias = by_distance(self._soft[row], batch)
        if self.config.method == "ensemble":
            own = quantiles(batch.positions, layer, self.heads)[..., None]
            bias = logsigmoid((bias.exp() - own) / self.temperature).clamp(min=math.log(_LEAST))
            bias = bias.masked_fill(batch.distances[:, None] == 0, 0)
        return bias

    # hard degrees

    def edge_weights(self, layer: int) -> Float[Tensor, "head distance"]:
        """Weights of one layer; a token's pair with itself is no edge and has none."""
        return pad(self.weights[self.rows[layer]][:, 1:], (1, 0))

    @torch.no_grad()
    def keep_in_reach(self) -> None:
        """After a step: a span that no distance told apart lies in the ramp of would have no gradient."""
        if self.config.method == "span" and not self.is_hard:
            self.theta.clamp_(*_span_bounds(self.config.max_distance))

    @torch.no_grad()
    def harden(self, kept: Table, log_weights: Table | None = None) -> None:
        """Keep these edges from now on. Weights start at `log_weights`, or equal."""
        self.kept.copy_(kept.round(decimals=6))  # as `hardened` gives it, to the last edge
        self.weights.copy_(torch.zeros_like(self.weights) if log_weights is None else log_weights)
        self.is_hard.fill_(True)

    def hardened(self) -> HardDegrees:
        """The hard degrees as data."""
        longest = self.config.max_distance + self.config.open_ended

        def rows(table: Table) -> list[list[list[float]] | None]:
            found: list[list[list[float]] | None] = [None] * self.count
            for layer, row in self.rows.items():
                found[layer] = []
                for head in range(self.heads):
                    used = self.kept[row, head, 1 : 1 + longest].nonzero()
                    reach = int(used.max()) + 1 if len(used) else 0
                    values = table[row, head, 1 : 1 + reach].tolist()
                    found[layer].append([round(value, 6) for value in values])
            return found

        return HardDegrees(
            max_distance=self.config.max_distance,
            open_ended=self.config.open_ended,
            kept=rows(self.kept),
            weights=rows(self.weights) if self.config.weights else None,
        )

    def _spread(self, table: Float[Tensor, "layer_or_1 head_or_1 distance"]) -> Table:
        return table.expand(len(self.layers), self.heads, -1)


# ---- the density to expect ------------------------------------------------------------------------


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
    batch: Batch,
    others: dict[int, Pattern | None],
    max_distance: int,
    windows: dict[int, int] | None = None,
) -> Pairs:
    """Count a batch's pairs for each layer in `others`, which gives the rest of its plan.

    Layers in `windows` have no pairs of tokens farther apart than that, whatever the plan.
    """
    counted = {}
    last = max_distance + 1
    total = batch.real.sum(-1).double().square().sum()
    kinds = [(other, (windows or {}).get(layer)) for layer, other in others.items()]
    for kind in set(kinds):
        other, window = kind
        pairs = batch.pairs if window is None else batch.pairs & (batch.distances <= window)[:, None]
        if other is None:
            itself = torch.eye(batch.real.shape[1], dtype=torch.bool, device=batch.real.device)
            allowed = pairs & itself
        else:
            allowed = other.allowed(batch) & pairs
        heads = allowed.shape[1]
        left = pairs & ~allowed
        distance = batch.distances.clamp(max=last)[:, None].expand_as(left)
        found = torch.bincount(distance[left], minlength=last + 1) / heads
        counted[kind] = found, allowed.sum() / heads
    return Pairs(
        torch.stack([counted[kind][0] for kind in kinds]),
        torch.stack([counted[kind][1] for kind in kinds]),
        total.item(),
    )


def other_parts(pattern: Pattern) -> Pattern | None:
    """What a layer's pattern has beside its live part; `InputError` if that part is no member of a union."""
    parts = parts_of(pattern)
    others = tuple(part for part in parts if not isinstance(part, LiveLayer))
    nested = any(isinstance(piece, LiveLayer) for part in others for piece in part.walk())
    if len(others) != len(parts) - 1 or nested:
        raise InputError(
            "a plan to learn degrees joins 'learned' with '|' and once, as in learned | global(cls)"
        )
    return None if not others else others[0] if len(others) == 1 else Union(others)


# ---- parametrisations -----------------------------------------------------------------------------


def _start(config: DegreeConfig, groups: tuple[int, int]) -> Tensor:
    """Parameters at which nearly all edges exist, so that training starts from the dense encoder."""
    D = config.max_distance
    if config.method == "span":
        return torch.full((*groups, 1), _span_bounds(D)[1])
    if config.method == "gates":
        return torch.full((*groups, D), 2.0 / _UNIT)
    theta = torch.zeros(*groups, D + 1)
    theta[..., D] = math.log(9 * D)  # P(d = D) = 0.9
    return theta


def _span_bounds(max_distance: int) -> tuple[float, float]:
    """Spans, as shares of D, that leave the nearest token a tenth and the furthest one nine tenths."""
    return (1 - 0.9 * _RAMP) / max_distance, 1 - 0.1 * _RAMP / max_distance


def _log_survival(config: DegreeConfig, theta: Tensor) -> Tensor:
    D = config.max_distance
    if config.method == "span":
        distance = torch.arange(D + 1, device=theta.device)
        survival = ((theta * D - distance) / _RAMP + 1).clamp(0, 1)
        log = torch.cat([torch.zeros_like(theta), survival[..., 1:].clamp(min=_LEAST).log()], -1)
    elif config.method == "gates":
        log = logsigmoid(_UNIT * theta - _BETA * math.log(-_GAMMA / _ZETA))
        log = torch.cat([torch.zeros_like(log[..., :1]), log], -1)
    else:
        log = torch.logcumsumexp(theta.log_softmax(-1).flip(-1), -1).flip(-1)
        log = torch.cat([torch.zeros_like(log[..., :1]), log[..., 1:]], -1)
    beyond = log[..., -1:] if config.open_ended else torch.full_like(log[..., -1:], math.log(_LEAST))
    return torch.cat([log, beyond], -1).clamp(min=math.log(_LEAST))


def _gates(theta: Tensor, sample: bool) -> Tensor:
    """Hard-concrete gates in [0, 1] for distances 0, ..., D and beyond; sampled in training."""
    noise = torch.zeros_like(theta)
    if sample:
        uniform = torch.rand_like(theta).clamp(1e-6, 1 - 1e-6)
        noise = uniform.log() - (-uniform).log1p()
    gate = (((_UNIT * theta + noise) / (_BETA if sample else 1)).sigmoid() * (_ZETA - _GAMMA) + _GAMMA).clamp(
        0, 1
    )
    return torch.cat([torch.ones_like(gate[..., :1]), gate, gate[..., -1:]], -1)
