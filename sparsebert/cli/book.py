"""The book: one chapter with other parameters, all of them, and the recorded runs behind them."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import click

from sparsebert.cli.group import main
from sparsebert.cli.options import answer, folder_options, json_option
from sparsebert.errors import InputError, shown
from sparsebert.paths import Folders

profile_option = click.option(
    "--profile", default="quick", help="Size of the runs: smoke (to rehearse), quick or full (for a GPU)."
)


@main.command(
    epilog="Example: sparsebert run 03_which_connections -p task=headlines -p train_size=500 --out mine.ipynb"
)
@click.argument("notebook")
@click.option(
    "-p",
    "given",
    multiple=True,
    metavar="NAME=VALUE",
    help="Set a parameter of the notebook; may be repeated.",
)
@profile_option
@click.option(
    "--out",
    metavar="FILE.ipynb",
    help="Write the executed notebook there.  [default: NOTEBOOK.executed.ipynb]",
)
@folder_options("data")
def run(notebook: str, given: tuple[str, ...], folders: Folders, **how: str | None) -> None:
    """Run one chapter's notebook with other parameters.

    The notebook itself is not changed. NOTEBOOK is a name such as 03_which_connections, or a path. Values
    are written as in YAML: 500, 0.1, text, [a, b].
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
@click.option("--students", is_flag=True, help="Make the edition without solutions, in _build/student.")
@click.option("--pdf", is_flag=True, help="Print the book as one PDF, too; needs Chromium.")
@click.option("--slides", is_flag=True, help="Make a lecture's slides from the chapters, not the pages.")
def book(profile: str, **how: bool) -> None:
    """Run the chapters that have changed and render the book.

    The last line printed is the path of what was made.
    """
    from sparsebert.chapters import build_book

    click.echo(build_book(profile=profile, **how))


@main.group()
def results() -> None:
    """List, check and add to the recorded runs.

    They are the runs behind the book and lie in book/results/. Reports of `sparsebert selftest` are kept
    beside them.
    """


@results.command(name="list")
@json_option
def results_list(as_json: bool) -> None:
    """List the recorded runs.

    By file, task and plan, with their seeds, device and versions; then, but not in JSON, the selftests.
    """
    from sparsebert.selftest.checks import kept
    from sparsebert.study.results import as_text, overview

    table = overview()
    lines = [f"\nselftests/{name}: {getattr(report, 'summary', report)}" for name, report in kept()]
    answer(as_json, table.to_dict("records"), "\n".join([as_text(table), *lines]))


@results.command(name="check")
def results_check() -> None:
    """Check the recorded runs.

    It finds truncated lines, wrong names, runs that stand twice and data that differ. Metrics are computed
    again from the predictions; runs without predictions are counted. Also reports of selftests that can't
    be read. A line for each finding, and exit code 1 if there is one.
    """
    from sparsebert.selftest.checks import kept
    from sparsebert.study.results import check, recorded_names

    lacking: Counter[str] = Counter()
    findings = check(lacking) + [str(found) for _, found in kept() if isinstance(found, InputError)]
    for finding in findings:
        click.echo(finding)
    if findings:
        raise SystemExit(1)
    for name, count in lacking.items():
        runs = "run" if count == 1 else "runs"
        click.echo(f"{name}: {count} {runs} without predictions, made before these were kept")
    click.echo(f"sound: {', '.join(recorded_names()) or 'nothing is recorded'}")


@results.command(
    name="merge", epilog="Example: sparsebert results merge runs/ other/runs.jsonl --into connections"
)
@click.argument("files", nargs=-1, required=True)
@click.option("--into", required=True, metavar="NAME", help="Add the runs to book/results/NAME.jsonl.")
@click.option("--newest", is_flag=True, help="Of two records of one run, keep the one finished last.")
def results_merge(files: tuple[str, ...], into: str, newest: bool) -> None:
    """Add runs to the recorded ones.

    FILES are folders of runs, .jsonl files, or records of single runs. A run that is there already is kept
    once. What is truncated or no record is named and left out.
    """
    from sparsebert.study.results import merge

    merged = merge(files, into, newest)
    for complaint in merged.left_out:
        click.echo(f"left out: {complaint}", err=True)
    click.echo(str(merged))


@results.command(name="keep", epilog="Example: sparsebert results keep selftest.json")
@click.argument("files", nargs=-1, required=True)
def results_keep(files: tuple[str, ...]) -> None:
    """Keep reports of selftests beside the recorded runs.

    FILES are what `sparsebert selftest --out FILE` wrote; they are copied into book/results/selftests/.
    """
    from sparsebert.selftest.checks import keep, read_report

    for report in [read_report(Path(file)) for file in files]:
        click.echo(f"{keep(report)}: {report.summary}")
