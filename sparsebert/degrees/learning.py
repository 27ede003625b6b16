"""Degrees as parameters: a survival function per network, layer or head, and what the attention gets of it.

While they are learned, an edge at distance o counts with S(o), the probability that it exists: log S is added
to its score. `methods` has the ways to parametrise S; `hardening` turns any of them into edges that exist or
not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from jaxtyping import Float
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)
from torch import Tensor, nn
from torch.nn.functional import pad

from sparsebert.degrees.hardening import Table, count_pairs
from sparsebert.degrees.methods import Method
from sparsebert.errors import InputError
from sparsebert.models.companions import Companion, Logits
from sparsebert.patterns import Bias, HardLayer, Learned, Pattern, Relation, Union, parts_of
from sparsebert.patterns.batches import Batch
from sparsebert.patterns.hard_degrees import HardDegrees
from sparsebert.patterns.layouts import Layout
from sparsebert.registry import METHODS, first_paragraph


def _no_truth_value(value: object) -> object:
    """pydantic takes true for 1."""
    if isinstance(value, bool):
        raise ValueError("input should be a valid number")
    return value


Number = Annotated[float, BeforeValidator(_no_truth_value)]


class DegreeConfig(BaseModel):
    """How the degrees of the pattern `learned` are learned; unknown fields are refused.

    Chapter 05 explains it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: str = Field(
        "survival",
        description="Method of learning degrees. "
        + "; ".join(f"{name}: {first_paragraph(how.__doc__).rstrip('.')}" for name, how in METHODS.items()),
    )
    sharing: Literal["network", "layer", "head"] = Field(
        "head", description="Part of the encoder that has its own degree distribution: network, layer or head"
    )
    target_density: Number | None = Field(
        None,
        gt=0,
        le=1,
        description="Density, over real tokens, that the learning layers must reach (default: none)",
    )
    price: Number = Field(
        0.03, ge=0, le=1000, description="Loss per unit of density, before the target density counts"
    )
    max_distance: Annotated[int, BeforeValidator(_no_truth_value)] = Field(
        24, ge=1, le=4096, description="Largest distance between tokens that has its own probability"
    )
    open_ended: bool = Field(
        True,
        description="Whether the largest degree means all tokens; if not, max_distance bounds each edge",
    )
    harden: Literal["support", "irregular", "regular"] = Field(
        "support",
        description="How degrees become hard. support: keep the edges most likely to exist; irregular: each "
        "token takes its quantile of the distribution; regular: one width per head",
    )
    weights: bool = Field(True, description="Keep a learned weight per distance and head on the hard edges")
    soft_share: Number = Field(
        0.6, gt=0, lt=1, description="Share of the training steps before the degrees harden"
    )
    rate: Number = Field(0.1, gt=0, le=10, description="Learning rate of the degree distributions")
    weight_rate: Number = Field(0.02, ge=0, le=10, description="Learning rate of the weights on hard edges")

    @field_validator("method")
    @classmethod
    def _known(cls, name: str, info: ValidationInfo) -> str:
        return name if info.mode == "json" else METHODS[name].name  # a record's method may be known elsewhere

    @model_validator(mode="after")
    def _possible(self) -> DegreeConfig:
        how = self.method_class
        if self.harden not in how.hardenings:
            raise InputError(
                f"method={self.method} gives no degree distribution to draw from, so harden={self.harden} "
                f"can't be; write harden={' or '.join(how.hardenings)}"
            )
        if how.needs_target and self.target_density is None:
            raise InputError(f"method={self.method} takes widths that fit a target_density, which is missing")
        return self

    @property
    def method_class(self) -> type[Method]:
        """The class of its method; `Method` itself for one of a record that is not known here."""
        return METHODS.get(self.method, Method)

    @property
    def label(self) -> str:
        """What figures and tables call degrees that were learned so."""
        return METHODS[self.method](self).label


@dataclass(frozen=True, eq=False)
class LiveLayer(HardLayer):
    """The pattern `learned` at one layer, while its degrees are learned."""

    degrees: LearnedDegrees
    changes = True

    def check_heads(self, heads: int) -> None:
        """They were made for this model."""

    def related(self, batch: Batch) -> Relation:
        return super().related(batch) if self.degrees.is_hard else self.degrees.related(batch)

    def bias(self, batch: Batch) -> Bias | None:
        return super().bias(batch) if self.degrees.is_hard else self.degrees.bias(self.layer, batch)

    def layout(self) -> Layout | None:
        return super().layout() if self.degrees.is_hard else None


class LearnedDegrees(Companion):
    """Degree distributions of the layers in `layers`, to be trained with the model that they are attached to.

    It stands for the pattern `learned` in a plan, and for the weights of `weighted(P)`. It is soft until
    `harden` gives it edges; then they are fixed and only their weights are trained. Chapter 05 explains it.
    """

    file_name = Learned.file_name

    def __init__(
        self, config: DegreeConfig, layers: list[int], count: int, heads: int, windows: dict | None = None
    ):
        super().__init__()
        self.config, self.layers, self.count, self.heads = config, layers, count, heads
        self.windows = windows or {}
        self.rows = {layer: row for row, layer in enumerate(layers)}
        groups = {"network": (1, 1), "layer": (len(layers), 1), "head": (len(layers), heads)}[config.sharing]
        self.method = METHODS[config.method](config)
        self.theta = nn.Parameter(self.method.start(groups))
        shape = (len(layers), heads, config.max_distance + 2)
        self.weights = nn.Parameter(torch.zeros(shape))
        self.register_buffer("kept", torch.ones(shape))
        self.register_buffer("is_hard", torch.tensor(False))
        self.register_buffer("price", torch.tensor(config.price))
        self.register_buffer("temperature", torch.tensor(1.0))
        self.register_buffer("running", torch.tensor(torch.nan))  # mean of the density over the last steps
        self.others: dict[int, Pattern | None] = dict.fromkeys(layers)  # what the plan has beside `learned`
        self.density: Float[Tensor, " layer"] | None = None  # expected, of the batch that passes
        self.cost: Float[Tensor, ""] | None = None  # of that density
        self._soft: Table | None = None

    def __getstate__(self) -> dict[str, Any]:
        """A copy has nothing of the batch that passed."""
        return vars(self) | {"density": None, "cost": None, "_soft": None}

    # in training

    def groups(self) -> list[dict[str, Any]]:
        rates = ((self.theta, self.config.rate), (self.weights, self.config.weight_rate))
        return [{"params": [parameter], "lr": rate, "weight_decay": 0.0} for parameter, rate in rates]

    def added_loss(self, logits: Logits, again: Callable[[], Logits]) -> Float[Tensor, ""] | float:
        """What the expected density of the last batch costs."""
        return 0.0 if self.is_hard or self.cost is None else self.price * self.cost

    # the Learner of a plan

    def learned(self, layer: int) -> Pattern:
        return LiveLayer(self, layer)

    def follow(self, patterns: Sequence[Pattern]) -> None:
        if not self.is_hard:
            self.others = {layer: other_parts(patterns[layer]) for layer in self.layers}

    # what the attention asks

    def log_survival(self) -> Table:
        """log S, of shape [layer, head, max_distance + 2]; S is 1 at distance 0.

        It never rises with the distance, except for gates.
        """
        return self._spread(self.method.table(self.theta))

    def prepare(self, batch: Batch) -> None:
        """Compute what the layers will ask for, and the density to expect of this batch."""
        if self.is_hard:
            return
        log_survival = self.log_survival()
        self._soft = self._spread(self.method.soft_table(self.theta, log_survival, self.training))
        with torch.no_grad():
            pairs = count_pairs(batch, self.others, self.config.max_distance, self.windows)
        share = log_survival.exp()
        self.density = pairs.density(share)
        self.cost = self.method.cost(self.density, share, pairs)

    def related(self, batch: Batch) -> Relation:
        """The pairs that a layer may have while it is soft."""
        if self.config.open_ended:
            return batch.pairs
        return (batch.distances <= self.config.max_distance)[:, None]

    def bias(self, layer: int, batch: Batch) -> Bias:
        """What a layer's soft edges add to the scores."""
        return self.method.bias(self._soft[self.rows[layer]], layer, batch, self.temperature)

    # hard degrees

    def table(self, layer: int) -> Float[Tensor, "head distance"]:
        """Shares of tokens that keep the edges of one layer."""
        return self.kept[self.rows[layer]]

    def weight_table(self, layer: int) -> Float[Tensor, "head distance"] | None:
        """Weights of one layer; a token's pair with itself is no edge and has none."""
        if not self.config.weights:
            return None
        beyond = 0 if self.config.open_ended else 1  # no edge goes there, and no file keeps it
        return pad(self.weights[self.rows[layer]][:, 1 : self.weights.shape[-1] - beyond], (1, beyond))

    @torch.no_grad()
    def harden(self, kept: Table, log_weights: Table | None = None) -> None:
        """Keep these edges from now on. Weights start at `log_weights`, or equal."""
        self.kept.copy_(kept.round(decimals=6))  # as `hardened` gives it, to the last edge
        self.weights.copy_(torch.zeros_like(self.weights) if log_weights is None else log_weights)
        self.is_hard.fill_(True)

    def contents(self) -> bytes:
        """The file that `learned("FILE")` and `weighted(P, "FILE")` read."""
        return self.hardened().to_json().encode()

    def hardened(self) -> HardDegrees:
        """The hard degrees as data."""
        config, ends = self.config, self.config.max_distance + self.config.open_ended + 1
        distance = torch.arange(ends, device=self.kept.device)
        reach = (distance * (self.kept[..., :ends] > 0)).amax(-1).tolist()

        def rows(table: Table) -> list[list[list[float]] | None]:
            found: list[list[list[float]] | None] = [None] * self.count
            for layer, row in self.rows.items():
                heads = zip(table[row].tolist(), reach[row], strict=True)
                found[layer] = [[round(value, 6) for value in head[1 : 1 + last]] for head, last in heads]
            return found

        said = {"max_distance": config.max_distance, "open_ended": config.open_ended}
        weights = rows(self.weights) if config.weights else None
        return HardDegrees(**said, kept=rows(self.kept), weights=weights)

    def _spread(self, table: Float[Tensor, "layer_or_1 head_or_1 distance"]) -> Table:
        return table.expand(len(self.layers), self.heads, -1)


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
