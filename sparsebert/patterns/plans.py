"""Which pattern at which layers: `neighbour(2) | global(cls) @ late; syntax @ 0-1`, the other layers dense.

Layers count from 0, as `layer_idx` does in transformers. Of n layers `early` is the first n // 2 and `late`
the rest.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from sparsebert.errors import InputError, shown, unknown_name
from sparsebert.patterns.pattern import Learner, Pattern
from sparsebert.patterns.position import Dense
from sparsebert.patterns.text import parse_pattern

_WORDS = ("all", "early", "late")
_LAYERS = re.compile(r"([0-9]{1,9})(?:\s*(-)\s*([0-9]{1,9})?)?")


@dataclass(frozen=True)
class Placement:
    """The layers a pattern is applied at: `all`, `early`, `late`, `3`, `3-5`, or `3-` (from 3 on).

    Chapter 03 explains it.
    """

    text: str = "all"

    def __post_init__(self) -> None:
        match = _LAYERS.fullmatch(self.text)
        if match:
            first, dash, last = int(match[1]), match[2], match[3] and int(match[3])
            if last is not None and last < first:
                raise InputError(f"placement '{self.text}' ends before it starts: write '{last}-{first}'")
            end = "" if not dash or last == first else "-" if last is None else f"-{last}"
            object.__setattr__(self, "text", f"{first}{end}")
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
    """Patterns and their placements; layers that none is placed at stay dense.

    Chapter 03 explains it.
    """

    steps: tuple[tuple[Pattern, Placement], ...]

    def layers(self, count: int, learner: Learner | None = None) -> list[Pattern]:
        """The pattern of each of `count` layers; `InputError` if two are placed at one layer.

        `learner` stands for what is being learned, the patterns `learned` and `weighted(P)` without a file.
        """
        chosen: dict[int, Pattern] = {}
        for layer, pattern in self._placed(count):
            if layer in chosen:
                raise InputError(
                    f"plan '{shown(self)}' gives layer {layer} two patterns; join them with '|' in one step"
                )
            chosen[layer] = pattern.at(layer, learner)
        return [chosen.get(layer, Dense()) for layer in range(count)]

    def _placed(self, count: int) -> Iterator[tuple[int, Pattern]]:
        return ((layer, pattern) for pattern, where in self.steps for layer in where.layers(count))

    def walk(self) -> Iterator[Pattern]:
        """Its patterns and all patterns they are made of."""
        for pattern, _ in self.steps:
            yield from pattern.walk()

    @property
    def needs(self) -> frozenset[str]:
        """Fields of `Batch` beyond `real` that its patterns read."""
        return frozenset().union(*(part.reads for part in self.walk()))

    def open_layers(self, count: int, learns: Literal["degrees", "weights", "masks"]) -> list[int]:
        """Layers with a part that learns this and names no file: what a run has to learn."""
        return sorted(
            layer
            for layer, pattern in self._placed(count)
            if any(part.learns == learns and part.path is None for part in pattern.walk())
        )

    def with_files(self, renamed: Callable[[str | None], str | None]) -> Plan:
        """The same plan with other paths in its learned parts."""
        return Plan(tuple((pattern.with_files(renamed), placement) for pattern, placement in self.steps))

    @property
    def files(self) -> dict[str, Pattern]:
        """The files that its patterns read, each with one of the patterns that read it."""
        return {part.path: part for part in self.walk() if part.path}

    @property
    def file_hashes(self) -> list[str]:
        """Hashes of what these files hold; `InputError` for one that can't be read."""
        return [hashlib.sha256(part.contents()).hexdigest() for part in self.files.values()]

    def __str__(self) -> str:
        return "; ".join(f"{pattern} @ {where}".removesuffix(" @ all") for pattern, where in self.steps)


def parse_plan(text: str) -> Plan:
    """The plan that a text stands for; `str(parse_plan(text))` is its canonical form.

    Raises `InputError`, and `UnknownName` if it has a pattern that is not registered. Chapter 03 explains it.

    >>> print(parse_plan("neighbour(2)|global(cls)@late ; dense @ all"))
    neighbour(2) | global(cls) @ late; dense
    """
    steps = []
    for step in text.split(";"):
        pattern, at, placement = step.partition("@")
        if "@" in placement:
            raise InputError(f"'{shown(step)}' has two '@'; separate the steps of a plan with ';'")
        steps.append((parse_pattern(pattern.strip()), Placement(placement.strip() if at else "all")))
    return Plan(tuple(steps))
