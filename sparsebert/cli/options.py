"""Options that several commands take, and how commands answer."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from sparsebert.errors import InputError
from sparsebert.paths import Folders

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

    from sparsebert.training.runs import RunConfig


class RunCommand(click.Command):
    """A command with an option for each field of `RunConfig`; it gets the `config`."""

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        return [*_run_options(), *super().get_params(ctx)]

    def invoke(self, ctx: click.Context) -> object:
        typed = {option.name: ctx.params.pop(option.name) for option in _run_options()}
        typed = {name: value for name, value in typed.items() if value not in (None, False)}
        ctx.params["config"] = _config(typed)
        return super().invoke(ctx)


def _run_options() -> list[click.Option]:
    from sparsebert.degrees import DegreeConfig
    from sparsebert.training.runs import RunConfig

    kept = ("degrees", "labels")
    learn = click.Option(
        ["--learn-degrees"],
        is_flag=True,
        help="Learn the degrees of the pattern `learned`; the plan is then by default "
        "'learned | global(cls)'. The options below say how, and each implies this one.",
    )
    own = [_option(*field) for field in RunConfig.model_fields.items() if field[0] not in kept]
    return [*own, learn, *(_option(*field) for field in DegreeConfig.model_fields.items())]


def _option(name: str, field: FieldInfo) -> click.Option:
    default = "" if field.default is None else f"  [default: {field.default}]"
    return click.Option(
        [f"--{name.replace('_', '-')}", name],
        help=f"{field.description}{default}",
        metavar="TEXT" if field.annotation is str else "VALUE",
    )


def _config(typed: dict[str, str | bool]) -> RunConfig:
    from sparsebert.training.runs import RunConfig

    own = {name: value for name, value in typed.items() if name in RunConfig.model_fields}
    learned = {}
    if typed.keys() > own.keys():
        degrees = {name: value for name, value in typed.items() if name not in {*own, "learn_degrees"}}
        learned = {"plan": "learned | global(cls)", "degrees": degrees}
    return RunConfig.checked(**learned | own)


def not_empty(ctx: click.Context, option: click.Parameter, value: str | None) -> str | None:
    """Refuse an empty text, such as that of a variable that is not set."""
    if value == "":
        raise InputError(f"{option.opts[0]} is empty; name a folder, or leave the option out")
    return value


_FOLDERS = {
    "data": "Folder with GLUE tasks and IMDB (SST-2/, MRPC/, ...); or set SPARSEBERT_DATA_DIR.",
    "prepared": "Read tasks from what `sparsebert prepare` wrote there; or set SPARSEBERT_PREPARED_DIR.",
    "runs": "Folder of run records; or set SPARSEBERT_RUNS_DIR.  [default: runs/]",
}


def folder_options(*names: str) -> Callable:
    """Options that name folders (of `data`, `prepared`, `runs`); the command gets them all as `folders`."""

    def decorate(command: Callable) -> Callable:
        @functools.wraps(command)
        def with_folders(*args: object, **given: object) -> object:
            named = {name: given.pop(f"{name}_dir") for name in names}
            return command(*args, folders=Folders.named(**named), **given)

        for name in reversed(names):
            flags = "--prepared" if name == "prepared" else f"--{name}-dir", f"{name}_dir"
            shown = {"metavar": "DIR", "help": _FOLDERS[name]}
            with_folders = click.option(*flags, callback=not_empty, **shown)(with_folders)
        return with_folders

    return decorate


def duration(text: str) -> float:
    """Seconds of a budget such as 2h or 1h30m; `InputError` for anything else."""
    number = r"(\d+(?:\.\d+)?)\s*"
    parts = re.fullmatch(rf"(?:{number}h)?\s*(?:{number}m(?:in)?)?\s*(?:{number}s)?", text.strip().lower())
    numbers = [float(part or 0) for part in parts.groups()] if parts else [0]
    seconds = sum(number * unit for number, unit in zip(numbers, (3600, 60, 1), strict=False))
    if not seconds:
        raise InputError(f"--budget {text}: write a time with its unit, such as 2h, 90min or 1h30m")
    return seconds


def lengths_of(ctx: click.Context, option: click.Parameter, value: str | None) -> list[int]:
    """The callback of an option of lengths such as "512,1k,4k", where 1k is 1,024; in ascending order."""
    lengths = set()
    for part in map(str.strip, value.lower().split(",")) if value is not None else ():
        read = re.fullmatch("([0-9]{1,8})(k?)", part)
        lengths.add(int(read[1]) * (1024 if read[2] else 1) if read else 0)
        if min(lengths) < 1 or max(lengths) > 2**24:
            raise InputError(
                f"{option.opts[0]} {value}: '{part}' is no length; write whole numbers from 1 to {2**24}, "
                "or thousands (1,024) as 1k, with commas between, such as 512,1k,4k"
            )
    return sorted(lengths)


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON on standard output.")


def answer(as_json: bool, data: object, text: object) -> None:
    """Print a result: its data as JSON, in which NaN is null, or else the text."""
    if as_json:
        data = json.loads(json.dumps(data), parse_constant=lambda number: None)
    click.echo(json.dumps(data, indent=1) if as_json else text)
