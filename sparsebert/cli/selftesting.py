"""A machine that nobody has tried yet."""

from __future__ import annotations

import click

from sparsebert.cli.group import main
from sparsebert.paths import output_file


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
    """Check that this machine computes what it should.

    A line for each check, then a table. Kernels beside attention written out in float64, forward and
    backward; each architecture beside itself masked by hand; short fine-tunings, interrupted and resumed;
    time and memory beside dense attention; FlexAttention. Exit code 1 if a check is wrong. `sparsebert
    results keep FILE` adds the report to the recorded ones.
    """
    path = output_file(out, "--out") if out else None
    from sparsebert.selftest.testing import selftest as check

    report = check(device, minutes, only, path, click.echo)
    click.echo(f"\n{report}")
    if report.wrong:
        raise SystemExit(1)
