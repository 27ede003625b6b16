"""Whole searches on tasks of the book, and what their plans lose on rows that took part in nothing before.

    python book/studies/whole_runs.py glue/sst2 --budget 16m --data-dir GLUE --keep

The eight of the book, named before the first was made: reviews and glue/sst2 with 8 and with 16 minutes; imdb
(--max-length 96), headlines, glue/mrpc and glue/qnli with 16 minutes.

The fresh rows are the test part of a task that has one, or else half of its evaluation rows. Called again,
the script goes on where it was stopped. The page `book/rules.md` says how the searches are judged.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from sparsebert.advise.advising import advise
from sparsebert.advise.search_log import DENSE, Request
from sparsebert.advise.searching import Runner, trainer
from sparsebert.cli.group import HELP, Sentences
from sparsebert.cli.options import duration, folder_options
from sparsebert.data.tasks import Task, get_task, task_names
from sparsebert.data.tasks.task import hold_out
from sparsebert.machine import commit, device_name, versions
from sparsebert.paths import Folders, write_whole
from sparsebert.study.losses import loss
from sparsebert.study.results import results_dir
from sparsebert.training.runs import RunConfig, RunStore

FRESH_SEEDS = (100, 101, 102)  # no search has these
FRESH = 0.5  # of the evaluation rows, where a task has no test part
RECORD = "whole_run.json"


def whole_run(
    request: Request, folder: Path, folders: Folders, run: Runner | None = None, **how: Any
) -> dict[str, Any]:
    """The record of a search for `request` and of its plan on fresh rows, made in `folder` or found there.

    `run` and `how` are handed on to `advise`. In the record, `bound` and `lost` (with its 90 % interval from
    `low` to `high`) are in points, over `seeds` new seeds and `rows` fresh rows; they are None where dense
    attention was recommended. `spent` are the seconds of the search.
    """
    path = folder / RECORD
    if path.exists():
        return json.loads(path.read_text(encoding="utf-8"))
    store = RunStore(folders.runs)
    run = run or trainer(store, folders)
    task = with_test(request.task, folders)
    train, choosing, fresh = files_of(task, folder)
    of_files = {"task": f"file:{train},{choosing}", "max_length": request.max_length or task.max_length}
    advice = advise(request.model_copy(update=of_files), folder / "search", store, folders, run, **how)
    nothing = dict.fromkeys(("bound", "lost", "low", "high")) | {"seeds": 0, "rows": 0}
    record = {"request": request.model_dump(mode="json"), "plan": str(DENSE)} | nothing
    if promise := advice.held:
        record |= {"plan": promise.plan, "bound": promise.bound}
        record |= on_fresh_rows(advice.recommended, f"file:{train},{fresh}", run)
    record |= {
        "spent": advice.log.spent,
        "why": advice.why,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": device_name(),
        "versions": versions(),
        "commit": commit(),
    }
    write_record(path, record)
    return record


def write_record(path: Path, record: dict[str, Any]) -> None:
    write_whole(path, json.dumps(record, indent=1, ensure_ascii=False) + "\n")


def with_test(name: str, folders: Folders) -> Task:
    """The task of that name, or where the book has one, that with a test part."""
    return get_task(f"{name}+test" if f"{name}+test" in task_names() else name, folders)


def files_of(task: Task, folder: Path) -> tuple[Path, Path, Path]:
    """Files in the folder with the rows to train on, those to choose and confirm by, and the fresh ones."""
    parts = {name: rows.to_pandas() for name, rows in task.load().items()}
    if "test" not in parts:
        held = hold_out(parts["validation"], FRESH)
        parts |= {"validation": held["train"], "test": held["validation"]}
    paths = []
    for name in ("train", "validation", "test"):
        rows, path = parts[name], folder / f"{name}.jsonl"
        if task.label_names:
            rows = rows.assign(label=rows["label"].map(dict(enumerate(task.label_names))))
        write_whole(path, rows.to_json(orient="records", lines=True, force_ascii=False))
        paths.append(path)
    train, choosing, fresh = paths
    return train, choosing, fresh


def on_fresh_rows(recommended: RunConfig, task: str, run: Runner) -> dict[str, Any]:
    """What the plan loses there with new seeds, as fields of a record."""
    dense, sparse = [], []
    for seed in FRESH_SEEDS:
        config = recommended.model_copy(update={"task": task, "seed": seed})
        sparse.append(run(config, None))
        dense.append(run(config.model_copy(update={"plan": DENSE.plan, "degrees": None}), None))
    lost = loss(dense, sparse, "validation")
    low, high = lost.interval()
    rows = sparse[0].predictions["validation"].count
    return {"lost": lost.value, "low": low, "high": high, "seeds": len(FRESH_SEEDS), "rows": rows}


@click.command(cls=Sentences, context_settings=HELP)
@click.argument("task")
@click.option("--budget", default="20m", help="Time of the search, such as 20m or 2h.")
@click.option("--max-loss", default=2.0, help="Points that may be lost.")
@click.option("--max-length", type=click.IntRange(4), help="Tokens that a row is cut to.")
@click.option("--out", default="runs/whole_runs", type=Path, help="Folder of the searches.")
@click.option("--keep", is_flag=True, help="Put the record into book/results/, too.")
@folder_options("data", "runs")
def main(task: str, budget: str, out: Path, keep: bool, folders: Folders, **asked: Any) -> None:
    """Search a plan for TASK within a budget, then judge it on rows that were held out."""
    request = Request.checked(task=task, budget=duration(budget), **asked)
    name = f"{task.replace('/', '-')}-{request.max_loss:g}-{request.budget:g}s"
    record = whole_run(request, out / name, folders)
    if keep:
        write_record(results_dir() / "whole_runs" / f"{name}.json", record)
    click.echo(f"{record['plan']}: {record['why']}")
    if record["lost"] is not None:
        said = "kept" if record["lost"] <= request.max_loss else "not kept"
        lost, low, high = (f"{record[name]:.1f}" for name in ("lost", "low", "high"))
        click.echo(f"{said}: on fresh rows it loses {lost} points ({low} to {high})")


if __name__ == "__main__":
    main()
