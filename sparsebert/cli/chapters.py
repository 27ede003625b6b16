"""The chapters: one with other parameters, or the whole book."""

from __future__ import annotations

import os

import click

from sparsebert.cli.options import data_dir_option
from sparsebert.errors import InputError, shown
from sparsebert.reading import path_of

profile_option = click.option(
    "--profile",
    default="quick",
    show_default=True,
    help="smoke (to rehearse), quick or full (for a GPU).",
)


@click.command(
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
@data_dir_option
def run(notebook: str, given: tuple[str, ...], profile: str, out: str | None, data_dir: str | None) -> None:
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
    if data_dir:
        os.environ["SPARSEBERT_DATA_DIR"] = str(path_of(data_dir).resolve())
    from sparsebert.chapters import run_notebook

    click.echo(run_notebook(notebook, values, profile=profile, out=out))


@click.command()
@profile_option
@click.option("--pdf", is_flag=True, help="Print the book as one PDF, too; needs Chromium.")
def book(profile: str, pdf: bool) -> None:
    """Run every chapter that has changed and render the book; ends with the path of its index.html or PDF."""
    from sparsebert.chapters import build_book

    click.echo(build_book(profile=profile, pdf=pdf))
