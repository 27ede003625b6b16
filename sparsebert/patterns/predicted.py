"""Masks that are predicted for each text, from the queries and keys of its layers (Wei et al., 2023)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor, nn

from sparsebert.errors import InputError, shown
from sparsebert.patterns.batches import Batch
from sparsebert.patterns.pattern import Family, Learner, Pattern, Relation
from sparsebert.patterns.position import Global
from sparsebert.patterns.random import lowest
from sparsebert.reading import read_bytes
from sparsebert.registry import register

_TOKENS_PER_MAP, _MOST_MAPS, _LEAST_ENTRY, _SPREAD = 6, 8, 0.02, 0.02  # as in the paper
_MOST_BYTES = 2**32  # of a file


@register
@dataclass(frozen=True)
class Predicted(Pattern):
    """The keys that a network, trained for each layer, predicts to be attended to most, and [CLS].

    `keep` percent of the keys stay for each query and head; [CLS] attends to all and all attend to it.
    Without a FILE a run learns the networks. They score all pairs: the density is measured, no time is saved.
    `InputError` where nothing was learned yet and no run learns, and for a file that holds no networks.
    """

    path: str | None = None
    keep: int = 25
    name = "predicted"
    examples = ("predicted", "predicted(keep=10)", 'predicted("FILE")', 'predicted("FILE", keep=10)')
    forms = 'predicted(keep=25) or ("FILE", keep=25)'
    family = Family("predicted", kind="other")
    learns = "masks"
    file_name = "masks.safetensors"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.keep <= 100:
            raise InputError(f"predicted takes keep as a percentage from 1 to 100, not '{self.keep}'")

    def related(self, batch: Batch) -> Relation:
        raise InputError(f"'{self}' is different at each layer; take the pattern of one layer, .at(0)")

    def at(self, layer: int, learner: Learner | None = None) -> Pattern:
        if self.path:
            return PredictedLayer(load_predictor(self.path, layer), self.keep)
        live = learner and learner.learned(layer)
        if not isinstance(live, PredictedLayer):
            raise InputError(
                f"the pattern '{self}' names no file: write predicted(\"FILE\"), or have a run learn the "
                "masks (sparsebert finetune --plan predicted)"
            )
        return replace(live, keep=self.keep)


@dataclass(frozen=True, eq=False)
class PredictedLayer(Pattern):
    """The pattern `predicted` at one layer."""

    predictor: Predictor
    keep: int
    reads = frozenset({"queries", "keys"})

    def __str__(self) -> str:
        return str(Predicted(keep=self.keep))

    @torch.no_grad()
    def related(self, batch: Batch) -> Relation:
        scores = self.predictor.to(batch.real.device)(batch)
        lengths = batch.real.sum(-1)[:, None, None, None]
        most = -(-self.keep * lengths // 100)  # rounded up
        return lowest(-scores, most, batch.pairs) | Global("cls").related(batch)


class Predictor(nn.Module):
    """Predicts the attention of one layer to texts of up to `tokens` tokens, from heads of a `width`.

    A text's keys are summed up with learned weights, a sum for each of a few learned maps of attention. A
    query's attention is a mixture of the maps, by how it fits their sums. Maps and weights have a row for
    each position, and a text of n tokens takes the first n: it is the same wherever it is padded.
    """

    def __init__(self, width: int, tokens: int):
        super().__init__()
        self.queries, self.keys = (nn.Linear(width, max(1, width // 2)) for _ in range(2))
        # A row for each position: by bins of relative position, the keys of a bin would all score the same.
        shape = tokens, max(1, tokens // _TOKENS_PER_MAP)
        self.sums, self.maps = (nn.Parameter(torch.empty(shape)) for _ in range(2))
        for table in (self.sums, self.maps):
            nn.init.trunc_normal_(table, std=_SPREAD)

    def forward(self, batch: Batch, sparse: bool = True) -> Float[Tensor, "batch head query key"]:
        """Scores of all pairs, without a meaning for padding. The gradient doesn't reach the encoder.

        `sparse` takes the best maps alone, without their small entries. `InputError` for texts that are too
        long and for another encoder's heads.
        """
        self._check(batch)
        places, real = batch.positions.clamp(min=0), batch.real[:, None, :, None]
        sums, maps = self.sums[places][:, None] * real, self.maps[places][:, None]
        with torch.autocast(batch.real.device.type, enabled=False):
            query, key = (heads.detach().to(sums.dtype) for heads in (batch.queries, batch.keys))
            summed = self.keys(key).transpose(-1, -2) @ sums
            share = (self.queries(query) @ summed / query.shape[1] ** 0.5).softmax(-1)
            if sparse:
                best = share.topk(min(_MOST_MAPS, share.shape[-1]))
                share = torch.zeros_like(share).scatter(-1, best.indices, best.values)
                maps = maps * (maps.abs() > _LEAST_ENTRY)
            return share @ maps.transpose(-1, -2)

    def error(self, batch: Batch) -> Float[Tensor, ""]:
        """Squared error of the scores as dense attention, summed over keys, mean over queries but [CLS].

        What an encoder adds to scores by relative position, or leaves out by a window, is not in it.
        """
        with torch.autocast(batch.real.device.type, enabled=False), torch.no_grad():
            query, key = batch.queries.float(), batch.keys.float()
            scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
            least = torch.finfo(scores.dtype).min
            attention = scores.masked_fill(~batch.real[:, None, None], least).softmax(-1)
        judged = batch.pairs & (batch.positions > 0)[:, None, :, None]
        squares = (self(batch, sparse=False) - attention).square().masked_fill(~judged, 0)
        queries = attention.shape[1] * (batch.real.sum() - len(batch.real))
        return squares.sum() / queries.clamp(min=1)

    def _check(self, batch: Batch) -> None:
        longest, width = int(batch.real.sum(-1).max()), batch.queries.shape[-1]
        if longest > len(self.sums):
            raise InputError(
                f"the masks of this plan were learned for texts of up to {len(self.sums)} tokens, and one "
                f"has {longest}; cut it to that"
            )
        if width != self.queries.in_features:
            raise InputError(
                f"the masks of this plan were learned for heads of {self.queries.in_features} numbers, and "
                f"this encoder's have {width}; take the encoder that they were learned with"
            )


def load_predictor(path: str, layer: int) -> Predictor:
    """The network of one layer; `InputError` if there is no such file or it has none for this layer."""
    instead = "give the file that `sparsebert finetune --plan predicted --save FOLDER` writes"
    content = read_bytes(path, "the file of predicted masks", instead, _MOST_BYTES)
    start = f"{layer}."
    try:
        found = {name: table for name, table in load(content).items() if name.startswith(start)}
        tables = {name.removeprefix(start): table for name, table in found.items()}
        if not tables:
            raise InputError(f"'{shown(path)}' has no masks for layer {layer}; place them elsewhere")
        with torch.device("meta"):  # draws no random numbers
            predictor = Predictor(tables["queries.weight"].shape[1], len(tables["sums"]))
        predictor.load_state_dict(tables, assign=True)
    except (SafetensorError, KeyError, IndexError, TypeError, RuntimeError):
        raise InputError(f"'{shown(path)}' holds no predicted masks; {instead}") from None
    return predictor
