"""What a notebook can be asked: the parameters in its own cell, and the profiles that change several at once.

A notebook's parameters stand in one cell tagged `parameters`, each a typed literal with a comment:

    train_size: int = 800  # [16..1000000] training rows; time grows in proportion

`[lo..hi]` or `[one|two]` at the head of the comment is what values are held to; in a list, each of its items.
A list must hold something unless the comment says that it may be empty.
Values come from three places, the later winning: the cell, the profile (`notebooks/profiles.yaml`), the
command line.
"""

from __future__ import annotations

import ast
import io
import json
import re
import tokenize
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError

from sparsebert.chapters.notebooks import read_notebook
from sparsebert.errors import InputError, about, check_names, first_mistake, shown
from sparsebert.reading import plain_yaml, read_yaml

PROFILES = ("smoke", "quick", "full")  # quick is what the notebooks' own cells say
TYPES: dict[str, Any] = {
    name + optional: (kind | None if optional else kind)
    for scalar in (bool, int, float, str)
    for name, kind in ((scalar.__name__, scalar), (f"list[{scalar.__name__}]", list[scalar]))
    for optional in ("", " | None")
}

# What chapter 03's parameters are whose names say something else.
_KINDS = {"stepwise": "pattern", "uncontrolled": "placement", "from_layers": "placement"}


@dataclass(frozen=True)
class Parameter:
    """One line of a notebook's `parameters` cell."""

    name: str
    type_name: str  # a key of TYPES
    default: Any
    help: str  # the comment, without the bracket at its head
    allowed: str = ""  # that bracket: `16..1000000`, `0..`, `all|early|late`, or nothing

    @property
    def choices(self) -> list[str]:
        return [choice.strip() for choice in self.allowed.split("|")] if "|" in self.allowed else []

    @property
    def bounds(self) -> tuple[float, float]:
        low, _, high = self.allowed.partition("..") if ".." in self.allowed else ("", "", "")
        return float(low or "-inf"), float(high or "inf")


def parameters_of(notebook: Path) -> dict[str, Parameter]:
    """The parameters that a notebook takes, in the order of its cell; empty if it has no such cell.

    Raises `InputError` if the cell holds anything but typed literals with a comment each. It is not read with
    `papermill.inspect_notebook`, which skips a line with two equals signs: `p: str = "random(3, seed=1)"`.
    """
    cells = [cell for cell in read_notebook(notebook).cells if "parameters" in cell.metadata.get("tags", [])]
    source = cells[0].source if cells else ""
    where = f"the parameters cell of {notebook.stem}"
    try:
        statements = ast.parse(source).body
        tokens = list(tokenize.generate_tokens(io.StringIO(source).readline))
    except (SyntaxError, tokenize.TokenError) as error:
        raise InputError(f"{where} is not Python: {error}") from None
    comments = {token.start[0]: token.string[1:] for token in tokens if token.type == tokenize.COMMENT}
    parameters = {}
    for statement in statements:
        text = ast.get_source_segment(source, statement).splitlines()[0]
        if not isinstance(statement, ast.AnnAssign) or statement.value is None:
            raise InputError(f"{where} holds '{text}'; write each line as `name: type = literal  # meaning`")
        name, type_name = ast.unparse(statement.target), ast.unparse(statement.annotation)
        if type_name not in TYPES:
            raise InputError(f"{where} gives {name} the type {type_name}; the types are {', '.join(TYPES)}")
        try:
            value = ast.literal_eval(statement.value)
        except ValueError:
            raise InputError(f"{where} gives {name} a value that is computed; write a literal") from None
        own = [line for line in range(statement.lineno, statement.end_lineno + 1) if line in comments]
        comment = " ".join(comments[line].strip() for line in own)
        allowed, text = re.fullmatch(r"(?:\[([^]]*(?:\.\.|\|)[^]]*)\])?\s*(.*)", comment).groups()
        if not text:
            raise InputError(f"{where} says nothing about {name}; add a comment: meaning, range and cost")
        number = r"([-+]?\d+(\.\d+)?(e[-+]?\d+)?)?"
        if allowed and "|" not in allowed and not re.fullmatch(rf"{number}\.\.{number}", allowed):
            raise InputError(f"{where} gives {name} the range [{shown(allowed)}]; write numbers: [low..high]")
        parameters[name] = Parameter(name, type_name, value, text, allowed or "")
    return parameters


def parse_parameters(
    notebook: Path, texts: Mapping[str, str] | None = None, profile: str = "quick"
) -> dict[str, Any]:
    """The value of every parameter of a notebook: its own, changed by the profile, changed by `texts`.

    `texts` are values as a person types them, `{"train_size": "500"}`. They are read as YAML, but where a
    parameter is a string the text stands for itself. Raises `InputError` for an unknown profile, a name that
    the notebook doesn't take, and a value of the wrong type or out of range.
    """
    stem, known, changes, texts = (
        notebook.stem,
        parameters_of(notebook),
        _profile(notebook, profile),
        texts or {},
    )
    for name in (*changes, *texts):
        if not known:
            raise InputError(f"{stem} takes no parameters, so not '{name}'")
        check_names(f"{stem} parameter", [name], known)
    values: dict[str, Any] = {}
    for where, given in (
        (f"the parameters cell of {stem}", {name: known[name].default for name in known}),
        (f"profile {profile} of {stem}", changes),
        (stem, {name: _from_text(known[name], text) for name, text in texts.items()}),
    ):
        for name, value in given.items():
            _check(known[name], value, where)
        values |= given
    for name, value in values.items():
        for item in value if isinstance(value, list) else [value]:
            with about(f"{stem}: parameter '{name}'"):
                _check_meaning(name, item)
    return values


def _profile(notebook: Path, profile: str) -> dict[str, Any]:
    """What a profile changes in a notebook, as `profiles.yaml` beside it says."""
    check_names("profile", [profile], PROFILES)
    file = notebook.parent / "profiles.yaml"
    profiles = (file.is_file() and read_yaml(file)) or {}
    try:
        TypeAdapter(dict[str, dict[Literal[PROFILES], dict[str, Any]]]).validate_python(profiles)
    except ValidationError as error:
        raise InputError(f"{file}: {first_mistake(error)}") from None
    return profiles.get(notebook.stem, {}).get(profile, {})


def _from_text(parameter: Parameter, text: str) -> Any:
    if parameter.type_name.endswith("| None") and text.strip().lower() in ("", "none", "null", "~"):
        return None
    # A plan is full of characters that mean something in YAML: a string without quotes is taken as it is.
    plain = text.strip()[:1] not in ("'", '"')
    if parameter.type_name.startswith("str") and plain:
        return text.strip()
    if parameter.type_name.startswith("list[str]") and plain and not text.lstrip().startswith("["):
        return [text.strip()]
    try:
        value = plain_yaml(text, "YAML")
    except InputError as error:
        raise _wrong(parameter, f"'{shown(text)}' can't be read ({error})") from None
    strings = [item for item in value if isinstance(item, str)] if isinstance(value, list) else []
    if any(item.count("(") != item.count(")") for item in strings):
        raise _wrong(parameter, "an item with a comma in it needs quotes")
    return value


def _check(parameter: Parameter, value: Any, where: str) -> None:
    """Type and range."""
    strict = ConfigDict(strict=True, allow_inf_nan=False)
    try:
        TypeAdapter(TYPES[parameter.type_name], config=strict).validate_python(value)
    except ValidationError:
        raise _wrong(parameter, f"{shown(repr(value))} is not {parameter.type_name}", where) from None
    if value == [] and "may be empty" not in parameter.help:
        raise _wrong(parameter, "an empty list leaves nothing to do", where)
    low, high = parameter.bounds
    for item in value if isinstance(value, list) else [value]:
        if parameter.choices and item is not None and str(item) not in parameter.choices:
            raise _wrong(parameter, f"{shown(repr(item))} is none of {', '.join(parameter.choices)}", where)
        if isinstance(item, int | float) and not low <= item <= high:
            raise _wrong(parameter, f"{item} is not in {parameter.allowed}", where)


def _check_meaning(name: str, value: Any) -> None:
    """`InputError` for what is no task, encoder, plan, placement or pattern.

    What a value is its parameter's name says, in the singular or the plural.
    """
    if value is None:
        return
    from sparsebert.data.tasks import get_task  # late, as all of these: they bring torch
    from sparsebert.models.encoders import check_encoder
    from sparsebert.patterns import parse_pattern
    from sparsebert.patterns.plans import Placement, parse_plan

    kind = _KINDS.get(name, name.removesuffix("s"))
    if kind == "task":
        get_task(value)
    elif kind == "encoder":
        check_encoder(value)
    elif kind == "pattern":
        parse_pattern(value)
    elif kind == "plan":
        parse_plan(value)
    elif kind == "placement":
        Placement(value if isinstance(value, str) else f"{value}-")


def _wrong(parameter: Parameter, what: str, where: str = "") -> InputError:
    text = json.dumps(parameter.default) if isinstance(parameter.default, list) else str(parameter.default)
    example = f"{parameter.name}={text}"
    quoted = f"'{example}'" if re.search(r"[^\w=.,/-]", example) else example
    prefix = f"{where}: " if where else ""
    return InputError(f"{prefix}parameter '{parameter.name}': {what}; write for example {quoted}")
