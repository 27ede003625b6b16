"""What every pattern is and says of itself, and how two are joined: `|` and `-`."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass, replace
from functools import reduce
from operator import or_
from typing import Any, ClassVar, Literal, Protocol

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sparsebert.errors import InputError, shown
from sparsebert.patterns.batches import OF_A_LAYER, Batch
from sparsebert.patterns.layouts import Layout
from sparsebert.reading import read_bytes
from sparsebert.registry import PATTERNS

Relation = Bool[Tensor, "batch head query key"]  # head is 1 where all heads share the relation
Bias = Float[Tensor, "#batch #head query key"]  # what is added to the scores of a pattern's pairs

MOST_PARTS = 100  # of a pattern; deeper ones would exhaust Python's stack
_LARGEST = 2**31 - 1  # number in a pattern's text


class Learner(Protocol):
    """What gives the pattern `learned`, and the weights of `weighted(P)`, while they are being learned."""

    def learned(self, layer: int) -> Pattern: ...

    def follow(self, patterns: Sequence[Pattern]) -> None:
        """Called once, with the pattern of each layer."""

    def prepare(self, batch: Batch) -> None:
        """Called with each batch before its patterns are asked."""


@dataclass(frozen=True)
class Family:
    """How patterns of one kind look in every figure, and what their runs are to the rules of the claims.

    Without a colour and a marker (matplotlib's names) each figure gives them free ones. `kind` is that of a
    run with such a pattern beside a global [CLS]; C3 compares families `by_content` with those by position.
    """

    label: str
    colour: str | None = None
    marker: str | None = None
    kind: Literal["pattern", "learned", "other"] = "pattern"
    by_content: bool = False


class Pattern(ABC):
    """A relation between tokens; `str(pattern)` is its text and `parse_pattern` reads it back.

    A pattern of your own is a frozen dataclass with a `name`, `examples` and `related`; `sparsebert.register`
    adds it. Its fields are its arguments: whole numbers from 0 up (`int`), patterns (`Pattern`), one of its
    `words`, or the `path` of a file (`str`). The first paragraph of its docstring stands in lists.
    Chapter 01 explains it.
    """

    registry = PATTERNS
    name: ClassVar[str] = ""
    examples: ClassVar[tuple[str, ...]] = ()
    forms: ClassVar[str] = ""  # how it is written, if its fields alone don't say it
    words: ClassVar[tuple[str, ...]] = ()  # that it takes as an argument, such as cls
    free_text: ClassVar[bool] = False  # whether it reads all between its parentheses itself, as one text
    family: ClassVar[Family] = Family("", kind="other")
    reads: ClassVar[frozenset[str]] = frozenset()  # fields of `Batch` beyond `real`
    learns: ClassVar[str | None] = None  # without a file a run learns its "degrees", "weights" or "masks"
    changes: ClassVar[bool] = False  # from step to step, since it is being learned
    path: str | None = None  # of the file that it reads
    file_name: ClassVar[str] = "pattern.data"  # of that file, where it is kept beside a model

    def __init_subclass__(cls, **options: Any):
        super().__init_subclass__(**options)
        if "name" in vars(cls) and "family" not in vars(cls):
            cls.family = Family(cls.name)

    def __post_init__(self) -> None:
        """Check each field by its annotation, and the number of parts."""
        for field in fields(self):
            value, takes = getattr(self, field.name), frozenset(re.findall(r"\w+", str(field.type)))
            if not (value is None and "None" in takes):
                self._check(field.name, value, takes)
        parts = sum(not isinstance(part, Union | Difference) for part in self.walk())
        if parts > MOST_PARTS:
            raise InputError(f"a pattern has at most {MOST_PARTS} parts, and this one has {parts}")

    def _check(self, field: str, value: object, takes: frozenset[str]) -> None:
        said = None
        if "Pattern" in takes:
            if not isinstance(value, Pattern | tuple):
                said = f"a pattern as {field}, such as {field}=syntax"
        elif field == "path":
            if not isinstance(value, str) or not value:
                said = "the path of a JSON file"
        elif takes & {"int", "str"} and value not in self.words:
            words = " or ".join(["", *self.words])
            if "int" not in takes:
                said = f"{field} as {words[4:]}"
            elif not isinstance(value, int) or isinstance(value, bool) or value < 0:
                said = f"{field} as a whole number from 0 up{words}"
            elif value > _LARGEST:
                said = f"{field} as a whole number up to {_LARGEST}"
        if said:
            raise InputError(f"{self.name} takes {said}, not '{shown(value)}'")

    # what it is

    @abstractmethod
    def related(self, batch: Batch) -> Relation:
        """The bare relation, before self-loops are added and padding is taken out."""

    def bias(self, batch: Batch) -> Bias | None:
        """What is added to the attention scores of its pairs: logarithms of weights. None: nothing."""
        return None

    def layout(self) -> Layout | None:
        """Its pairs as a band, global tokens and random keys; None if position alone doesn't tell them."""
        return None

    def at(self, layer: int, learner: Learner | None = None) -> Pattern:
        """The pattern as it is at one layer of the encoder; only learned parts differ between layers."""
        return self._with_parts(lambda part: part.at(layer, learner))

    def check_heads(self, heads: int) -> None:  # noqa: B027
        """`InputError` if it does not fit a layer of so many heads."""

    # what it says of itself

    @classmethod
    def signature(cls) -> str:
        """How it is written, such as `syntax(hops=1)`."""
        arguments = [f.name if f.default is MISSING else f"{f.name}={f.default}" for f in fields(cls)]
        return cls.forms or f"{cls.name}({', '.join(arguments)})".removesuffix("()")

    @classmethod
    def check_component(cls) -> None:
        """`InputError` if the class can't be a pattern that is written as text."""
        if not is_dataclass(cls) or cls.__hash__ is None or not cls.examples:
            raise InputError(
                f"{cls.__qualname__} can't be registered: write @dataclass(frozen=True) above the class and "
                f'give it examples, such as examples = ("{cls.name}(2)",)'
            )

    def mixture(self) -> tuple[Literal["g", "r", "w"], int] | None:
        """Its place in BigBird's grid of global tokens g, random keys r and width w; None if it has none."""
        return None

    @property
    def controls(self) -> Pattern | None:
        """The pattern whose degree-matched control it is."""
        return None

    # what it is made of

    @property
    def needs(self) -> frozenset[str]:
        """Fields of `Batch` beyond `real` that it and its parts read."""
        return frozenset().union(*(part.reads for part in self.walk()))

    @property
    def keepable(self) -> bool:
        """Whether its masks are the same for all batches of a length without padding, now and later."""
        return not any(part.reads or part.changes for part in self.walk())

    def contents(self) -> bytes:
        """What its file holds; `InputError` if it can't be read."""
        return read_bytes(self.path, f"the file of the pattern {self.name}")

    def with_files(self, renamed: Callable[[str | None], str | None]) -> Pattern:
        """The same pattern with other paths in its learned parts."""
        found = self._with_parts(lambda part: part.with_files(renamed))
        return replace(found, path=renamed(self.path)) if "path" in vars(self) else found

    def walk(self) -> Iterator[Pattern]:
        """The pattern and all patterns it is made of."""
        yield self
        for field in fields(self):
            value = getattr(self, field.name)
            for part in value if isinstance(value, tuple) else (value,):
                if isinstance(part, Pattern):
                    yield from part.walk()

    def _with_parts(self, changed: Callable[[Pattern], Pattern]) -> Pattern:
        found: dict[str, Any] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Pattern):
                found[field.name] = changed(value)
            elif isinstance(value, tuple):
                found[field.name] = tuple(map(changed, value))
        return replace(self, **found) if found else self

    def allowed(self, batch: Batch) -> Relation:
        """True where the query may attend to the key, shape [batch, 1 or heads, length, length].

        Every real query attends to itself and to no padding. Rows of padding queries are all False. Raises
        `InputError` if the batch lacks a column that the pattern reads.
        """
        self.check_columns(batch)
        return (self.related(batch) | batch.itself) & batch.pairs

    def check_columns(self, batch: Batch) -> None:
        """`InputError` if the batch lacks a column that the pattern reads."""
        missing = sorted(column for column in self.needs if getattr(batch, column) is None)
        if missing:
            instead = "prepare the data with parses (sparsebert.data.tokenizing)"
            if missing == ["second"]:
                instead = "give the number of tokens before each second text (Batch.second)"
            if OF_A_LAYER & set(missing):
                instead = "ask it in a model (sparsebert.sparsify), whose layers have them,"
            raise InputError(
                f"the pattern '{shown(self)}' reads {' and '.join(missing)}, which this batch lacks; "
                f"{instead} or choose a pattern by position"
            )

    def __str__(self) -> str:
        arguments = []
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name == "path":
                arguments += [f'"{value}"'] if value else []
            elif field.default is MISSING:
                arguments.append(str(value))
            elif value != field.default:
                arguments.append(f"{field.name}={value}")
        return f"{self.name}({', '.join(arguments)})" if arguments else self.name

    def __or__(self, other: Pattern) -> Pattern:
        return Union(parts_of(self) + parts_of(other))

    def __sub__(self, other: Pattern) -> Pattern:
        return Difference(self, other)


@dataclass(frozen=True)
class Union(Pattern):
    """Pairs that any of the parts allows. A pair that a part without weights allows has none either."""

    parts: tuple[Pattern, ...]

    def related(self, batch: Batch) -> Relation:
        return reduce(or_, (part.related(batch) for part in self.parts))

    def bias(self, batch: Batch) -> Bias | None:
        biases = {part: bias for part in self.parts if (bias := part.bias(batch)) is not None}
        if not biases:
            return None
        with torch.no_grad():
            free = torch.zeros_like(batch.pairs)
            for part in self.parts:
                free = free if part in biases else free | part.related(batch)
        if len(biases) > 1:  # a part's weights are for its own pairs
            biases = {part: bias * part.related(batch) for part, bias in biases.items()}
        return sum(biases.values()).masked_fill(free, 0)

    def layout(self) -> Layout | None:
        layouts = [part.layout() for part in self.parts]
        return reduce(lambda a, b: a and b and a | b, layouts)

    def __str__(self) -> str:
        return " | ".join(map(str, self.parts))


@dataclass(frozen=True)
class Difference(Pattern):
    """Pairs of `left` that `right` does not relate; self-loops stay."""

    left: Pattern
    right: Pattern

    def related(self, batch: Batch) -> Relation:
        return self.left.related(batch) & ~self.right.related(batch)

    def layout(self) -> Layout | None:
        left, right = self.left.layout(), self.right.layout()
        return left and right and left - right

    def bias(self, batch: Batch) -> Bias | None:
        return self.left.bias(batch)

    def __str__(self) -> str:
        left = f"({self.left})" if isinstance(self.left, Union) else str(self.left)
        right = f"({self.right})" if isinstance(self.right, Union | Difference) else str(self.right)
        return f"{left} - {right}"


def parts_of(pattern: Pattern) -> tuple[Pattern, ...]:
    """The patterns that a union joins, or else the pattern alone."""
    return pattern.parts if isinstance(pattern, Union) else (pattern,)
