"""`sparsebert ...`: the command line.

Modules are imported by the command that needs them, so that help comes at once.
"""

from __future__ import annotations

import click

from sparsebert import __version__
from sparsebert.cli.benchmarks import bench
from sparsebert.cli.chapters import book, run
from sparsebert.cli.elsewhere import bundle, prepare
from sparsebert.cli.gpu import gpu, selftest
from sparsebert.cli.group import Sparsebert
from sparsebert.cli.lists import doctor, encoders, patterns, tasks
from sparsebert.cli.recorded import results
from sparsebert.cli.training import clean, degrees, evaluate, finetune, sweep

HELP = {"help_option_names": ["-h", "--help"], "max_content_width": 110}


@click.group(cls=Sparsebert, context_settings=HELP)
@click.version_option(__version__, prog_name="sparsebert")
@click.option("--debug", is_flag=True, help="Show the traceback of an error that nobody foresaw.")
def main(debug: bool) -> None:
    """Which attention connections does an encoder need, how many, and can they be learned?

    Start with `sparsebert doctor`, then `sparsebert book` (the whole book) or `sparsebert run NOTEBOOK`
    (one chapter with your parameters) or `sparsebert finetune` (one run).
    """


for command in (
    finetune,
    evaluate,
    degrees,
    sweep,
    clean,
    prepare,
    bundle,
    run,
    book,
    tasks,
    encoders,
    patterns,
    results,
    bench,
    doctor,
    selftest,
    gpu,
):
    main.add_command(command)
