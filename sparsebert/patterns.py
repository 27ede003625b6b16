"""Who may attend to whom.

A pattern is a relation between the real tokens of a sequence. It is written as text, the same text that is
printed back: `neighbour(2) | random(3, seed=1) | global(cls)`. `|` joins patterns and `-` takes one away;
as in Python, `-` binds tighter. Whatever the pattern, every real token attends to itself and nothing
attends to padding.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import MISSING, dataclass, fields, replace
from functools import lru_cache
from typing import ClassVar, Protocol

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from sparsebert.batches import Batch
from sparsebert.errors import InputError, unknown_name
from sparsebert.hardened import HardDegrees, by_distance, kept_edges, load_degrees
from sparsebert.layouts import Layout, layout_of_shares

Relation = Bool[Tensor, "batch head query key"]  # head is 1 where all heads share the relation
Bias = Float[Tensor, "#batch #head query key"]  # what is added to the scores of a pattern's pairs
_LARGEST = 2**31 - 1  # number in a pattern's text


class Learner(Protocol):
    """What gives the patterns `learned` and `weighted(P)` their content while it is being learned."""

    def learned(self, layer: int) -> Pattern: ...

    def weighted(self, layer: int, pattern: Pattern) -> Pattern: ...


class Pattern(ABC):
    """A relation between tokens; `str(pattern)` is its text and `parse_pattern` reads it back."""

    needs: frozenset[str] = frozenset()  # fields of `Batch` beyond `real` that it reads

    @abstractmethod
    def related(self, batch: Batch) -> Relation:
        """The bare relation, before self-loops are added and padding is taken out."""

    def bias(self, batch: Batch) -> Bias | None:
        """What is added to the attention scores of its pairs: logarithms of weights. None: nothing."""
        return None

    def layout(self) -> Layout | None:
        """Its pairs as a band, global tokens and drawn keys; None if they can't be told by position alone."""
        return None

    def at(self, layer: int, learner: Learner | None = None) -> Pattern:
        """The pattern as it is at one layer of the encoder; only learned parts differ between layers."""
        return self

    def with_files(self, renamed: Callable[[str | None], str | None]) -> Pattern:
        """The same pattern with other paths in its learned parts."""
        changed = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Pattern):
                changed[field.name] = value.with_files(renamed)
            elif isinstance(value, tuple):
                changed[field.name] = tuple(part.with_files(renamed) for part in value)
            elif field.name == "path":
                changed[field.name] = renamed(value)
        return replace(self, **changed) if changed else self

    def walk(self) -> Iterator[Pattern]:
        """The pattern and all patterns it is made of."""
        yield self
        for field in fields(self):
            value = getattr(self, field.name)
            for part in value if isinstance(value, tuple) else (value,):
                if isinstance(part, Pattern):
                    yield from part.walk()

    def allowed(self, batch: Batch) -> Relation:
        """True where the query may attend to the key, shape [batch, 1 or heads, length, length].

        Every real query attends to itself and to no padding. Rows of padding queries are all False. Raises
        `InputError` if the batch lacks a column that the pattern reads.
        """
        missing = sorted(column for column in self.needs if getattr(batch, column) is None)
        if missing:
            raise InputError(
                f"the pattern '{self}' reads {' and '.join(missing)}, which this batch lacks; "
                "prepare the data with parses (sparsebert.prepare) or choose a pattern by position"
            )
        itself = torch.eye(batch.real.shape[1], dtype=torch.bool, device=batch.real.device)
        return (self.related(batch) | itself) & batch.pairs

    def __or__(self, other: Pattern) -> Pattern:
        return Union(_parts(self) + _parts(other))

    def __sub__(self, other: Pattern) -> Pattern:
        return Difference(self, other)


@dataclass(frozen=True)
class Dense(Pattern):
    """Every token attends to every token: the encoder as it was trained."""

    def related(self, batch: Batch) -> Relation:
        return batch.pairs

    def __str__(self) -> str:
        return "dense"


@dataclass(frozen=True)
class Neighbour(Pattern):
    """Tokens at most `w` positions away on either side: degree 2w in the middle of a sequence."""

    w: int

    def __post_init__(self) -> None:
        _check_count("neighbour", "w", self.w)

    def related(self, batch: Batch) -> Relation:
        position = batch.positions
        return ((position[:, :, None] - position[:, None, :]).abs() <= self.w)[:, None]

    def layout(self) -> Layout:
        return Layout(self.w)

    def __str__(self) -> str:
        return f"neighbour({self.w})"


@dataclass(frozen=True)
class Global(Pattern):
    """The first `tokens` tokens attend to all and all attend to them; `"cls"` is the first one, [CLS]."""

    tokens: int | str

    def __post_init__(self) -> None:
        if self.tokens != "cls":
            _check_count("global", "tokens", self.tokens, also=" or cls")

    def related(self, batch: Batch) -> Relation:
        chosen = batch.positions < (1 if self.tokens == "cls" else self.tokens)
        return (chosen[:, :, None] | chosen[:, None, :])[:, None]

    def layout(self) -> Layout:
        return Layout(tokens=1 if self.tokens == "cls" else self.tokens)

    def __str__(self) -> str:
        return f"global({self.tokens})"


@dataclass(frozen=True)
class Random(Pattern):
    """`k` other tokens per query, drawn without replacement; the same draw whenever the seed is the same.

    Every query ranks all positions in an order fixed by the seed and takes the first that exist, so the
    graph does not depend on the batch, the padding or the device. With `like` a query takes as many keys as
    that pattern gives it, and with `besides` it draws only among pairs that pattern leaves out:
    `random(like=P, besides=Q) | Q` gives every token exactly the degree that `P | Q` gives it.
    """

    k: int | None = None
    seed: int = 0
    like: Pattern | None = None
    besides: Pattern | None = None

    def __post_init__(self) -> None:
        if (self.k is None) == (self.like is None):
            raise InputError(
                "random takes a number of keys or a pattern to match: random(3) or random(like=syntax)"
            )
        if self.k is not None:
            _check_count("random", "k", self.k)
        _check_count("random", "seed", self.seed)

    @property
    def needs(self) -> frozenset[str]:
        return _needs(self.like, self.besides)

    def related(self, batch: Batch) -> Relation:
        itself = torch.eye(batch.real.shape[1], dtype=torch.bool, device=batch.real.device)
        candidates = batch.pairs & ~itself
        if self.besides is not None:
            candidates = candidates & ~self.besides.related(batch)
        if self.like is None:
            degree = torch.tensor(self.k, device=batch.real.device)
        else:
            wanted = self.like.allowed(batch) & ~itself
            if self.besides is not None:
                wanted = wanted & ~self.besides.related(batch)
            degree = wanted.sum(-1, keepdim=True)
        return _lowest(_shuffled(batch.positions, self.seed)[:, None], degree, candidates)

    def layout(self) -> Layout | None:
        return Layout(random=((self.k, self.seed),)) if self.like is None and self.besides is None else None

    def at(self, layer: int, learner: Learner | None = None) -> Pattern:
        like, besides = (part and part.at(layer, learner) for part in (self.like, self.besides))
        return replace(self, like=like, besides=besides)

    def __str__(self) -> str:
        arguments = [str(self.k)] if self.like is None else [f"like={self.like}"]
        if self.besides is not None:
            arguments.append(f"besides={self.besides}")
        if self.seed:
            arguments.append(f"seed={self.seed}")
        return f"random({', '.join(arguments)})"


@dataclass(frozen=True)
class Lexical(Pattern):
    """The `k` tokens with the most similar input embeddings (by cosine; ties go to the earlier one)."""

    k: int
    needs: ClassVar[frozenset[str]] = frozenset({"embeddings"})

    def __post_init__(self) -> None:
        _check_count("lexical", "k", self.k)

    def related(self, batch: Batch) -> Relation:
        with torch.autocast(batch.real.device.type, enabled=False):
            unit = normalize(batch.embeddings.float(), dim=-1)
            cosine = unit @ unit.transpose(1, 2)
        # Equal words must tie exactly, whatever order a matrix product adds in: compare cosines to 4 digits.
        dissimilarity = (-1e4 * cosine).round()[:, None]
        itself = torch.eye(cosine.shape[-1], dtype=torch.bool, device=cosine.device)
        return _lowest(dissimilarity, torch.tensor(self.k, device=cosine.device), batch.pairs & ~itself)

    def __str__(self) -> str:
        return f"lexical({self.k})"


@dataclass(frozen=True)
class Syntax(Pattern):
    """Pieces of one word, and words at most `hops` steps apart in the dependency parse.

    One step leads from a word to its head or to a dependant. Steps lead over words of the sequence: a word
    that truncation cut away connects nothing. Special tokens have no parse and attend to themselves alone.
    """

    hops: int = 1
    needs: ClassVar[frozenset[str]] = frozenset({"word_ids", "head_ids"})

    def __post_init__(self) -> None:
        _check_count("syntax", "hops", self.hops)

    def related(self, batch: Batch) -> Relation:
        word, head = batch.word_ids, batch.head_ids
        has_word = (word[:, :, None] >= 0) & (word[:, None, :] >= 0)
        same_word = (word[:, :, None] == word[:, None, :]) & has_word
        to_head = (head[:, :, None] == word[:, None, :]) & has_word
        step = same_word | to_head | to_head.transpose(1, 2)
        reached = step if self.hops else same_word
        for _ in range(self.hops - 1):
            with torch.autocast(word.device.type, enabled=False):
                reached = reached.float() @ step.float() > 0
        return reached[:, None]

    def __str__(self) -> str:
        return "syntax" if self.hops == 1 else f"syntax(hops={self.hops})"


@dataclass(frozen=True)
class Learned(Pattern):
    """Neighbours in degrees that were learned for each layer and head; without a FILE, a run learns them."""

    path: str | None = None

    def __post_init__(self) -> None:
        _check_path("learned", self.path)

    def related(self, batch: Batch) -> Relation:
        raise InputError(f"'{self}' is different at each layer; take the pattern of one layer, .at(0)")

    def at(self, layer: int, learner: Learner | None = None) -> Pattern:
        if self.path:
            return HardLayer(load_degrees(self.path), layer)
        if learner is None:
            raise InputError(
                "the pattern 'learned' names no file: write learned(\"FILE\"), or have a run learn the "
                "degrees (--learn-degrees)"
            )
        return learner.learned(layer)

    def __str__(self) -> str:
        return f'learned("{self.path}")' if self.path else "learned"


@dataclass(frozen=True)
class Weighted(Pattern):
    """The pairs of a pattern, with a learned weight for each head and distance: `weighted(P, "FILE")`.

    Without a file the weights are what a run learns, from equal weights on.
    """

    pattern: Pattern
    path: str | None = None

    def __post_init__(self) -> None:
        _check_path("weighted", self.path)

    def related(self, batch: Batch) -> Relation:
        return self.pattern.related(batch)

    def at(self, layer: int, learner: Learner | None = None) -> Pattern:
        pattern = self.pattern.at(layer, learner)
        if self.path:
            degrees = load_degrees(self.path)
            if degrees.weights is None:
                raise InputError(f"'{self.path}' has degrees without weights; write weighted({self.pattern})")
            return Biased(pattern, HardLayer(degrees, layer))
        return learner.weighted(layer, pattern) if learner else pattern

    @property
    def needs(self) -> frozenset[str]:
        return self.pattern.needs

    def __str__(self) -> str:
        return f'weighted({self.pattern}, "{self.path}")' if self.path else f"weighted({self.pattern})"


@dataclass(frozen=True, eq=False)
class HardLayer(Pattern):
    """One layer of hard degrees."""

    degrees: HardDegrees
    layer: int

    def related(self, batch: Batch) -> Relation:
        return kept_edges(self.degrees.table(self.layer).to(batch.real.device), self.layer, batch)

    def bias(self, batch: Batch) -> Bias | None:
        if self.degrees.weights is None:
            return None
        return by_distance(self.degrees.table(self.layer, weights=True).to(batch.real.device), batch)

    def weight_table(self) -> Float[Tensor, "head distance"] | None:
        """Its weights at distances 0, 1, ..., and one for all beyond."""
        return None if self.degrees.weights is None else self.degrees.table(self.layer, weights=True)

    def layout(self) -> Layout | None:
        return layout_of_shares(self.degrees.table(self.layer), self.layer, self.weight_table())


@dataclass(frozen=True)
class Biased(Pattern):
    """The pairs of a pattern with the weights of another."""

    pattern: Pattern
    weights: Pattern

    @property
    def needs(self) -> frozenset[str]:
        return self.pattern.needs

    def related(self, batch: Batch) -> Relation:
        return self.pattern.related(batch)

    def bias(self, batch: Batch) -> Bias | None:
        return self.weights.bias(batch)

    def layout(self) -> Layout | None:
        layout = self.pattern.layout()
        return layout and layout.weighted(self.weights.weight_table())


@dataclass(frozen=True)
class Union(Pattern):
    """Pairs that any of the parts allows. A pair that a part without weights allows has none either."""

    parts: tuple[Pattern, ...]

    @property
    def needs(self) -> frozenset[str]:
        return _needs(*self.parts)

    def related(self, batch: Batch) -> Relation:
        relation = self.parts[0].related(batch)
        for part in self.parts[1:]:
            relation = relation | part.related(batch)
        return relation

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
        layout = self.parts[0].layout()
        for part in self.parts[1:]:
            other = part.layout()
            layout = None if layout is None or other is None else layout | other
        return layout

    def at(self, layer: int, learner: Learner | None = None) -> Pattern:
        return Union(tuple(part.at(layer, learner) for part in self.parts))

    def __str__(self) -> str:
        return " | ".join(map(str, self.parts))


@dataclass(frozen=True)
class Difference(Pattern):
    """Pairs of `left` that `right` does not relate; self-loops stay."""

    left: Pattern
    right: Pattern

    @property
    def needs(self) -> frozenset[str]:
        return _needs(self.left, self.right)

    def related(self, batch: Batch) -> Relation:
        return self.left.related(batch) & ~self.right.related(batch)

    def bias(self, batch: Batch) -> Bias | None:
        return self.left.bias(batch)

    def at(self, layer: int, learner: Learner | None = None) -> Pattern:
        return Difference(self.left.at(layer, learner), self.right.at(layer, learner))

    def __str__(self) -> str:
        left = f"({self.left})" if isinstance(self.left, Union) else str(self.left)
        right = f"({self.right})" if isinstance(self.right, Union | Difference) else str(self.right)
        return f"{left} - {right}"


PATTERNS: dict[str, type[Pattern]] = {
    "dense": Dense,
    "neighbour": Neighbour,
    "random": Random,
    "global": Global,
    "syntax": Syntax,
    "lexical": Lexical,
    "learned": Learned,
    "weighted": Weighted,
}


def parse_pattern(text: str) -> Pattern:
    """The pattern that a text stands for, so that `str(parse_pattern(text))` is its canonical form.

    Raises `InputError` with the position and, for a misspelt name, the nearest known one.

    >>> print(parse_pattern("neighbour( 2 )|random(3,seed=0)|global(cls)"))
    neighbour(2) | random(3) | global(cls)
    """
    try:
        return _Parser(text).pattern()
    except RecursionError:
        raise InputError("the pattern has too many parentheses inside one another; write fewer") from None


# ---- pieces shared by the patterns ----------------------------------------------------------------


def _parts(pattern: Pattern) -> tuple[Pattern, ...]:
    return pattern.parts if isinstance(pattern, Union) else (pattern,)


def _needs(*patterns: Pattern | None) -> frozenset[str]:
    return frozenset().union(*(pattern.needs for pattern in patterns if pattern is not None))


def _check_count(pattern: str, name: str, value: object, also: str = "") -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise InputError(f"{pattern} takes {name} as a whole number from 0 up{also}, not '{value}'")
    if value > _LARGEST:
        raise InputError(f"{pattern} takes {name} up to {_LARGEST}, not '{value}'")


def _check_path(pattern: str, path: object) -> None:
    if path is not None and (not isinstance(path, str) or not path or set(path) & set('";@')):
        raise InputError(
            f"{pattern} takes the path of a JSON file without quotes, ';' and '@' in it, not '{path}'"
        )


def _lowest(scores: Tensor, degree: Tensor, candidates: Relation) -> Relation:
    """For each query the `degree` candidate keys of lowest score; ties go to the earlier key."""
    last = torch.iinfo(scores.dtype).max if not scores.is_floating_point() else torch.inf
    order = scores.masked_fill(~candidates, last).argsort(dim=-1, stable=True)
    taken = torch.arange(order.shape[-1], device=order.device) < degree
    shape = torch.broadcast_shapes(order.shape, taken.shape)  # degrees may differ between heads
    chosen = torch.zeros(shape, dtype=torch.bool, device=order.device)
    return chosen.scatter(-1, order.expand(shape), taken.expand(shape)) & candidates


@lru_cache(maxsize=64)
def drawn_keys(k: int, seed: int, length: int) -> Int[Tensor, "length k"]:
    """The positions that `random(k, seed)` gives each query of a sequence; fewer than k if it is short.

    Queries are taken some at a time, so that memory grows with the length and not with its square.
    """
    places = torch.arange(length)
    some = max(1, 2**20 // length)
    chosen = []
    for queries in places.split(some):
        order = _mix(_mix(queries + _mix(torch.tensor(seed + 1)))[:, None] + places)
        order[torch.arange(len(queries)), queries] = torch.iinfo(order.dtype).max
        chosen.append(order.topk(min(k, length - 1), largest=False).indices)
    return torch.cat(chosen)


def _shuffled(positions: Int[Tensor, "batch length"], seed: int) -> Int[Tensor, "batch query key"]:
    """A pseudo-random number per pair of positions: a hash of (seed, query, key), equal on every device."""
    query = _mix(positions + _mix(torch.tensor(seed + 1, device=positions.device)))
    return _mix(query[:, :, None] + positions[:, None, :])


def _mix(x: Int[Tensor, "..."]) -> Int[Tensor, "..."]:
    """The finaliser of splitmix64 (Steele, Lea and Flood, 2014) in wrapping 64-bit arithmetic."""
    x = x * -7046029254386353131  # the golden ratio 0x9E3779B97F4A7C15, as signed
    x = (x ^ _shift(x, 30)) * -4658895280553007687  # 0xBF58476D1CE4E5B9
    x = (x ^ _shift(x, 27)) * -7723592293110705685  # 0x94D049BB133111EB
    return x ^ _shift(x, 31)


def _shift(x: Tensor, bits: int) -> Tensor:
    """Right shift that fills with zeros; torch's own repeats the sign."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


# ---- text -> pattern ------------------------------------------------------------------------------

_TOKEN = re.compile(r'\s*(?:(?P<name>[A-Za-z_]\w*)|(?P<number>-?\d+)|(?P<sign>[()|,=-])|"(?P<path>[^"]*)")')
_BARE_PATH = re.compile(r'\s*(?P<path>[^\s"()|,=]++)(?!\s*=)')  # learned(runs/a.json): without quotes


class _Parser:
    """Recursive descent over:  pattern = difference ("|" difference)*;  difference = atom ("-" atom)*;
    atom = "(" pattern ")" | name ["(" argument ("," argument)* ")"];
    argument = [name "="] (number | pattern).
    """

    def __init__(self, text: str):
        self.text = text
        self.tokens = list(self._tokens())
        self.next = 0

    def _tokens(self) -> Iterator[tuple[str, str, int]]:
        position, previous, before = 0, None, None
        end = len(self.text.rstrip())
        while position < end:
            match = (before, previous) == ("learned", "(") and _BARE_PATH.match(self.text, position)
            match = match or _TOKEN.match(self.text, position)
            if not match:
                position += len(self.text[position:]) - len(self.text[position:].lstrip())
                raise self._error(f"unexpected '{self.text[position]}'", position)
            kind = match.lastgroup
            # "a -1" would otherwise read a minus as the sign of a number.
            if kind == "number" and match["number"][0] == "-" and previous not in ("(", ",", "="):
                start = match.start("number")
                yield "sign", "-", start
                position, before, previous = start + 1, previous, "-"
                continue
            yield kind, match[kind], match.start(kind)
            position, before, previous = match.end(), previous, match[kind]

    def pattern(self) -> Pattern:
        result = self._union()
        if self.next < len(self.tokens):
            _, value, position = self.tokens[self.next]
            raise self._error(f"unexpected '{value}'", position)
        return result

    def _union(self) -> Pattern:
        result = self._difference()
        while self._take("|"):
            result = result | self._difference()
        return result

    def _difference(self) -> Pattern:
        result = self._atom()
        while self._take("-"):
            result = result - self._atom()
        return result

    def _atom(self) -> Pattern:
        if self._take("("):
            inside = self._union()
            self._expect(")")
            return inside
        kind, name, position = self._peek()
        if kind != "name":
            raise self._error(f"expected a pattern such as neighbour(2), found '{name}'", position)
        self.next += 1
        if name not in PATTERNS:
            raise self._error(str(unknown_name("pattern", name, PATTERNS)), position)
        return self._build(name, position, self._arguments(name) if self._take("(") else ([], {}))

    def _arguments(self, pattern: str) -> tuple[list, dict]:
        positional, named = [], {}
        while not self._take(")"):
            kind, value, position = self._peek()
            if kind == "name" and self._peek(1)[1] == "=":
                known = [field.name for field in fields(PATTERNS[pattern])]
                if value not in known:
                    raise self._error(str(unknown_name(f"argument of {pattern}", value, known)), position)
                if value in named:
                    raise self._error(f"{value} is given twice", position)
                self.next += 2
                named[value] = self._value()
            elif named:
                raise self._error("an argument without a name must come first", position)
            else:
                positional.append(self._value())
            if self._peek()[1] != ")":
                self._expect(",")
        return positional, named

    def _value(self) -> int | str | Pattern:
        kind, value, _ = self._peek()
        if kind == "number" or kind == "path" or value == "cls":
            self.next += 1
            return int(value) if kind == "number" else value
        return self._union()

    def _build(self, name: str, position: int, arguments: tuple[list, dict]) -> Pattern:
        positional, named = arguments
        allowed = fields(PATTERNS[name])
        required = [field.name for field in allowed if field.default is MISSING]
        given = {field.name for field, _ in zip(allowed, positional, strict=False)} | set(named)
        if len(positional) > len(allowed):
            raise self._error(f"{name} takes at most {len(allowed)} arguments", position)
        if not set(required) <= given:
            raise self._error(f"{name} needs {required[0]}: write {name}({_EXAMPLE[name]})", position)
        for field in ("like", "besides"):
            if field in named and not isinstance(named[field], Pattern):
                raise self._error(f"{field} takes a pattern such as {field}=syntax", position)
        if name == "weighted" and not isinstance([*positional, *named.values()][0], Pattern):
            raise self._error("weighted takes a pattern such as weighted(neighbour(2))", position)
        try:
            return PATTERNS[name](*positional, **named)
        except TypeError:
            raise self._error(f"an argument of {name} is given twice", position) from None
        except InputError as error:
            raise self._error(str(error), position) from None

    def _peek(self, ahead: int = 0) -> tuple[str, str, int]:
        index = self.next + ahead
        return self.tokens[index] if index < len(self.tokens) else ("end", "the end", len(self.text))

    def _take(self, sign: str) -> bool:
        kind, value, _ = self._peek()
        found = kind == "sign" and value == sign
        self.next += found
        return found

    def _expect(self, sign: str) -> None:
        if not self._take(sign):
            _, value, position = self._peek()
            raise self._error(f"expected '{sign}', found '{value}'", position)

    def _error(self, what: str, position: int) -> InputError:
        return InputError(f"{what} (character {position + 1} of '{self.text}')")


_EXAMPLE = {"neighbour": "2", "global": "cls", "lexical": "5", "weighted": "neighbour(2)"}
