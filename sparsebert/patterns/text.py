"""From the text of a pattern to the pattern."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import MISSING, fields

from sparsebert.errors import InputError, shown, unknown_name
from sparsebert.patterns.pattern import Pattern
from sparsebert.registry import PATTERNS


def parse_pattern(text: str) -> Pattern:
    """The pattern that a text stands for, so that `str(parse_pattern(text))` is its canonical form.

    Raises `InputError` with the position and, for a misspelt name, the nearest known one; `UnknownName` if
    there is no such pattern.

    >>> print(parse_pattern("neighbour( 2 )|random(3,seed=0)|global(cls)"))
    neighbour(2) | random(3) | global(cls)
    """
    try:
        return _Parser(text).pattern()
    except RecursionError:
        raise InputError("the pattern has too many parentheses inside one another; write fewer") from None


_TOKEN = re.compile(
    r'\s*(?:(?P<name>[A-Za-z_]\w*)|(?P<number>-?[0-9]+)|(?P<sign>[()|,=-])|"(?P<path>[^"]*)")', re.ASCII
)
_BARE_PATH = re.compile(r'\s*(?P<path>[^\s"()|,=]++)(?!\s*=)')  # learned(runs/a.json): without quotes
_MOST_DIGITS = 40


class _Parser:
    """Recursive descent over:  pattern = difference ("|" difference)*;  difference = atom ("-" atom)*;
    atom = "(" pattern ")" | name ["(" argument ("," argument)* ")"];
    argument = [name "="] (number | word | path | pattern).
    """

    def __init__(self, text: str):
        self.text = text
        self.tokens = list(self._tokens())
        self.next = 0

    def _tokens(self) -> Iterator[tuple[str, str, int]]:
        position, previous, before = 0, None, None
        end = len(self.text.rstrip())
        while position < end:
            match = previous == "(" and _begins_with_path(before) and _BARE_PATH.match(self.text, position)
            match = match or _TOKEN.match(self.text, position)
            if not match:
                position += len(self.text[position:]) - len(self.text[position:].lstrip())
                sign = self.text[position]
                hint = ": layers are named in a plan, and this is one pattern" if sign in "@;" else ""
                raise self._error(f"unexpected '{shown(sign)}'{hint}", position)
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
            raise self._error(f"unexpected '{shown(value)}'", position)
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
            raise self._error(f"expected a pattern such as neighbour(2), found '{shown(name)}'", position)
        self.next += 1
        if name not in PATTERNS:
            raise self._error(unknown_name("pattern", name, PATTERNS), position)
        made = PATTERNS[name]
        return self._build(made, position, self._arguments(made) if self._take("(") else ([], {}))

    def _arguments(self, made: type[Pattern]) -> tuple[list, dict]:
        positional, named = [], {}
        while not self._take(")"):
            kind, value, position = self._peek()
            if kind == "name" and self._peek(1)[1] == "=":
                known = [field.name for field in fields(made)]
                if value not in known:
                    raise self._error(unknown_name(f"argument of {made.name}", value, known), position)
                if value in named:
                    raise self._error(f"{value} is given twice", position)
                self.next += 2
                named[value] = self._value(made)
            elif named:
                raise self._error("an argument without a name must come first", position)
            else:
                positional.append(self._value(made))
            if self._peek()[1] != ")":
                self._expect(",", "',' or ')'")
        return positional, named

    def _value(self, made: type[Pattern]) -> int | str | Pattern:
        kind, value, position = self._peek()
        if kind == "number" and len(value) > _MOST_DIGITS:
            raise self._error(f"the number {shown(value, 30)} is too large", position)
        if kind in ("number", "path") or value.lower() in made.words:
            self.next += 1
            return int(value) if kind == "number" else value if kind == "path" else value.lower()
        return self._union()

    def _build(self, made: type[Pattern], position: int, arguments: tuple[list, dict]) -> Pattern:
        positional, named = arguments
        allowed = [field.name for field in fields(made)]
        given = {*allowed[: len(positional)], *named}
        missing = [
            field.name for field in fields(made) if field.default is MISSING and field.name not in given
        ]
        if len(positional) > len(allowed):
            raise self._error(f"{made.name} takes at most {len(allowed)} arguments", position)
        if missing:
            raise self._error(f"{made.name} needs {missing[0]}: write {made.examples[0]}", position)
        path = next((text for text in [*positional, *named.values()] if isinstance(text, str)), "")
        if set(path) & set('";@'):  # in a plan these have a meaning of their own
            raise self._error(
                f"{made.name} takes a path without quotes, ';' and '@' in it, not '{shown(path)}'", position
            )
        try:
            return made(*positional, **named)
        except TypeError:
            raise self._error(f"an argument of {made.name} is given twice", position) from None
        except InputError as error:
            raise self._error(error, position) from None

    def _peek(self, ahead: int = 0) -> tuple[str, str, int]:
        index = self.next + ahead
        return self.tokens[index] if index < len(self.tokens) else ("end", "the end", len(self.text))

    def _take(self, sign: str) -> bool:
        kind, value, _ = self._peek()
        found = kind == "sign" and value == sign
        self.next += found
        return found

    def _expect(self, sign: str, said: str = "") -> None:
        if not self._take(sign):
            _, value, position = self._peek()
            wanted = said or f"'{sign}'"
            raise self._error(f"expected {wanted}, found '{shown(value)}'", position)

    def _error(self, what: str | InputError, position: int) -> InputError:
        kind = type(what) if isinstance(what, InputError) else InputError
        return kind(f"{what} (character {position + 1} of '{shown(self.text)}')")


def _begins_with_path(name: str | None) -> bool:
    return name in PATTERNS and [field.name for field in fields(PATTERNS[name])][:1] == ["path"]
