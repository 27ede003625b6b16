"""Degrees that were learned, as data: which share of the tokens keeps the edges of each distance, per head.

This is what remains after learning, whatever the method was. It is plain JSON, so that it can be read, saved
beside the weights and used again as the pattern `learned(FILE)`.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Annotated

import torch
from jaxtyping import Bool, Float, Int
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor

from sparsebert.errors import InputError
from sparsebert.paths import write_whole
from sparsebert.patterns.batches import Batch
from sparsebert.reading import read_model

Share = Annotated[float, Field(ge=0, le=1)]
Weight = Annotated[float, Field(ge=-1e6, le=1e6)]
_GOLDEN = (math.sqrt(5) - 1) / 2  # its multiples, modulo 1, fill [0, 1) evenly (Weyl, 1916)


class HardDegrees(BaseModel):
    """Kept edges by layer, head and distance, and the weights that go with them.

    `kept[layer][head][o - 1]` is the share of tokens that attend to the tokens at distance o, on both sides.
    A degree distribution P(d), d being the one-sided degree, keeps P(d >= o): the edge view of the
    distribution (Luby et al., 2001). Shares of 0 or 1 are a regular degree, shares between are an irregular
    one: token i keeps distance o if `quantiles` gives it a number below the share. Distances beyond a head's
    list keep nothing; with `open_ended` the item at `max_distance` + 1 stands for all from there on.

    `weights[layer][head][o - 1]`, if given, is added to the attention scores of these edges.

    `kept` has an item for every layer of the encoder: those that have no learned degrees are None.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    max_distance: int = Field(ge=0, le=100_000)
    open_ended: bool = False
    kept: list[list[list[Share]] | None]
    weights: list[list[list[Weight]] | None] | None = None

    @model_validator(mode="after")
    def _fitting(self) -> HardDegrees:
        longest = self.max_distance + self.open_ended
        for tables in (self.kept, self.weights or []):
            heads = {len(layer) for layer in tables if layer is not None}
            if len(heads) > 1 or 0 in heads:
                raise ValueError("every layer with learned degrees has a row for each head of the encoder")
            if any(len(row) > longest for layer in tables if layer is not None for row in layer):
                raise ValueError(f"no row is longer than max_distance, {longest}")
        tables = (self.kept, self.kept if self.weights is None else self.weights)
        heads_of_kept, heads_of_weights = ([rows and len(rows) for rows in table] for table in tables)
        if heads_of_kept != heads_of_weights:
            raise ValueError("weights has a row for each row of kept")
        return self

    def unbounded_heads(self) -> list[tuple[int, int]]:
        """Layer and head of those in which most tokens keep the edges to others at any distance."""
        return [
            (layer, head)
            for layer, rows in enumerate(self.kept)
            for head, row in enumerate(rows or [])
            if self.open_ended and len(row) > self.max_distance and row[-1] > 0.5
        ]

    def check(self, layer: int, heads: int) -> None:
        """`InputError` if these degrees do not fit a layer of an encoder with so many heads."""
        if layer >= len(self.kept) or self.kept[layer] is None:
            given = [number for number, rows in enumerate(self.kept) if rows is not None]
            raise InputError(
                f"these learned degrees are for the layers {given} and not for {layer}; place them there"
            )
        if self.heads != heads:
            raise InputError(
                f"these degrees were learned for {self.heads} heads a layer, and this encoder has {heads}"
            )

    @property
    def heads(self) -> int:
        """Heads of each layer."""
        return next(len(layer) for layer in self.kept if layer is not None)

    def table(self, layer: int) -> Float[Tensor, "head distance"]:
        """Shares of one layer at distances 0, 1, ..., `max_distance`, and one for all beyond."""
        return self._table(self.kept[layer], itself=1)

    def weight_table(self, layer: int) -> Float[Tensor, "head distance"] | None:
        """Weights of one layer at the same distances; None if there are none."""
        return None if self.weights is None else self._table(self.weights[layer], itself=0)

    def _table(self, rows: list[list[float]], itself: float) -> Float[Tensor, "head distance"]:
        padded = [[itself, *row] + [0.0] * (self.max_distance + 1 - len(row)) for row in rows]
        return torch.tensor(padded, dtype=torch.float32)

    def save(self, path: str | Path) -> Path:
        """Write the file that `learned(path)` reads, a line per head."""
        return write_whole(Path(path), self.to_json() + "\n")

    def to_json(self) -> str:
        """JSON with a line per head."""

        def rows(layer: list | None) -> str:
            return "null" if layer is None else "[\n   " + ",\n   ".join(map(json.dumps, layer)) + "\n  ]"

        parts = []
        for name, value in self.model_dump(exclude_none=True).items():
            layers = isinstance(value, list)
            text = "[\n  " + ",\n  ".join(map(rows, value)) + "\n ]" if layers else json.dumps(value)
            parts.append(f' "{name}": {text}')
        return "{\n" + ",\n".join(parts) + "\n}"


def load_degrees(path: str) -> HardDegrees:
    """The degrees in a file; `InputError` if there is none or it holds something else."""
    instead = "give the JSON file that `sparsebert finetune --learn-degrees --save FOLDER` writes"
    return read_model(path, HardDegrees, "the file of learned degrees", instead)


def quantiles(
    positions: Int[Tensor, "batch length"], layer: int, heads: int
) -> Float[Tensor, "batch head length"]:
    """A number in [0, 1) for each token and head, evenly spread over any stretch of tokens.

    Multiples of the golden ratio are a sequence of low discrepancy: of any n tokens in a row, the share that
    falls below s differs from s by little more than 1 / n. Heads and layers start at different places.
    """
    start = torch.arange(heads, device=positions.device, dtype=torch.float64) + layer * heads
    start = (start[:, None] * math.sqrt(2)) % 1
    exact = (positions[:, None].double() * _GOLDEN + start) % 1
    return exact.float().clamp(max=1 - 2**-24)  # what is nearest to 1 would round up to it


def kept_edges(
    table: Float[Tensor, "head distance"], layer: int, batch: Batch
) -> Bool[Tensor, "batch head query key"]:
    """The edges that a table of shares keeps: query i keeps distance o if its quantile is below the share."""
    shares = by_distance(table, batch)
    if ((table == 0) | (table == 1)).all():  # regular: no need to ask the tokens
        return shares > 0
    return quantiles(batch.positions, layer, table.shape[0])[..., None] < shares


def by_distance(
    table: Float[Tensor, "head distance"], batch: Batch
) -> Float[Tensor, "#batch head query key"]:
    """A value for each pair of tokens by their distance; the last column stands for all larger distances."""
    distance = batch.distances.clamp(max=table.shape[1] - 1)
    return table[:, distance].transpose(0, 1)
