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

Lists multiply inside `degrees`, too. In a plan `{seed}` stands for the run's seed, so that each seed has a
random graph of its own: `random(2, seed={seed}) | global(cls)`. A run that several grids ask for is made
once. What a run is for can be said by `labels`, such as `labels: {treatment: named heads}`; they are kept in
its record.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import TypeAdapter, ValidationError

from sparsebert.degrees import DegreeConfig
from sparsebert.errors import InputError, about, shown, unknown_name
from sparsebert.reading import plain_yaml, read_yaml
from sparsebert.study.results import recorded_as
from sparsebert.training.runs import RunConfig

_PARTS = ("zip", "exclude", "grids")
_MOST_RUNS = 100_000  # of a grid
_SEED = "{seed}"  # in a plan: the run's seed

Fields = dict[str, Any]


def load_grid(path: str | Path) -> list[RunConfig]:
    """The runs that a grid file asks for, in its order: zipped blocks vary slowest, the last field fastest.

    `recorded:NAME` asks for those of `book/results/NAME.jsonl`, to make them again. Raises `InputError` with
    the place of what is wrong: a file that cannot be read, a field that does not exist, a value that no run
    can have, a condition that leaves nothing out, lists that multiply to more than 100,000 runs.
    """
    kind, _, name = str(path).partition(":")
    if kind == "recorded":
        return [record.config for record in recorded_as(name)]
    return expand_grid(read_yaml(path, "the grid"), shown(Path(path)))


def expand_grid(grid: Fields, place: str = "grid") -> list[RunConfig]:
    """The runs of a grid as `load_grid` reads it; `place` is what it is called in a refusal."""
    shared = _fields(grid, place, _PARTS)
    several = shared.pop("grids", [{}])
    if not isinstance(several, list) or not several:
        raise InputError(f"{place}, grids: write a list with an item for each grid")
    conditions = _conditions(shared.pop("exclude", []), f"{place}, exclude")
    blocks = _as_list(shared.pop("zip", []))
    met: set[str] = set()
    configs: dict[RunConfig, RunConfig] = {}
    for number, item in enumerate(several, 1):
        here = f"{place}, grids, item {number}" if "grids" in grid else place
        own = _fields(item, here, _PARTS[:-1])
        its_conditions = _conditions(own.pop("exclude", []), f"{here}, exclude")
        its_blocks = [*blocks, *_as_list(own.pop("zip", []))]
        for fields in _product([shared, own], its_blocks, here):
            left_out = {p for p, wanted in (conditions | its_conditions).items() if _meets(fields, wanted)}
            met |= left_out
            if not left_out:
                config = _config(_seeded(fields, fields.get("seed", 0)), here)
                with about(f"{here}, labels"):
                    configs[config] = config.labelled(configs.get(config, config).labels)
        _refuse_idle(its_conditions, met)
    _refuse_idle(conditions, met)
    if not configs:
        raise InputError(f"{place}: every run is excluded")
    return list(configs.values())


def only(configs: list[RunConfig], wanted: Sequence[str]) -> list[RunConfig]:
    """The runs with the values of `wanted`, such as `task=glue/qnli`; values of one field are alternatives.

    Raises `InputError` for a field or value that no run can have, and if no run is left.
    """
    if not wanted:
        return configs
    values: Fields = {}
    for text in wanted:
        name, equals, value = text.partition("=")
        if not equals:
            raise InputError(f"--only {shown(text)}: write a field and its value, such as task=reviews")
        _fields({name: value}, f"--only {shown(text)}")
        value = plain_yaml(value, f"--only {shown(text)}")
        values.setdefault(name, []).extend(_values(name, value, f"--only, {name}"))
    left = [config for config in configs if _meets(config.model_dump(), values)]
    if not left:
        raise InputError(f"no run of the grid has {' and '.join(map(shown, wanted))}")
    return left


def _product(given: list[Fields], blocks: list[Fields], place: str) -> Iterator[Fields]:
    """The fields of each run: of every zipped block and of every list, one item at a time.

    Of fields that are `given` several times the last counts, but labels are joined.
    """
    columns: dict[str, list[Fields]] = {}
    for part in given:
        for name, value in part.items():
            values = [{name: one} for one in _values(name, value, f"{place}, {name}")]
            if name == "labels" and name in columns:
                values = [_joined(row) for row in itertools.product(columns[name], values)]
            columns[name] = values
    rows, seen = [], set(columns)
    for number, block in enumerate(blocks, 1):
        here = f"{place}, zip, item {number}"
        if not (block := _fields(block, here)):
            raise InputError(f"{here} is empty; remove it")
        if twice := seen & set(block) - {"labels"}:
            raise InputError(f"{here}: '{min(twice)}' is given twice; leave it in one place")
        seen |= set(block)
        zipped = {name: _values(name, value, f"{here}, {name}") for name, value in block.items()}
        if len({len(column) for column in zipped.values()}) > 1:
            lengths = ", ".join(f"{name} has {len(column)}" for name, column in zipped.items())
            raise InputError(f"{here}: zipped lists need the same number of items, and {lengths}")
        rows.append([dict(zip(zipped, row, strict=True)) for row in zip(*zipped.values(), strict=True)])
    return map(_joined, _multiplied([*rows, *columns.values()], place))


def _joined(parts: Sequence[Fields]) -> Fields:
    fields = {name: value for part in parts for name, value in part.items()}
    if "labels" in fields:
        fields["labels"] = {k: v for part in parts for k, v in part.get("labels", {}).items()}
    return fields


def _multiplied(columns: Sequence[list[Any]], place: str) -> Iterator[tuple]:
    number = math.prod(map(len, columns))
    if number > _MOST_RUNS:
        raise InputError(
            f"{place}: the lists multiply to {number:,} runs, and {_MOST_RUNS:,} may be; split it"
        )
    return itertools.product(*columns)


def _values(name: str, given: Any, place: str) -> list[Any]:
    """The values of a field as a run has them; of degrees only what was given, its lists multiplied out."""
    values = []
    for number, item in enumerate(_not_empty(given, place), 1):
        here = f"{place}, item {number}" if isinstance(given, list) else place
        if name != "degrees" or item is None:
            value = getattr(_config(_seeded({name: item}, 0), here), name)
            values.append(item if _SEED in str(item) else value)
        elif isinstance(item, dict):
            columns = [
                [_degree_value(inner, value, here) for value in _not_empty(column, f"{here}, {inner}")]
                for inner, column in item.items()
            ]
            values += [dict(zip(item, row, strict=True)) for row in _multiplied(columns, here)]
        else:
            raise InputError(f"{here}: write fields of degrees, such as 'target_density: [0.1, 0.2]'")
    return values


def _degree_value(name: str, value: Any, place: str) -> Any:
    field = DegreeConfig.model_fields.get(name)
    if field is None:
        raise InputError(f"{place}: {unknown_name('field of degrees', name, DegreeConfig.model_fields)}")
    try:
        return TypeAdapter(Annotated[field.annotation, field]).validate_python(value)
    except ValidationError as error:
        raise InputError(f"{place}: {name}={shown(value)}: {error.errors()[0]['msg'].lower()}") from None


def _config(fields: Fields, place: str) -> RunConfig:
    # Values that are fine by themselves, but not together, are of degrees.
    with about(f"{place}, degrees" if len(fields) > 1 else place):
        return RunConfig.checked(**fields)


def _seeded(fields: Fields, seed: int) -> Fields:
    plan = fields.get("plan")
    return fields | {"plan": plan.replace(_SEED, str(seed))} if isinstance(plan, str) else fields


def _meets(fields: Fields, wanted: Fields) -> bool:
    """Whether a run of these fields has one of the values that are wanted of each."""
    for name, values in wanted.items():
        value = fields.get(name, RunConfig.model_fields[name].default)
        if isinstance(value, dict) and name == "degrees":
            value = {inner: field.default for inner, field in DegreeConfig.model_fields.items()} | value
            if not any(each and each.items() <= value.items() for each in values):
                return False
        elif name == "plan":
            seed = fields.get("seed", 0)
            if _with_seed(value, seed) not in [_with_seed(each, seed) for each in values]:
                return False
        elif value not in values:
            return False
    return True


def _with_seed(plan: str, seed: int) -> str:
    """A plan as a run of that seed has it."""
    return _config(_seeded({"plan": plan}, seed), "plan").plan if _SEED in plan else plan


def _conditions(given: Any, place: str) -> dict[str, Fields]:
    """By its place, each condition on which a run is left out: fields with the values that it must have."""
    conditions = {}
    for number, item in enumerate(_as_list(given), 1):
        here = f"{place}, item {number}"
        if not (fields := _fields(item, here)):
            raise InputError(f"{here} is empty; name a field and its values, or remove it")
        conditions[here] = {name: _values(name, value, f"{here}, {name}") for name, value in fields.items()}
    return conditions


def _refuse_idle(conditions: dict[str, Fields], met: set[str]) -> None:
    for place in conditions:
        if place not in met:
            raise InputError(f"{place} leaves no run out; fix it or remove it")


def _fields(given: Any, place: str, also: tuple[str, ...] = ()) -> Fields:
    """A copy of a mapping whose keys are fields of a run, or the parts of a grid that are allowed `also`."""
    if not isinstance(given, dict):
        raise InputError(f"{place}: write fields of a run with their values, such as 'seed: [0, 1, 2]'")
    for name in given:
        if name not in RunConfig.model_fields and name not in also:
            raise InputError(f"{place}: {unknown_name('field', str(name), (*RunConfig.model_fields, *also))}")
    return dict(given)


def _not_empty(given: Any, place: str) -> list[Any]:
    items = _as_list(given)
    if not items:
        raise InputError(f"{place}: the list is empty; leave the field out for its default")
    if len(items) > _MOST_RUNS:
        raise InputError(f"{place}: the list has {len(items):,} items, and {_MOST_RUNS:,} may be; split it")
    return items


def _as_list(given: Any) -> list[Any]:
    return given if isinstance(given, list) else [given]
