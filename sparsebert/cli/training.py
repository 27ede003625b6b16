"""Runs: one, a grid of them, a saved model once more, and the degrees that a run learned."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from sparsebert.cli.group import main
from sparsebert.cli.options import RunCommand, answer, duration, folder_options, json_option, not_empty
from sparsebert.errors import InputError
from sparsebert.paths import Folders
from sparsebert.reading import path_of

if TYPE_CHECKING:
    from sparsebert.training.runs import RunConfig


@main.command(
    cls=RunCommand,
    epilog="Example: sparsebert finetune --task reviews "
    "--plan 'neighbour(2) | global(cls) @ late' --train-size 3000",
)
@folder_options("data", "prepared", "runs")
@click.option(
    "--save",
    metavar="FOLDER",
    callback=not_empty,
    help="Save the model there, with its plan and degrees: a new folder, or one of the same run.",
)
@json_option
def finetune(config: RunConfig, folders: Folders, save: str | None, as_json: bool) -> None:
    """Fine-tune an encoder under a plan and record the run.

    It is evaluated under the same plan. A run that was recorded before is found again; one that was
    interrupted goes on from its checkpoint. Times, memory, device, versions and the data's hash are in the
    record.
    """
    from sparsebert.sweeps.running import describe, find_or_train
    from sparsebert.training.finetuning import processes
    from sparsebert.training.runs import RunStore

    store = RunStore(folders.runs)
    record, found = find_or_train(config, store, folders, save_to=path_of(save) if save else None)
    if not processes().is_main_process:
        return
    if as_json:
        click.echo(record.model_dump_json(indent=1))
        return
    layers = " ".join(f"{density:.3f}" for density in record.density_per_layer)
    click.echo(describe(record) + (" (found in the store)" if found else ""))
    click.echo(f"density per layer {layers}; over the padded square {record.padded_density:.3f}")
    click.echo(f"{record.examples_per_second['train']:.0f} training examples per second on {record.device}")
    if learning := record.learning:
        soft = f", before hardening {learning.soft_density:.3f}" if learning.soft_density else ""
        asked = f", asked for {learning.target_density:g}" if learning.target_density else ""
        click.echo(f"layers that learned: density {learning.hard_density:.3f}{soft}{asked}")
    click.echo(f"recorded in {store.folder / record.name}.json")
    if save:
        click.echo(f"saved in {save}; try: sparsebert evaluate {save}")


@main.command(epilog="Example: sparsebert evaluate my-model --json")
@click.argument("folder")
@click.option(
    "--task", "task_name", help="Task to evaluate on, with the same labels.  [default: the training task]"
)
@click.option(
    "--eval-size", type=click.IntRange(1), help="Number of evaluation rows.  [default: as in training]"
)
@click.option(
    "--precision", metavar="VALUE", help="Precision: fp32, bf16 or auto.  [default: as in training]"
)
@click.option(
    "--kernel",
    metavar="VALUE",
    help="Kernel that computes attention, as in finetune.  [default: as in training]",
)
@click.option(
    "--reduce", metavar="TEXT", help="Other settings of the way that tokens leave.  [default: as in training]"
)
@folder_options("data", "prepared")
@json_option
def evaluate(folder: str, as_json: bool, **how: Any) -> None:
    """Evaluate a model that `finetune --save FOLDER` kept.

    It is evaluated under its plan and with its degrees.
    """
    from sparsebert.training import finetuning as training

    result = training.evaluate(folder, **how)
    scores = ", ".join(f"{name} {value:.4f}" for name, value in result["metrics"].items())
    told = f"{result['task']}, {result['eval_rows']} rows: {scores}; density {result['density']:.4f}"
    answer(as_json, result, told)


@main.command(
    epilog="Example: sparsebert degrees ec71057ba6a7b67d mine.json, then a run whose plan is "
    "'learned(\"mine.json\") | global(cls)'"
)
@click.argument("run")
@click.argument("file")
@click.option("--force", is_flag=True, help="Overwrite FILE even if it holds something else than degrees.")
@folder_options("runs")
def degrees(run: str, file: str, force: bool, folders: Folders) -> None:
    """Write the degrees that a run learned to a file.

    Plans of other runs can name that FILE. RUN is the name of a record, in the folder of runs or in
    book/results/. Degrees from a file are hard from the first step; their weights stay as they are.
    """
    from sparsebert.paths import output_file
    from sparsebert.patterns.hard_degrees import load_degrees
    from sparsebert.study.results import run_named
    from sparsebert.training.runs import RunStore

    record = run_named(run, RunStore(folders.runs))
    if not record.learning:
        raise InputError(f"run '{run}' learned no degrees; its plan is '{record.config.plan}'")
    path = output_file(file, "FILE")
    if path.exists() and not force:
        try:
            load_degrees(path)
        except InputError:
            what = f"'{file}' holds something else than degrees"
            raise InputError(f"{what}; name a new file, or write --force") from None
    record.learning.degrees.save(path)
    click.echo(f"written to {path}; try: sparsebert finetune --plan 'learned(\"{path}\") | global(cls)'")


@main.command(epilog="Example: sparsebert sweep book/grids/first.yaml --executor processes --budget 2h")
@click.argument("grid")
@click.option(
    "--only",
    multiple=True,
    metavar="FIELD=VALUE",
    help="Take only the runs with this value; may be repeated, and values of one field are alternatives.",
)
@click.option("--dry-run", is_flag=True, help="Print the runs and an estimate of their time; train nothing.")
@click.option(
    "--budget",
    metavar="TIME",
    help="Time limit, such as 2h, 90min or 1h30m: no run starts that is expected to end later.",
)
@click.option(
    "--executor",
    "kind",
    default="inline",
    help="Where runs are trained: inline (one after the other), processes (several on this machine) or dask.",
)
@click.option(
    "--workers",
    type=click.IntRange(1),
    metavar="N",
    help="Processes that share the cores or GPUs.  [default: one for each GPU, else one per core, up to 4]",
)
@click.option("--scheduler", metavar="tcp://HOST:PORT", help="Address of the scheduler of a Dask cluster.")
@folder_options("data", "prepared", "runs")
@json_option
def sweep(
    grid: str, only: tuple, dry_run: bool, budget: str | None, folders: Folders, as_json: bool, **where: Any
) -> None:
    """Train the runs of a grid that are not recorded yet.

    GRID is a YAML file over the fields of a run. recorded:NAME stands for the runs of
    book/results/NAME.jsonl. Recorded runs are found in --runs-dir and in the book. Where SPARSEBERT_FRESH is
    set, the book's are made again.

    Lists multiply; zip, exclude and grids are explained in the book. All runs are checked before the first
    one starts. Stopped in any way, the same command goes on. Runs that fail are listed at the end (exit code
    1), with their reasons in runs/failed/.
    """
    from sparsebert.sweeps import grids

    configs, seconds = grids.only(grids.load_grid(grid), only), None if budget is None else duration(budget)
    from sparsebert.sweeps import running as sweeps
    from sparsebert.sweeps.executors import open_executor
    from sparsebert.training.runs import RunStore

    store = RunStore(folders.runs)
    with open_executor(**where) as executor:
        if dry_run:
            plan = sweeps.forecast(configs, store, folders, executor)
            answer(as_json, plan.as_dict(), plan)
            return
        try:
            result = sweeps.sweep(configs, store, folders, executor, seconds)
        except KeyboardInterrupt:
            click.echo("interrupted: finished runs are recorded, and the same command goes on", err=True)
            raise SystemExit(130) from None
    answer(as_json, result.as_dict(), result)
    if result.failed or result.cut_off:
        raise SystemExit(1)


@main.command(epilog="Example: sparsebert clean --runs-dir runs/experiments")
@folder_options("runs")
def clean(folders: Folders) -> None:
    """Remove checkpoints and locks of unfinished runs.

    They lie in the folder of runs. Records stay, and so does what some process works on now. A run that is
    asked for again starts anew.
    """
    from sparsebert.sweeps.unfinished import clean as remove
    from sparsebert.training.runs import RunStore

    count, size = remove(RunStore(folders.runs))
    click.echo(f"unfinished runs removed from {folders.runs}: {count} ({size / 2**20:.1f} MiB)")
