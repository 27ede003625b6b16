"""The chapters: one with other parameters, or the whole book."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from sparsebert.cli.group import main
from sparsebert.cli.options import folder_options
from sparsebert.errors import InputError, shown

if TYPE_CHECKING:
    from sparsebert.paths import Folders

profile_option = click.option(
    "--profile", default="quick", help="smoke (to rehearse), quick or full (for a GPU)."
)


@main.command(
    epilog="Example: sparsebert run 03_which_connections -p task=headlines -p train_size=500 --out mine.ipynb"
)
@click.argument("notebook")
@click.option(
    "-p", "given", multiple=True, metavar="NAME=VALUE", help="A parameter of the notebook; may be repeated."
)
@profile_option
@click.option(
    "--out", metavar="FILE.ipynb", help="The executed notebook.  [default: NOTEBOOK.executed.ipynb]"
)
@folder_options("data")
def run(notebook: str, given: tuple[str, ...], folders: Folders, **how: str | None) -> None:
    """Run one chapter's notebook with other parameters; the notebook itself is not changed.

    NOTEBOOK is a name such as 03_which_connections, or a path. Values are written as in YAML: 500, 0.1, text,
    [a, b].
    """
    values = {}
    for pair in given:
        name, equals, value = pair.partition("=")
        if not equals:
            raise InputError(f"-p {shown(pair)}: write a parameter as NAME=VALUE, such as -p task=headlines")
        values[name.strip()] = value
    os.environ |= folders.environment
    from sparsebert.chapters import run_notebook

    click.echo(run_notebook(notebook, values, **how))


@main.command()
@profile_option
def book(profile: str) -> None:
    """Run every chapter that has changed and render the book; ends with the path of its index.html."""
    from sparsebert.chapters import build_book

    click.echo(build_book(profile=profile))
