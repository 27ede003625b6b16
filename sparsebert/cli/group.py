"""How the command line answers when something is wrong: a sentence, and an exit code that says what kind."""

from __future__ import annotations

import os
import sys
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import click

from sparsebert import __version__
from sparsebert.errors import ChapterError, InputError, how_to_install, shown

# Torch reads it when it is imported; its profiler warns of tensors that are older than it is.
os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")

LONGEST_LINE = 1000  # of a message, which may repeat what was typed
HELP = {"help_option_names": ["-h", "--help"], "max_content_width": 110, "show_default": True}


class Sentences(click.Command):
    """A command that ends in a sentence and an exit code whatever happens.

    2: the input is wrong; 1: a chapter failed, standard output cannot be written, or something that nobody
    foresaw, whose traceback is then kept in a file and shown with `--debug`; 130: Ctrl-C.
    """

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        for argument in args:
            if argument.encode(errors="replace").decode() != argument:
                raise click.UsageError(f"{shown(argument)} is not text in UTF-8; write it in UTF-8")
        with _in_a_sentence(ctx):
            return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> object:
        with _in_a_sentence(ctx):
            return super().invoke(ctx)


class Sparsebert(Sentences, click.Group):
    """A group whose commands end so."""


@contextmanager
def _in_a_sentence(ctx: click.Context) -> Iterator[None]:
    """Turns whatever is raised into what click shows and exits with."""
    try:
        yield
        if sys.stdout:
            sys.stdout.flush()
    except click.UsageError as error:  # which repeats the input
        error.message = shown(error.message, LONGEST_LINE)
        raise
    except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):
        raise
    except InputError as error:
        lines = [shown(line, LONGEST_LINE) for line in str(error).splitlines()]
        raise _failure("\n".join(lines), 2) from None
    except ModuleNotFoundError as error:
        if not error.name or error.name.startswith("sparsebert"):
            raise _unforeseen(ctx, error) from None
        raise _failure(how_to_install(error), 2) from error
    except ChapterError as error:
        raise _failure(str(error)) from None
    except KeyboardInterrupt:
        click.echo("interrupted: what was recorded until then is kept", err=True)
        raise SystemExit(130) from None
    except Exception as error:
        if isinstance(error, OSError) and not error.filename and _output_is_full():
            raise _failure(f"standard output cannot be written: {error.strerror}") from None
        raise _unforeseen(ctx, error) from None


def _failure(message: str, code: int = 1) -> click.ClickException:
    failure = click.ClickException(message)
    failure.exit_code = code
    return failure


def _unforeseen(ctx: click.Context, error: Exception) -> click.ClickException:
    """A sentence for an error that the code has no sentence for; its traceback goes into a file."""
    details = "".join(traceback.format_exception(error))
    if ctx.params.get("debug"):
        click.echo(details, err=True)
    command = ctx.invoked_subcommand or ctx.info_name
    what = f"{command} failed unexpectedly: {type(error).__name__}: {shown(error, 300)}"
    with suppress(OSError):
        handle, path = tempfile.mkstemp(prefix="sparsebert-", suffix=".log")
        with open(handle, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(f"{sys.argv}\n{details}")
        return _failure(f"{what}; please report it with the details in {path}")
    return _failure(f"{what}; please report it with what `sparsebert --debug ...` prints")


def _output_is_full() -> bool:
    """Whether standard output takes no more; what it did not take is dropped, or it would be tried again."""
    try:
        click.echo()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return True
    return False


@click.group(cls=Sparsebert, context_settings=HELP)
@click.version_option(__version__, prog_name="sparsebert")
@click.option("--debug", is_flag=True, help="Show the traceback of an unexpected error.")
def main(debug: bool) -> None:
    """Which attention connections does an encoder need, how many, and can they be learned?

    Start with `sparsebert doctor`, then `sparsebert book` (the whole book) or `sparsebert run NOTEBOOK`
    (one chapter with your parameters) or `sparsebert finetune` (one run).
    """
