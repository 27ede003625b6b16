"""What a machine without texts, spaCy or a network is given: prepared data, and whole bundles."""

from __future__ import annotations

import time
from typing import Any

import click

from sparsebert.cli.group import main
from sparsebert.cli.options import folder_options
from sparsebert.paths import Folders

_COUNT = click.IntRange(1)


@main.command(
    epilog="Example: sparsebert prepare glue/sst2 glue/mrpc --encoder minilm --out prepared --parsed"
)
@click.argument("tasks", nargs=-1, required=True, metavar="TASK...")
@click.option("--encoder", default="minilm", help="Encoder whose tokenizer is used.")
@click.option("--out", required=True, metavar="DIR", help="Folder of prepared data, with a folder per task.")
@click.option(
    "--max-length",
    type=click.IntRange(4),
    help="Tokens that a row is cut to.  [default: the task's, within the encoder's positions]",
)
@click.option(
    "--train-size", type=_COUNT, help="Number of training rows that runs can ask for.  [default: all]"
)
@click.option(
    "--eval-size", type=_COUNT, help="Number of evaluation rows that runs can ask for.  [default: all]"
)
@click.option("--parsed", is_flag=True, help="Write parses, too, for plans with `syntax`; parsing is slow.")
@folder_options("data")
def prepare(tasks: tuple[str, ...], out: str, folders: Folders, **how: object) -> None:
    """Write tasks as tokens, to train on another machine.

    There `finetune` and `sweep` work without the tasks' texts. That machine needs neither a network nor
    spaCy or datasets. Runs there are the same, with the same names.
    """
    from sparsebert.data.tasks import get_task
    from sparsebert.data.tokenizing import write_prepared

    found = [get_task(name, folders) for name in tasks]
    for task in found:
        started = time.perf_counter()
        place = write_prepared(task, folder=out, **how)
        size = sum(path.stat().st_size for path in place.iterdir())
        click.echo(f"{task.name}: {place} ({_mib(size)}, {time.perf_counter() - started:.0f} s)")


@main.command(epilog="Example: sparsebert bundle book/grids/first.yaml --out bundle.tar.gz")
@click.argument("grid")
@click.option("--out", required=True, metavar="FILE.tar.gz")
@click.option(
    "--prepared", metavar="DIR", help="Folder of prepared data to take from; what it lacks is added."
)
@click.option(
    "--python",
    "pythons",
    multiple=True,
    metavar="VERSION",
    help="Pack wheels for this version of Python on x86-64 Linux; may be repeated.  [default: 3.11 and 3.12]",
)
@click.option(
    "--no-wheels",
    is_flag=True,
    help="Pack no wheels: the machine has accelerate, click, jaxtyping and pydantic.",
)
@click.option(
    "--chapters",
    is_flag=True,
    help="Pack the notebooks, too; the machine needs matplotlib, pandas, pyyaml, scipy and seaborn.",
)
@folder_options("data")
def bundle(grid: str, out: str, pythons: tuple[str, ...], no_wheels: bool, **where: Any) -> None:
    """Pack a grid to run it on another machine.

    The package, its encoders and its data come along; that machine has torch and transformers. There,
    unpack it and call `sh sparsebert-bundle/run.sh`; `sparsebert results merge` adds what comes back to the
    recorded runs.
    """
    from sparsebert.sweeps.bundling import PYTHONS
    from sparsebert.sweeps.bundling import bundle as pack

    wheels = () if no_wheels else pythons or PYTHONS
    packed = pack(grid, out, pythons=wheels, **where)
    click.echo(f"{packed} ({_mib(packed.stat().st_size)}); unpack it with: tar xzf {packed.name}")
    click.echo("then: sh sparsebert-bundle/run.sh")


def _mib(size: int) -> str:
    return f"{size / 2**20:.1f} MiB"
