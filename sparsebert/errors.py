"""What a person sees when the input is wrong: one sentence with what, where, and what to write instead."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from pydantic import ValidationError


class InputError(ValueError):
    """The input is wrong, and the message says how to mend it; the command line shows it and exits with 2."""


class ChapterError(RuntimeError):
    """A notebook or the book could not be made; the message says where it stopped and what is kept.

    The command line shows it and exits with 1.
    """


def unknown_name(kind: str, name: str, known: Iterable[str]) -> InputError:
    """An `InputError` for a name that does not exist, with the nearest known name and the list of all.

    >>> unknown_name("task", "revews", ["reviews", "topics"])
    InputError("unknown task 'revews': did you mean 'reviews'? Known: reviews, topics")
    """
    known = list(known)
    near = difflib.get_close_matches(name, known, n=1)
    hint = f" did you mean '{near[0]}'?" if near else ""
    return InputError(f"unknown {kind} '{name}':{hint} Known: {', '.join(known)}")


def first_mistake(error: ValidationError) -> str:
    """Where the first mistake in a file is and what, such as 'degrees.kept: field required'."""
    first = error.errors()[0]
    where = ".".join(map(str, first["loc"])) or "the file"
    return f"{where}: {first['msg'].lower()}"
