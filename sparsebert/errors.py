"""What a person is told: when the input is wrong, a sentence with what, where, and what to write instead."""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from importlib import metadata
from pathlib import PurePath

from pydantic import ValidationError
from pydantic_core import ErrorDetails


class InputError(ValueError):
    """The input is wrong, and the message says how to fix it; the command line shows it and exits with 2."""


class UnknownName(InputError):
    """The input names something that does not exist here, such as a pattern that nobody registered."""


class ChapterError(RuntimeError):
    """A notebook or the book could not be made; the message says where it stopped and what is kept.

    The command line shows it and exits with 1.
    """


@contextmanager
def about(what: str) -> Iterator[None]:
    """An `InputError` that is raised in this context begins with what it is about."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{what}: {error}") from None


def say(line: str) -> None:
    """Tell how far something is; standard output is for results."""
    print(line, file=sys.stderr, flush=True)


def first_line(error: BaseException) -> str:
    """The first line of what went wrong."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def shown(text: object, most: int = 0) -> str:
    """A text of the input as an error repeats it: printable, on one line, its middle left out if it is long.

    Longer than `most` characters, that is, or else 80, and 300 for a `Path`.

    >>> shown("neighbour(" + "9" * 5000 + ")", most=20)
    'neighbour(…99999999)'
    """
    line = " ".join(str(text).split())
    most = most or (300 if isinstance(text, PurePath) else 80)
    half = most // 2
    line = line if len(line) <= most else f"{line[:half]}…{line[half + 1 - most :]}"
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in line)


def unknown_name(kind: str, name: str, known: Iterable[str]) -> UnknownName:
    """An `UnknownName` with the nearest known name and the list of all.

    >>> unknown_name("task", "revews", ["reviews", "topics"])
    UnknownName("unknown task 'revews': did you mean 'reviews'? Known: reviews, topics")
    """
    known, name = list(known), shown(name)
    near = difflib.get_close_matches(name, known, n=1)
    hint = f" did you mean '{near[0]}'?" if near else ""
    return UnknownName(f"unknown {kind} '{name}':{hint} Known: {', '.join(known)}")


def check_names(kind: str, names: Iterable[str], known: Iterable[str]) -> None:
    """`UnknownName` for the first of these names that is not known."""
    for name in names:
        if name not in known:
            raise unknown_name(kind, name, known)


def first_mistake(error: ValidationError) -> str:
    """Where the first mistake in a file is and what, such as 'degrees.kept: field required'."""
    first = error.errors(include_url=False, include_input=False)[0]
    where = shown(".".join(map(str, first["loc"]))) or "the file"
    what = first["msg"].removeprefix("Value error, ")  # then it is our own sentence
    what = what[:1].lower() + what[1:] if what == first["msg"] else what
    return f"{where}: {shown(what, 500)}"


def first_refusal(error: ValidationError) -> ErrorDetails:
    """What pydantic refuses first; if that is a check of ours, its own `InputError` is raised instead."""
    first = error.errors()[0]
    cause = first.get("ctx", {}).get("error")
    if isinstance(cause, InputError):
        raise cause from None
    return first


def how_to_install(error: ModuleNotFoundError) -> str:
    """What to install where a package is missing: the extra of sparsebert that brings it, or its own name."""
    package = (error.name or "").partition(".")[0].replace("_", "-")
    with suppress(metadata.PackageNotFoundError):  # of a copy that was not installed, such as a bundle's
        for requirement in metadata.requires("sparsebert") or []:
            name = re.split(r"[^\w.-]", requirement)[0].replace("_", "-").lower()
            if name == package.lower() and (extra := re.search("extra == ['\"](.+?)['\"]", requirement)):
                return f"this needs the package {package}; write pip install 'sparsebert[{extra[1]}]'"
    return f"this needs the package {package}, which is not installed; write pip install {package}"
