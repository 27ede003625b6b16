"""Grids: many runs written as one YAML file, over the fields of `RunConfig`.

    task: [reviews, headlines]     # lists multiply
    seed: [0, 1, 2]
    zip:                           # the lists of a block go hand in hand, and vary slowest
      - plan: [dense, neighbour(2) | global(cls)]
        learning_rate: [1e-4, 5e-5]
    exclude:                       # a run that meets all of a condition is left out
      - {task: headlines, seed: [1, 2]}
    grids:                         # several grids; what stands outside holds for each of them
      - {train_size: 1000}
      - {train_size: 8000, seed: 0}

Lists multiply inside `degrees`, too. A run that several grids ask for is made once. What a run is for can be
said by `labels`, such as `labels: {treatment: named heads}`; they are kept in its record.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from sparsebert.errors import InputError, shown, unknown_name
from sparsebert.reading import plain_yaml, read_text
from sparsebert.training.runs import RunConfig

_PARTS = ("zip", "exclude", "grids")
_MOST_RUNS = 100_000  # of a product of lists

Fields = dict[str, Any]


def load_grid(path: str | Path) -> list[RunConfig]:
    """The runs that a grid file asks for, in its order: zipped blocks vary slowest,
    the last field fastest.

    Raises `InputError` with the place of what is wrong: a file that cannot be read, a field that does not
    exist, a value that no run can have, a condition that leaves nothing out.
    """
    place = shown(Path(path))
    return expand_grid(plain_yaml(read_text(path, "the grid"), place), place)


def expand_grid(grid: Fields, place: str = "grid") -> list[RunConfig]:
    """The runs of a grid as `load_grid` reads it; `place` is what it is called in a refusal."""
    shared = _fields(grid, place, _PARTS)
    several = shared.pop("grids", [{}])
    if not isinstance(several, list) or not several:
        raise InputError(f"{place}, grids: write a list with an item for each grid")
    conditions = _conditions(shared.pop("exclude", []), f"{place}, exclude")
    blocks = shared.pop("zip", [])
    configs: dict[RunConfig, RunConfig] = {}
    for number, item in enumerate(several, 1):
        here = f"{place}, grids, item {number}" if "grids" in grid else place
        own = _fields(item, here, _PARTS[:-1])
        its_conditions = _conditions(own.pop("exclude", []), f"{here}, exclude")
        its_blocks = [*_as_list(blocks), *_as_list(own.pop("zip", []))]
        together = shared | own
        if isinstance(shared.get("labels"), dict) and isinstance(own.get("labels"), dict):
            together["labels"] = shared["labels"] | own["labels"]
        for fields in _product(together, its_blocks, here):
            excluded = [condition for condition in conditions + its_conditions if condition.met_by(fields)]
            for condition in excluded:
                condition.used = True
            if not excluded:
                config = _config(fields, here)
                if config in configs:
                    config = _labelled(config, configs[config].labels, here)
                configs[config] = config
        _refuse_idle(its_conditions)
    _refuse_idle(conditions)
    if not configs:
        raise InputError(f"{place}: every run is excluded")
    return list(configs.values())


def only(configs: list[RunConfig], wanted: Sequence[str]) -> list[RunConfig]:
    """The runs with the values of `wanted`, such as `task=glue/qnli`; values of one field are alternatives.

    Raises `InputError` for a field or value that no run can have, and if no run is left.
    """
    values: dict[str, list[Any]] = {}
    for text in wanted:
        name, equals, value = text.partition("=")
        if not equals:
            raise InputError(f"--only {shown(text)}: write a field and its value, such as task=reviews")
        _fields({name: value}, f"--only {shown(text)}")
        values.setdefault(name, []).append(plain_yaml(value, f"--only {shown(text)}"))
    if not wanted:
        return configs
    condition = _Condition(values, "--only")
    left = [config for config in configs if condition.met_by(config.model_dump())]
    if not left:
        raise InputError(f"no run of the grid has {' and '.join(wanted)}")
    return left


def _product(fields: Fields, blocks: list[Fields], place: str) -> Iterator[Fields]:
    """The fields of each run: of every zipped block and of every list, one item at a time."""
    lists = [
        [{name: value} for value in _values(name, given, f"{place}, {name}")]
        for name, given in fields.items()
    ]
    rows, seen = [], set(fields)
    for number, block in enumerate(blocks, 1):
        here = f"{place}, zip, item {number}"
        if not (block := _fields(block, here)):
            raise InputError(f"{here} is empty; take it away")
        if twice := seen & set(block) - {"labels"}:
            raise InputError(f"{here}: '{min(twice)}' is given twice; leave it in one place")
        seen |= set(block)
        columns = {name: _as_list(given) for name, given in block.items()}
        if len({len(column) for column in columns.values()}) > 1:
            lengths = ", ".join(f"{name} has {len(column)}" for name, column in columns.items())
            raise InputError(
                f"{here}: zipped lists need the same number of items, and {lengths or 'there are none'}"
            )
        for name, column in columns.items():
            for item, value in enumerate(column, 1):
                _check_value(name, value, f"{here}, {name}, item {item}")
        rows.append([dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)])
    for parts in _product_of([*rows, *lists], place):
        fields = {name: value for part in parts for name, value in part.items()}
        labels = [part["labels"] for part in parts if "labels" in part]
        yield fields | ({"labels": {k: v for each in labels for k, v in each.items()}} if labels else {})


def _product_of(columns: list[list[Any]], place: str) -> Iterator[tuple]:
    number = math.prod(map(len, columns))
    if number > _MOST_RUNS:
        raise InputError(
            f"{place}: the lists multiply to {number:,} runs, and {_MOST_RUNS:,} may be; split it"
        )
    return itertools.product(*columns)


def _values(name: str, given: Any, place: str) -> list[Any]:
    """The values of a field, each checked by itself; lists inside `degrees` are multiplied out."""
    items = _as_list(given)
    if not items:
        raise InputError(f"{place}: the list is empty; leave the field out for its default")
    values = []
    for number, item in enumerate(items, 1):
        here = f"{place}, item {number}" if isinstance(given, list) else place
        if name == "degrees" and isinstance(item, dict):
            for inner in item:
                if inner not in RunConfig.degree_fields():
                    error = unknown_name("field of degrees", str(inner), RunConfig.degree_fields())
                    raise InputError(f"{here}: {error}")
            columns = [_as_list(value) for value in item.values()]
            for inner, column in zip(item, columns, strict=True):
                if not column:
                    raise InputError(
                        f"{here}, {inner}: the list is empty; leave the field out for its default"
                    )
            values += [dict(zip(item, row, strict=True)) for row in _product_of(columns, here)]
        elif name == "degrees" and item is not None:
            raise InputError(f"{here}: write fields of degrees, such as 'target_density: [0.1, 0.2]'")
        else:
            _check_value(name, item, here)
            values.append(item)
    return values


def _check_value(name: str, value: Any, place: str) -> Any:
    """A value as a run has it: a plan in its usual form, 1e-4 as a number."""
    try:
        return getattr(RunConfig.checked(**{name: value}), name)
    except InputError as error:
        raise InputError(f"{place}: {error}") from None


def _config(fields: Fields, place: str) -> RunConfig:
    try:
        return RunConfig.checked(**fields)
    except InputError as error:  # the values are fine by themselves, but not together
        raise InputError(f"{place}, degrees: {error}") from None


def _labelled(config: RunConfig, labels: dict[str, str], place: str) -> RunConfig:
    try:
        return config.labelled(labels)
    except InputError as error:
        raise InputError(f"{place}, labels: {error}") from None


class _Condition:
    """Fields with the values that a run must have to be left out."""

    def __init__(self, fields: Fields, place: str):
        if not fields:
            raise InputError(f"{place} is empty; name a field and its values, or take it away")
        self.place, self.used = place, False
        self.wanted = {
            name: [_canonical(name, value, f"{place}, {name}") for value in _as_list(given)]
            for name, given in fields.items()
        }

    def met_by(self, fields: Fields) -> bool:
        for name, wanted in self.wanted.items():
            value = fields.get(name, RunConfig.model_fields[name].default)
            if not any(_agree(_canonical(name, value, self.place), each) for each in wanted):
                return False
        return True


def _canonical(name: str, value: Any, place: str) -> Any:
    """A value as a run has it, but degrees with what was given alone."""
    if name == "degrees" and isinstance(value, dict):
        known = RunConfig.degree_fields()
        for inner in value:
            if inner not in known:
                raise InputError(f"{place}: {unknown_name('field of degrees', str(inner), known)}")
        return {
            inner: [_coerced(known[inner].annotation, each, f"{place}, {inner}") for each in _as_list(given)]
            for inner, given in value.items()
        }
    return _check_value(name, value, place)


def _coerced(annotation: Any, value: Any, place: str) -> Any:
    try:
        return TypeAdapter(annotation).validate_python(value)
    except ValueError:
        raise InputError(f"{place}: {value} is not a value of this field") from None


def _agree(value: Any, wanted: Any) -> bool:
    if not isinstance(wanted, dict):
        return value == wanted
    if not isinstance(value, dict):
        return False
    defaults = {name: [field.default] for name, field in RunConfig.degree_fields().items()}
    return all((defaults | value)[name][0] in allowed for name, allowed in wanted.items())


def _conditions(given: Any, place: str) -> list[_Condition]:
    return [
        _Condition(_fields(item, f"{place}, item {number}"), f"{place}, item {number}")
        for number, item in enumerate(_as_list(given), 1)
    ]


def _refuse_idle(conditions: list[_Condition]) -> None:
    for condition in conditions:
        if not condition.used:
            raise InputError(f"{condition.place} leaves no run out; fix it or take it away")


def _fields(given: Any, place: str, also: tuple[str, ...] = ()) -> Fields:
    """A copy of a mapping whose keys are fields of a run, or the parts of a grid that are allowed `also`."""
    if not isinstance(given, dict):
        raise InputError(f"{place}: write fields of a run with their values, such as 'seed: [0, 1, 2]'")
    for name in given:
        if name not in RunConfig.model_fields and name not in also:
            raise InputError(f"{place}: {unknown_name('field', str(name), (*RunConfig.model_fields, *also))}")
    return dict(given)


def _as_list(given: Any) -> list[Any]:
    return given if isinstance(given, list) else [given]
