"""Methods of learning degrees: how a survival function is parametrised, and how it becomes hard edges."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import logsigmoid, pad
from torch.utils.data import DataLoader

from sparsebert.degrees.hardening import Pairs, Table, check_target, mass_widths, regular, support, tilted
from sparsebert.patterns import Bias, Neighbour, Pattern
from sparsebert.patterns.batches import Batch
from sparsebert.patterns.hard_degrees import by_distance, quantiles
from sparsebert.registry import METHODS, register

if TYPE_CHECKING:
    from sparsebert.degrees.learning import DegreeConfig
    from sparsebert.degrees.training import DegreeTraining
    from sparsebert.models.sparsified import Sparsified

Theta = Float[Tensor, "layer_or_1 head_or_1 parameter"]
Rows = Float[Tensor, "layer_or_1 head_or_1 distance"]

_LEAST = 1e-6  # of a weight, so that its logarithm stays finite
_LEAST_WEIGHT = math.log(0.01)  # that a hard edge starts with


class Method(ABC):
    """How degrees are parametrised, learned and made hard; `sparsebert.register` adds one of your own.

    It needs a `name`, `start` and `log_survival`. The first paragraph of its docstring stands in lists. With
    D = `max_distance` a table has a column for each distance 0, ..., D and one for all beyond.
    """

    registry = METHODS
    name: ClassVar[str]
    hardenings: ClassVar[tuple[str, ...]] = ("support", "irregular", "regular")
    soft: ClassVar[bool] = True  # whether edges count in part before they harden
    needs_target: ClassVar[bool] = False
    kind: ClassVar[Literal["learned", "read off", "other"]] = "other"  # of its runs, to the rules of claims
    revision: ClassVar[int] = 0  # raise it when what it computes changes, so that older records aren't found

    def __init__(self, config: DegreeConfig):
        self.config, self.longest = config, config.max_distance

    @property
    def label(self) -> str:
        """What figures and tables call it."""
        return self.name

    @abstractmethod
    def start(self, groups: tuple[int, int]) -> Theta:
        """Parameters at which nearly all edges exist, so that training starts from the dense encoder."""

    @abstractmethod
    def log_survival(self, theta: Theta) -> Rows:
        """log S at the distances 1, ..., D."""

    def table(self, theta: Theta) -> Rows:
        """log S at all distances: 0 at distance 0, the last one for all beyond if degrees are open-ended."""
        log = pad(self.log_survival(theta), (1, 0))
        beyond = log[..., -1:] if self.config.open_ended else torch.full_like(log[..., -1:], math.log(_LEAST))
        return torch.cat([log, beyond], -1).clamp(min=math.log(_LEAST))

    def soft_table(self, theta: Theta, log_survival: Table, training: bool) -> Rows | Table:
        """Logarithms of what edges count in the pass that comes."""
        return log_survival

    def bias(
        self, log_counts: Float[Tensor, "head distance"], layer: int, batch: Batch, temperature: Tensor
    ) -> Bias:
        """What the scores of a layer get, by its rows of `soft_table`."""
        return by_distance(log_counts, batch)

    def keep_in_reach(self, theta: Theta) -> None:  # noqa: B027  (most methods clamp nothing)
        """Called after each step, to clamp parameters in place."""

    def temperature(self, done: float) -> float:
        """By the share of the soft part that is done."""
        return 1.0

    def begin(self, training: DegreeTraining) -> None:  # noqa: B027  (most methods start at `start`)
        """Called before the first step, to start from what the encoder does with the data."""

    def cost(self, density: Float[Tensor, " layer"], share: Table, pairs: Pairs) -> Float[Tensor, ""]:
        """What the price is paid for: the mean of the layers' `density`, which the `share` of edges gives."""
        return density.mean()

    def harden(
        self, log_survival: Table, pairs: Pairs, training: DegreeTraining
    ) -> tuple[Table, Table | None]:
        """Shares of tokens that keep each edge, and the weights that these start with (None: equal ones).

        Pairs are those of the data that the target is meant on. `InputError` if they can't meet it.
        """
        target, open_ended = self.config.target_density, self.config.open_ended
        if target is not None:
            check_target(target, pairs, open_ended)
        if self.config.harden == "support":
            kept = support(log_survival.double().exp(), pairs, target, open_ended)
            return kept, log_survival.clamp(min=_LEAST_WEIGHT)
        survival = tilted(log_survival.double(), pairs, target, open_ended)
        if self.config.harden == "regular":
            return regular(survival, pairs, target, open_ended), None
        return survival, None


@register
class Survival(Method):
    """Edges count with the probability that they exist, by a distribution of degrees p = softmax(theta)."""

    name = "survival"
    kind = "learned"

    @property
    def label(self) -> str:
        hardening = "" if self.config.harden == "support" else f", {self.config.harden}"
        return f"learned, per {self.config.sharing}{hardening}"

    def start(self, groups: tuple[int, int]) -> Theta:
        theta = torch.zeros(*groups, self.longest + 1)
        theta[..., self.longest] = math.log(9 * self.longest)  # P(d = D) = 0.9
        return theta

    def log_survival(self, theta: Theta) -> Rows:
        return torch.logcumsumexp(theta.log_softmax(-1).flip(-1), -1).flip(-1)[..., 1:]


@register
class Ensemble(Survival):
    """Each token has its quantile of the distribution, more sharply as the temperature falls."""

    name = "ensemble"
    kind = "other"
    label = "learned ensemble"

    def bias(self, log_counts, layer, batch, temperature) -> Bias:
        own = quantiles(batch.positions, layer, len(log_counts))[..., None]
        survival = by_distance(log_counts, batch).exp()
        bias = logsigmoid((survival - own) / temperature).clamp(min=math.log(_LEAST))
        return bias.masked_fill(batch.distances[:, None] == 0, 0)

    def temperature(self, done: float) -> float:
        hottest, coldest = 0.3, 0.02
        return hottest * (coldest / hottest) ** done


@register
class Span(Method):
    """Adaptive attention span, theta being the span as a share of D (Sukhbaatar et al., 2019)."""

    name = "span"
    label = "adaptive span"
    hardenings = ("support",)
    revision = 1
    ramp = 4.0  # tokens over which a span fades (the paper's 32 are for longer texts)

    def start(self, groups: tuple[int, int]) -> Theta:
        return torch.full((*groups, 1), self._bounds[1])

    def log_survival(self, theta: Theta) -> Rows:
        distance = torch.arange(1, self.longest + 1, device=theta.device)
        return ((theta * self.longest - distance) / self.ramp + 1).clamp(0, 1).clamp(min=_LEAST).log()

    def keep_in_reach(self, theta: Theta) -> None:
        """A span that no distance told apart lies in the ramp of would have no gradient."""
        theta.clamp_(*self._bounds)

    @property
    def _bounds(self) -> tuple[float, float]:
        """Spans, as shares of D, that leave the nearest token a tenth and the furthest one nine tenths."""
        return (1 - 0.9 * self.ramp) / self.longest, 1 - 0.1 * self.ramp / self.longest


@register
class Gates(Method):
    """Hard-concrete gates per distance (Louizos, Welling and Kingma, 2018)."""

    name = "gates"
    label = "gates per distance"
    hardenings = ("support",)
    revision = 1
    beta, gamma, zeta = 2 / 3, -0.1, 1.1  # temperature, and the stretch beyond [0, 1]
    unit = 10.0  # of a parameter, which has as few steps as those of other methods to get where they get

    def start(self, groups: tuple[int, int]) -> Theta:
        return torch.full((*groups, self.longest), 2.0 / self.unit)

    def log_survival(self, theta: Theta) -> Rows:
        return logsigmoid(self.unit * theta - self.beta * math.log(-self.gamma / self.zeta))

    def soft_table(self, theta: Theta, log_survival: Table, training: bool) -> Rows:
        """Gates in [0, 1], sampled in training."""
        noise = torch.zeros_like(theta)
        if training:
            uniform = torch.rand_like(theta).clamp(1e-6, 1 - 1e-6)
            noise = uniform.log() - (-uniform).log1p()
        gate = ((self.unit * theta + noise) / (self.beta if training else 1)).sigmoid()
        gate = (gate * (self.zeta - self.gamma) + self.gamma).clamp(0, 1)
        gate = torch.cat([torch.ones_like(gate[..., :1]), gate, gate[..., -1:]], -1)
        return gate.clamp(min=_LEAST).log()


@register
class Mass(Survival):
    """Widths that keep a share of the attention of the encoder before fine-tuning.

    Nothing is learned.
    """

    name = "mass"
    label = "attention mass"
    hardenings = ("support",)
    soft = False
    needs_target = True
    kind = "read off"

    def harden(self, log_survival, pairs, training) -> tuple[Table, Table | None]:
        mass = attention_mass(training.sparse, training.rows(), training.others, self.longest)
        return mass_widths(mass, pairs, self.config.target_density, self.config.open_ended), None


@torch.no_grad()
def attention_mass(
    sparse: Sparsified, rows: DataLoader, others: dict[int, Pattern | None], max_distance: int
) -> Float[Tensor, "layer head distance"]:
    """How much attention the dense encoder pays at each distance, over pairs that nothing else allows.

    Shape [layer, head, max_distance + 2], for the layers of `others`; the last column is for all beyond.
    """
    model, was_training = sparse.model, sparse.model.training
    model.eval()
    mass = torch.zeros(len(others), sparse.architecture.heads, max_distance + 2, dtype=torch.float64)
    for inputs in rows:
        batch = sparse.batch_of(inputs)
        distance = batch.distances.clamp(max=max_distance + 1)[:, None]
        with sparse.own_attention("eager"):
            attentions = model(**inputs, output_attentions=True).attentions
        for row, (layer, other) in enumerate(others.items()):
            left = batch.pairs & ~(other or Neighbour(0)).allowed(batch)  # self-pairs are always allowed
            weight = attentions[layer].double() * left
            index = distance.expand_as(weight[:, :1]).flatten()
            for head, found in enumerate(weight.unbind(1)):
                mass[row, head] += index.bincount(found.flatten(), minlength=max_distance + 2).cpu()
    model.train(was_training)
    return mass
