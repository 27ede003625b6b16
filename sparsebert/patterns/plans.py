"""Which pattern at which layers: `neighbour(2) | global(cls) @ late; syntax @ 0-1`, the other layers dense.

Layers count from 0, as `layer_idx` does in transformers. Of n layers `early` is the first n // 2 and `late`
the rest.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from sparsebert.errors import InputError, unknown_name
from sparsebert.patterns import Dense, Learned, Learner, Pattern, Weighted, parse_pattern

_WORDS = ("all", "early", "late")
_LAYERS = re.compile(r"(\d+)\s*(-)?\s*(\d+)?")


@dataclass(frozen=True)
class Placement:
    """The layers a pattern is applied at: `all`, `early`, `late`, `3`, `3-5`, or `3-` (from 3 on)."""

    text: str = "all"

    def __post_init__(self) -> None:
        match = _LAYERS.fullmatch(self.text)
        if match:
            first, dash, last = match.groups()
            if last is not None and int(last) < int(first):
                raise InputError(f"placement '{self.text}' ends before it starts: write '{last}-{first}'")
            object.__setattr__(self, "text", first + (dash or "") + (last or ""))
        elif self.text not in _WORDS:
            raise unknown_name("placement", self.text, (*_WORDS, "3", "3-5", "3-"))

    def layers(self, count: int) -> range:
        """The layers meant in an encoder of `count` layers; `InputError` if it has no such layer."""
        if self.text in _WORDS:
            half = count // 2
            return {"all": range(count), "early": range(half), "late": range(half, count)}[self.text]
        first, dash, last = _LAYERS.fullmatch(self.text).groups()
        stop = int(last) + 1 if last else count if dash else int(first) + 1
        if int(first) >= count or stop > count:
            raise InputError(
                f"placement '{self.text}' names a layer that this encoder lacks: its layers are 0-{count - 1}"
            )
        return range(int(first), stop)

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Plan:
    """Patterns and their placements; layers that none is placed at stay dense."""

    steps: tuple[tuple[Pattern, Placement], ...]

    def layers(self, count: int, learner: Learner | None = None) -> list[Pattern]:
        """The pattern of each of `count` layers; `InputError` if two are placed at one layer.

        `learner` stands for what is being learned, the patterns `learned` and `weighted(P)` without a file.
        """
        chosen: dict[int, Pattern] = {}
        for pattern, placement in self.steps:
            for layer in placement.layers(count):
                if layer in chosen:
                    raise InputError(
                        f"plan '{self}' gives layer {layer} two patterns; join them with '|' in one step"
                    )
                chosen[layer] = pattern.at(layer, learner)
        return [chosen.get(layer, Dense()) for layer in range(count)]

    @property
    def needs(self) -> frozenset[str]:
        """Fields of `Batch` that its patterns read."""
        return frozenset().union(*(pattern.needs for pattern, _ in self.steps))

    def open_layers(self, count: int, kind: type[Learned] | type[Weighted]) -> list[int]:
        """Layers with a part of this kind that names no file: what a run has to learn."""
        return sorted(
            layer
            for pattern, placement in self.steps
            if any(isinstance(part, kind) and part.path is None for part in pattern.walk())
            for layer in placement.layers(count)
        )

    def with_files(self, renamed: Callable[[str | None], str | None]) -> Plan:
        """The same plan with other paths in its learned parts."""
        return Plan(tuple((pattern.with_files(renamed), placement) for pattern, placement in self.steps))

    @property
    def files(self) -> list[str]:
        """The files that its patterns read."""
        parts = (part for pattern, _ in self.steps for part in pattern.walk())
        return list(dict.fromkeys(p.path for p in parts if isinstance(p, Learned | Weighted) and p.path))

    def __str__(self) -> str:
        return "; ".join(
            str(pattern) if placement.text == "all" else f"{pattern} @ {placement}"
            for pattern, placement in self.steps
        )


def parse_plan(text: str) -> Plan:
    """The plan that a text stands for; `str(parse_plan(text))` is its canonical form. Raises `InputError`.

    >>> print(parse_plan("neighbour(2)|global(cls)@late ; dense @ all"))
    neighbour(2) | global(cls) @ late; dense
    """
    steps = []
    for step in text.split(";"):
        pattern, at, placement = step.partition("@")
        if "@" in placement:
            raise InputError(f"'{step.strip()}' has two '@'; separate the steps of a plan with ';'")
        steps.append((parse_pattern(pattern.strip()), Placement(placement.strip() if at else "all")))
    return Plan(tuple(steps))
