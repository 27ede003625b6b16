"""A machine that nobody has tried yet: check it, then spend a quarter of an hour of its GPU."""

from __future__ import annotations

from typing import Any

import click

from sparsebert.cli.group import main
from sparsebert.cli.options import folder_options
from sparsebert.errors import InputError
from sparsebert.paths import Folders, check_writable
from sparsebert.reading import path_of


@main.command(epilog="Example: sparsebert selftest --minutes 2 --out selftest.json")
@click.option("--device", help="Device: cpu or cuda.  [default: a GPU where there is one]")
@click.option(
    "--minutes",
    default=5.0,
    type=click.FloatRange(0),
    help="Begin no check after these minutes; the report names the checks left out.",
)
@click.option(
    "--only",
    multiple=True,
    metavar="GROUP",
    help="Part to check: kernels, models, runs, costs or flex; may be repeated.  [default: all]",
)
@click.option("--out", metavar="FILE", help="Write the report there as JSON, after each check.")
def selftest(device: str | None, minutes: float, only: tuple[str, ...], out: str | None) -> None:
    """Check that this machine computes what it should: a line for each check, then a table.

    Kernels beside attention written out in float64, forward and backward; each architecture beside itself
    masked by hand; short fine-tunings, interrupted and resumed; time and memory beside dense attention;
    FlexAttention. Exit code 1 if a check is wrong. `sparsebert results keep FILE` adds the report to the
    recorded ones.
    """
    path = path_of(out) if out else None
    if path and path.is_dir():
        raise InputError(f"'{out}' is a folder; write the name of a file")
    if path:
        check_writable(path.parent, f"'{out}'", "--out")
    from sparsebert.selftest.testing import selftest as check

    report = check(device, minutes, only, path, click.echo)
    click.echo(f"\n{report}")
    if report.wrong:
        raise SystemExit(1)


@main.command(epilog="Example: sparsebert gpu back --grid book/grids/full.yaml --minutes 5 -p task=glue/mrpc")
@click.argument("out", metavar="OUT")
@click.option("--grid", default="grid.yaml", metavar="FILE", help="Grid of the runs that come last.")
@click.option("--minutes", default=5.0, type=click.FloatRange(0.1), help="Minutes that this call may take.")
@click.option("--notebook", default="03_which_connections", help="Chapter to run.")
@click.option(
    "-p",
    "given",
    multiple=True,
    metavar="NAME=VALUE",
    help="Set a parameter of the chapter; may be repeated.",
)
@click.option(
    "--profile", default="full", help="Size of the runs: full, or smoke (to rehearse, also without a GPU)."
)
@click.option("--workers", default=6, type=click.IntRange(1), help="Number of processes that share the GPU.")
@folder_options("data", "prepared", "runs")
def gpu(out: str, folders: Folders, **how: Any) -> None:
    """Spend some minutes of a GPU: selftest, one chapter, timings, then the runs of a grid.

    What comes back are some files in the folder OUT, each written as soon as something is finished. With what
    an earlier piece left there, the same command goes on where that one stopped. A part that fails is named
    and the next one begun; OUT/log.txt has what it said.
    """
    from sparsebert.selftest.gpu import spend

    states = spend(path_of(out), folders=folders, told=click.echo, **how)
    if any(state.startswith("failed") for state in states.values()):
        raise SystemExit(1)
