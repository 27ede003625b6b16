"""Degrees within a training run: attached to the model, priced, held to a target, and hardened on the way."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from operator import add
from typing import Any

import torch
from torch.utils.data import DataLoader
from transformers import PreTrainedModel, TrainerCallback

from sparsebert.degrees.hardening import Pairs, check_target, count_pairs
from sparsebert.degrees.learning import DegreeConfig, LearnedDegrees
from sparsebert.errors import InputError, shown
from sparsebert.models.architectures import architecture_of
from sparsebert.models.sparsified import Sparsified
from sparsebert.patterns.plans import Plan

_APART = 0.6  # of the soft part: heads and layers grow apart before the target counts
_GAIN = 2.0  # of the multiplier over the rest of the soft part, per unit of density above the target
_MEMORY = 0.9  # of the running mean of the density, over steps


def attach_degrees(model: PreTrainedModel, plan: Plan, config: DegreeConfig | None) -> LearnedDegrees | None:
    """Give the model what its plan has to learn, so that its optimizer and its checkpoints hold it, too.

    None if the plan has nothing to learn. Raises `InputError` if plan and config do not belong together.
    Chapter 05 explains it.
    """
    architecture = architecture_of(model)
    count = architecture.layers
    learned, weighted = (plan.open_layers(count, learns) for learns in ("degrees", "weights"))
    if learned and config is None:
        raise InputError(
            f"plan '{shown(plan)}' has degrees to learn; say how with --learn-degrees (in a grid: "
            '`degrees: {}`), or name a file: learned("FILE")'
        )
    if config is not None and not learned and not weighted:
        raise InputError(
            f"plan '{shown(plan)}' has no degrees to learn; write for instance learned | global(cls)"
        )
    if learned and weighted:
        raise InputError(
            f"plan '{shown(plan)}' can learn degrees or weights of fixed patterns, not both at once"
        )
    if not learned and not weighted:
        return None
    if weighted and config is not None and (config.target_density is not None or not config.weights):
        raise InputError(
            f"plan '{shown(plan)}' learns weights of fixed edges; leave target_density and weights=false out"
        )
    learner = LearnedDegrees(
        config or DegreeConfig(), learned or weighted, count, architecture.heads, architecture.windows
    )
    if weighted:
        learner.harden(learner.kept)
    model.sparsebert_degrees = learner
    return learner


class DegreeTraining(TrainerCallback):
    """Prices density while degrees are soft, and hardens them when their part of the training is over.

    At first an edge costs a constant price, so that heads and layers grow apart. For the rest of the soft
    part the price is a Lagrange multiplier: dual ascent raises it while the density to expect is above the
    target and lowers it while it is below. `rows` are batches of the data on which the target is meant: only
    their lengths (and what other patterns of the plan read) are used. `evaluate` scores the soft model
    before it hardens.
    """

    def __init__(
        self,
        learner: LearnedDegrees,
        sparse: Sparsified,
        rows: Callable[[], DataLoader],
        evaluate: Callable[[], dict[str, float]],
    ):
        self.learner, self.sparse, self.rows, self.evaluate = learner, sparse, rows, evaluate
        self.config = learner.config
        self.others = learner.others

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self.learner.is_hard:
            return
        if self.config.target_density is not None:
            check_target(self.config.target_density, self.pairs(), self.config.open_ended)
        if not self.config.method_class.soft:
            self._harden(state)
        elif not state.global_step:
            self.learner.method.begin(self)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self.learner.is_hard:
            return
        self.learner.method.keep_in_reach(self.learner.theta.data)
        soft_steps = max(1, round(self.config.soft_share * state.max_steps))
        done = state.global_step / soft_steps
        self.learner.temperature.fill_(self.learner.method.temperature(done))
        density, running = self.learner.density.mean().detach(), self.learner.running
        running.copy_(density if running.isnan() else _MEMORY * running + (1 - _MEMORY) * density)
        if self.config.target_density is not None and done >= _APART:
            excess = running - self.config.target_density
            self.learner.price += _GAIN / (soft_steps * (1 - _APART)) * excess
            self.learner.price.clamp_(min=0)
        if state.global_step >= soft_steps:
            self._harden(state)

    def _harden(self, state: Any) -> None:
        pairs = self.pairs()
        with torch.no_grad():
            log_survival = self.learner.log_survival()
        if self.config.method_class.soft:
            survival = log_survival.exp()
            listed = survival[..., 1:].tolist()
            rounded = [[[round(value, 4) for value in head] for head in layer] for layer in listed]
            soft = {"soft_metrics": self.evaluate(), "soft_density": pairs.density(survival).mean().item()}
            state.log_history.append({"step": state.global_step, **soft, "survival": rounded})
        self.learner.harden(*self.learner.method.harden(log_survival, pairs, self))

    def pairs(self) -> Pairs:
        """The pairs of tokens in the data on which the target is meant."""
        asked = self.others, self.config.max_distance, self.learner.windows
        return reduce(add, (count_pairs(self.sparse.batch_of(inputs), *asked) for inputs in self.rows()))
