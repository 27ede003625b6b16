"""What the commands share: how they answer wrong input, and the options that several take."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import click

from sparsebert.errors import ChapterError, InputError


class Sparsebert(click.Group):
    """A group that answers wrong input with one sentence and exit code 2, a failed chapter with code 1."""

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except InputError as error:
            failure = click.ClickException(str(error))
            failure.exit_code = 2
            raise failure from None
        except ModuleNotFoundError as error:
            if not error.name or error.name.startswith("sparsebert"):
                raise
            failure = click.ClickException(f"this needs the package {error.name}, which is not installed")
            failure.exit_code = 2
            raise failure from error
        except ChapterError as error:
            raise click.ClickException(str(error)) from None


class RunCommand(click.Command):
    """A command with one option for each field of `RunConfig`, handed to it as the dictionary `fields`."""

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        return [*self._run_options(), *super().get_params(ctx)]

    def _run_options(self) -> list[click.Parameter]:
        from sparsebert.runs import RunConfig

        fields = {name: field for name, field in RunConfig.model_fields.items() if name != "degrees"}
        learn = click.Option(
            ["--learn-degrees"],
            is_flag=True,
            expose_value=False,
            callback=_collect,
            help="Learn the degrees of the pattern `learned`; the plan is then by default "
            "'learned | global(cls)'. The options below say how, and each implies this one.",
        )
        return [
            *_options(fields, _collect),
            learn,
            *_options(RunConfig.degree_fields(), _collect_degrees),
        ]


def _options(fields: dict, callback: Callable) -> list[click.Option]:
    """An option for each field of a pydantic model."""
    return [
        click.Option(
            [f"--{name.replace('_', '-')}", name],
            help=field.description + ("" if field.default is None else f"  [default: {field.default}]"),
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


def config_of(ctx: click.Context, **defaults: object):
    from sparsebert.runs import RunConfig

    given = ctx.obj or {}
    fields, degrees = dict(given.get("fields", {})), given.get("degrees", {})
    if fields.pop("learn_degrees", False) or degrees:
        defaults |= {"plan": "learned | global(cls)", "degrees": degrees}
    return RunConfig.checked(**defaults | fields)


def _from_prepared(ctx: click.Context, option: click.Parameter, folder: str | None) -> None:
    """Name the folder to this process and those it starts, until the command ends."""
    if folder is None:
        return
    before = os.environ.get("SPARSEBERT_PREPARED_DIR")
    os.environ["SPARSEBERT_PREPARED_DIR"] = str(Path(folder).expanduser().absolute())

    def restore() -> None:
        del os.environ["SPARSEBERT_PREPARED_DIR"]
        if before is not None:
            os.environ["SPARSEBERT_PREPARED_DIR"] = before

    ctx.call_on_close(restore)


prepared_option = click.option(
    "--prepared",
    metavar="DIR",
    expose_value=False,
    callback=_from_prepared,
    help="Read tasks from what `sparsebert prepare` wrote there; or set SPARSEBERT_PREPARED_DIR.",
)
data_dir_option = click.option(
    "--data-dir",
    metavar="DIR",
    help="Folder with GLUE tasks and IMDB (SST-2/, MRPC/, ...); or set SPARSEBERT_DATA_DIR.",
)
runs_dir_option = click.option(
    "--runs-dir", metavar="DIR", help="Folder of run records; or set SPARSEBERT_RUNS_DIR.  [default: runs/]"
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON on standard output.")
