"""Masks that are predicted, while a run learns them: dense training, then predictors, then the rest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from safetensors.torch import save
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils import parameters_to_vector
from transformers import PreTrainedModel

from sparsebert.models.architectures import architecture_of
from sparsebert.models.companions import Companion, Logits, apart, companions_of
from sparsebert.patterns import Pattern, Predicted, Relation
from sparsebert.patterns.batches import Batch
from sparsebert.patterns.plans import Plan
from sparsebert.patterns.predicted import PredictedLayer, Predictor

DENSE_SHARE, PREDICTOR_SHARE = 0.4, 0.2  # of the training steps: before masks count, and of predictors alone
_RATE = 0.03  # of the predictors, before the schedule of the run; the paper has 0.0003 and far more steps
_TEACHERS_SHARE = 0.5  # of the loss under masks


@dataclass(frozen=True, eq=False)
class LivePrediction(PredictedLayer):
    """The pattern `predicted` at one layer, while a run learns it: all pairs until masks count."""

    predictors: Predictors
    layer: int

    def related(self, batch: Batch) -> Relation:
        if self.predictors.stage == "masked":
            return super().related(batch)
        if self.predictors.stage == "predictors":
            self.predictors.seen[self.layer] = batch
        return batch.pairs


class Predictors(Companion):
    """The predictors of masks in `layers`, to be trained with the model that they are attached to.

    It stands for the pattern `predicted` in a plan. A run has three stages. The model is trained with dense
    attention; then the predictors alone learn that attention; then the model is trained under the masks, with
    the model of the first stage as a teacher of its logits. The paper starts from a trained model and has
    the tokens of its last layer taught, too. The teacher's weights are kept here, so that checkpoints hold
    them.
    """

    attribute = "sparsebert_masks"  # of the model that they are attached to
    file_name = Predicted.file_name

    def __init__(self, model: PreTrainedModel, layers: list[int], tokens: int):
        super().__init__()
        width = model.config.hidden_size // architecture_of(model).heads
        self.layers = nn.ModuleDict({str(layer): Predictor(width, tokens) for layer in layers})
        self.stage = "masked"
        self.seen: dict[int, Batch] = {}  # of the layers in the last pass, while predictors learn
        self._model = (model,)  # which is no part of this one
        self._real: Bool[Tensor, "batch length"] | None = None
        self.register_buffer("teacher", torch.zeros_like(parameters_to_vector(self._weights().values())))
        self.register_buffer("has_teacher", torch.tensor(False))

    # the Learner of a plan

    def learned(self, layer: int) -> Pattern:
        return LivePrediction(self.layers[str(layer)], 100, self, layer)

    def follow(self, patterns: Sequence[Pattern]) -> None:
        pass

    def prepare(self, batch: Batch) -> None:
        self._real = batch.real

    def contents(self) -> bytes:
        """The file that `predicted("FILE")` reads."""
        return save(self.layers.state_dict())

    # in training

    def groups(self) -> list[dict[str, Any]]:
        return [{"params": [*self.layers.parameters()], "lr": _RATE, "weight_decay": 0.0}]

    @torch.no_grad()
    def advance(self, done: float) -> None:
        """Go on to the stage of this time; the dense model, at its end, becomes the teacher."""
        ends = {"dense": DENSE_SHARE, "predictors": DENSE_SHARE + PREDICTOR_SHARE}
        self.stage = next((stage for stage, end in ends.items() if done < end), "masked")
        weights = self._weights().values()
        if self.stage != "dense" and not self.has_teacher:
            self.teacher.copy_(parameters_to_vector(weights))
            self.has_teacher.fill_(True)
        for weight in weights:
            weight.requires_grad_(self.stage != "predictors")

    def added_loss(self, logits: Logits, again: Callable[..., Logits]) -> Float[Tensor, ""] | float:
        """How far the predictors are from dense attention, and then the logits from the teacher's."""
        if self.stage == "dense":
            return 0.0
        if self.stage == "masked":
            taught = self._taught(again)
            if logits.ndim == 3:  # of words
                logits, taught = logits[self._real], taught[self._real]
            return _TEACHERS_SHARE * apart(logits, taught)
        errors = [self.layers[str(layer)].error(batch) for layer, batch in self.seen.items()]
        self.seen = {}
        return torch.stack(errors).mean()

    @torch.no_grad()
    def _taught(self, again: Callable[..., Logits]) -> Logits:
        """The dense teacher's logits."""
        (model,), weights = self._model, self._weights()
        parts = self.teacher.split([weight.numel() for weight in weights.values()])
        taught = {name: part.view_as(weights[name]) for name, part in zip(weights, parts, strict=True)}
        model.eval()
        self.stage = "dense"
        try:
            return again(lambda **inputs: functional_call(model, taught, kwargs=inputs))
        finally:
            self.stage = "masked"
            model.train()

    def _weights(self) -> dict[str, nn.Parameter]:
        (model,) = self._model
        apart_from = {id(own) for part in companions_of(model) for own in part.parameters()}
        return {name: own for name, own in model.named_parameters() if id(own) not in apart_from}


def attach_masks(model: PreTrainedModel, plan: Plan, tokens: int) -> Predictors | None:
    """Give the model predictors of the masks that its plan leaves open, for texts of up to so many tokens.

    Its optimizer and its checkpoints then hold them, too. None if the plan leaves none open.
    """
    layers = plan.open_layers(architecture_of(model).layers, "masks")
    if not layers:
        return None
    predictors = Predictors(model, layers, tokens)
    setattr(model, Predictors.attribute, predictors)
    return predictors
