"""From the text of a pattern to the pattern."""

from __future__ import annotations

import re
from dataclasses import MISSING, fields

from sparsebert.errors import InputError, shown, unknown_name
from sparsebert.patterns.pattern import Pattern
from sparsebert.registry import PATTERNS


def parse_pattern(text: str) -> Pattern:
    """The pattern that a text stands for, so that `str(parse_pattern(text))` is its canonical form.

    Raises `InputError` with the position and, for a misspelt name, the nearest known one; `UnknownName` if
    there is no such pattern. Chapter 01 explains it.

    >>> print(parse_pattern("neighbour( 2 )|random(3,seed=0)|global(cls)"))
    neighbour(2) | random(3) | global(cls)
    """
    try:
        return _Parser(text).pattern()
    except RecursionError:
        raise InputError("the pattern has too many parentheses inside one another; write fewer") from None


_TOKEN = re.compile(
    r'\s*(?:(?P<name>[A-Za-z_][A-Za-z0-9_]*)|(?P<number>[0-9]+)|(?P<sign>[()|,=-])|"(?P<path>[^"]*)"'
    r"|(?P<end>\Z)|(?P<other>.))"
)
_NAMED = re.compile(r"\s*([A-Za-z_][A-Za-z0-9_]*)\s*=")
_BARE_PATH = re.compile(r'\s*(?P<path>[^\s"()|,=]++)(?!\s*=)')  # learned(runs/a.json): without quotes
_FREE_TEXT = re.compile(r"[^()]*")
_MOST_DIGITS = 40


class _Parser:
    """Recursive descent over:  pattern = difference ("|" difference)*;  difference = atom ("-" atom)*;
    atom = "(" pattern ")" | name ["(" argument ("," argument)* ")"];
    argument = [name "="] (["-"] number | word | path | pattern). A pattern of `free_text` reads its own.
    """

    def __init__(self, text: str):
        self.text, self.place = text, 0
        self.path_at: int | None = None  # where a path may stand without quotes

    def pattern(self) -> Pattern:
        result = self._union()
        kind, value, position, _ = self._peek()
        if kind != "end":
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
        kind, name, position, self.place = self._peek()
        if kind != "name":
            raise self._error(f"expected a pattern such as neighbour(2), found '{shown(name)}'", position)
        called = self._take("(")
        if name not in PATTERNS:
            raise self._error(unknown_name("pattern", name, PATTERNS), position)
        made = PATTERNS[name]
        given = self._arguments(made) if called else {}
        missing = [field for field in fields(made) if field.default is MISSING and field.name not in given]
        if missing:
            raise self._error(f"{name} needs {missing[0].name}: write {made.examples[0]}", position)
        try:
            return made(**given)
        except InputError as error:
            raise self._error(error, position) from None

    def _arguments(self, made: type[Pattern]) -> dict[str, int | str | Pattern]:
        known = [field.name for field in fields(made)]
        given, by_name = {}, False
        if made.free_text:
            match = _FREE_TEXT.match(self.text, self.place)
            self.place = match.end()
            self._expect(")")
            return {known[0]: match[0]}
        self.path_at = self.place if known[:1] == ["path"] else None
        while not self._take(")"):
            position = self._peek()[2]
            if match := _NAMED.match(self.text, self.place):
                name, self.place, by_name = match[1], match.end(), True
                if name not in known:
                    raise self._error(unknown_name(f"argument of {made.name}", name, known), position)
            elif by_name:
                raise self._error("an argument without a name must come first", position)
            elif len(given) == len(known):
                raise self._error(f"{made.name} takes at most {len(known)} arguments", position)
            else:
                name = known[len(given)]
            if name in given:
                raise self._error(f"{name} is given twice", position)
            given[name] = self._value(made)
            if self._peek()[1] != ")":
                self._expect(",", " or ')'")
        return given

    def _value(self, made: type[Pattern]) -> int | str | Pattern:
        minus = self._take("-")
        kind, value, position, end = self._peek()
        if kind == "number":
            if len(value) > _MOST_DIGITS:
                raise self._error(f"the number {shown(value, 30)} is too large", position)
            self.place = end
            return -int(value) if minus else int(value)
        if minus:
            raise self._error(f"expected a number, found '{shown(value)}'", position)
        if kind == "path" and set(value) & set('";@'):  # in a plan these have a meaning of their own
            said = f"{made.name} takes a path without quotes, ';' and '@' in it, not '{shown(value)}'"
            raise self._error(said, position)
        if kind != "path" and value.lower() not in made.words:
            return self._union()
        self.place = end
        return value if kind == "path" else value.lower()

    def _peek(self) -> tuple[str, str, int, int]:
        """Kind, text, start and end of what comes next."""
        match = self.place == self.path_at and _BARE_PATH.match(self.text, self.place)
        match = match or _TOKEN.match(self.text, self.place)
        kind = match.lastgroup
        if kind == "other":
            hint = ": layers are named in a plan, and this is one pattern" if match[kind] in "@;" else ""
            raise self._error(f"unexpected '{shown(match[kind])}'{hint}", match.start(kind))
        return kind, match[kind] if kind != "end" else "the end", match.start(kind), match.end()

    def _take(self, sign: str) -> bool:
        kind, value, _, end = self._peek()
        found = kind == "sign" and value == sign
        self.place = end if found else self.place
        return found

    def _expect(self, sign: str, also: str = "") -> None:
        if not self._take(sign):
            _, value, position, _ = self._peek()
            raise self._error(f"expected '{sign}'{also}, found '{shown(value)}'", position)

    def _error(self, what: str | InputError, position: int) -> InputError:
        kind = type(what) if isinstance(what, InputError) else InputError
        return kind(f"{what} (character {position + 1} of '{shown(self.text)}')")
