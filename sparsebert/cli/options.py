"""Options that several commands take."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from sparsebert.errors import InputError

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

    from sparsebert.training.runs import RunConfig


class RunCommand(click.Command):
    """A command with one option for each field of `RunConfig`, from which `config_of` makes the config.

    `run_defaults` are defaults of its own. With `learns=False` it has no options about learned degrees.
    """

    def __init__(
        self,
        *args: object,
        run_defaults: dict[str, object] | None = None,
        learns: bool = True,
        **options: object,
    ):
        super().__init__(*args, **options)
        self.run_defaults, self.learns = run_defaults or {}, learns

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        return [*self._run_options(), *super().get_params(ctx)]

    def _run_options(self) -> list[click.Parameter]:
        from sparsebert.degrees import DegreeConfig
        from sparsebert.training.runs import RunConfig

        kept = ("degrees", "labels")
        fields = {name: field for name, field in RunConfig.model_fields.items() if name not in kept}
        options = _options(fields, _collect, self.run_defaults)
        if not self.learns:
            return options
        learn = click.Option(
            ["--learn-degrees"],
            is_flag=True,
            expose_value=False,
            callback=_collect,
            help="Learn the degrees of the pattern `learned`; the plan is then by default "
            "'learned | global(cls)'. The options below say how, and each implies this one.",
        )
        return [*options, learn, *_options(DegreeConfig.model_fields, _collect_degrees, {})]


def _options(fields: dict, callback: Callable, defaults: dict[str, object]) -> list[click.Option]:
    """An option for each field of a pydantic model, with its default unless `defaults` has another."""

    def said(name: str, field: FieldInfo) -> str:
        default, text = defaults.get(name, field.default), field.description
        if name in defaults:
            text = re.sub(r" \(default: .*\)", "", text)
        return text if default is None else f"{text}  [default: {default}]"

    return [
        click.Option(
            [f"--{name.replace('_', '-')}", name],
            help=said(name, field),
            metavar="TEXT" if field.annotation is str else "VALUE",
            expose_value=False,
            callback=callback,
        )
        for name, field in fields.items()
    ]


def _collect(ctx: click.Context, option: click.Parameter, value: str | bool | None) -> None:
    if value not in (None, False):
        ctx.ensure_object(dict).setdefault("fields", {})[option.name] = value


def _collect_degrees(ctx: click.Context, option: click.Parameter, value: str | None) -> None:
    if value is not None:
        ctx.ensure_object(dict).setdefault("degrees", {})[option.name] = value


def config_of(ctx: click.Context, **defaults: object) -> RunConfig:
    """The config of a `RunCommand`: what was typed, else `defaults`, else the command's own defaults."""
    from sparsebert.training.runs import RunConfig

    given, defaults = ctx.obj or {}, ctx.command.run_defaults | defaults
    fields, degrees = dict(given.get("fields", {})), given.get("degrees", {})
    if fields.pop("learn_degrees", False) or degrees:
        defaults |= {"plan": "learned | global(cls)", "degrees": degrees}
    return RunConfig.checked(**defaults | fields)


def not_empty(ctx: click.Context, option: click.Parameter, value: str | None) -> str | None:
    """Refuse an empty text, such as that of a variable that is not set."""
    if value == "":
        raise InputError(f"{option.opts[0]} is empty; name a folder, or leave the option out")
    return value


def folder_options(*names: str) -> Callable:
    """Options that name folders (of `data`, `prepared`, `runs`); the command gets them all as `folders`."""

    def decorate(command: Callable) -> Callable:
        @functools.wraps(command)
        def with_folders(*args: object, **given: object) -> object:
            from sparsebert.paths import Folders

            named = {name: given.pop(f"{name}_dir") for name in names}
            return command(*args, folders=Folders.named(**named), **given)

        for name in reversed(names):
            with_folders = _FOLDER_OPTIONS[name](with_folders)
        return with_folders

    return decorate


data_dir_option = click.option(
    "--data-dir",
    metavar="DIR",
    callback=not_empty,
    help="Folder with GLUE tasks and IMDB (SST-2/, MRPC/, ...); or set SPARSEBERT_DATA_DIR.",
)
prepared_option = click.option(
    "--prepared",
    "prepared_dir",
    metavar="DIR",
    callback=not_empty,
    help="Read tasks from what `sparsebert prepare` wrote there; or set SPARSEBERT_PREPARED_DIR.",
)
runs_dir_option = click.option(
    "--runs-dir",
    metavar="DIR",
    callback=not_empty,
    help="Folder of run records; or set SPARSEBERT_RUNS_DIR.  [default: runs/]",
)
_FOLDER_OPTIONS = {"data": data_dir_option, "prepared": prepared_option, "runs": runs_dir_option}
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON on standard output.")
