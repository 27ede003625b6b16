"""Advice on a task of one's own."""

from __future__ import annotations

import os
from dataclasses import asdict
from typing import Any

import click

from sparsebert.cli.group import main
from sparsebert.cli.options import answer, duration, folder_options, json_option, lengths_of, not_empty
from sparsebert.errors import InputError, say
from sparsebert.paths import Folders


@main.command(epilog="Example: sparsebert advise --task file:mine.csv --max-loss 1 --budget 20m --out report")
@click.option("--task", help="Task to search a plan for: file:PATH, or one of `sparsebert tasks`.")
@click.option("--plan", help="Without --task: measure what this plan saves at --lengths, and nothing else.")
@click.option("--max-loss", default=1.0, help="Points of the score that may be lost.")
@click.option("--budget", default="20m", help="Time for all of it, such as 20m or 2h.")
@click.option("--encoder", default="minilm", help="Encoder, see `sparsebert encoders`.")
@click.option(
    "--lengths",
    callback=lengths_of,
    default="128,512",
    metavar="N,N,...",
    help="Tokens of the texts that the model will read; 1k is 1,024.",
)
@click.option(
    "--max-length", type=click.IntRange(4), help="Tokens that a row is cut to.  [default: the task's]"
)
@click.option(
    "--epochs", type=float, help="Passes over the training rows.  [default: 3, fewer for many rows]"
)
@click.option("--batch-size", default=16, help="Rows of a training step.")
@click.option("--learning-rate", default=1e-4, help="Peak learning rate.")
@click.option(
    "--out",
    default="report",
    metavar="FOLDER",
    callback=not_empty,
    help="Folder of the report, the search and the model: a new one, or one to go on with.",
)
@folder_options("data", "prepared", "runs")
@json_option
def advise(
    task: str | None, plan: str | None, out: str, folders: Folders, as_json: bool, **asked: Any
) -> None:
    """Find out how sparse attention can be on your task.

    You get a plan with a promise, a report, and the model to use. The command looks at the data, searches
    within the budget, and recommends the sparsest plan that it can promise: its loss is at most --max-loss
    with 95 % confidence. Stopped in any way, the same command goes on. A longer --budget goes on with a
    finished search, and other --lengths are measured without a new one. Chapter 9 of the book explains a
    report.
    """
    if (task is None) == (plan is None):
        raise InputError("give --task for advice on a task, or --plan for what a plan saves, and not both")
    if plan is not None:
        _only_savings(plan, asked["encoder"], asked["lengths"], as_json)
        return
    from sparsebert.advise.advising import advise as search
    from sparsebert.advise.search_log import Request
    from sparsebert.chapters.notebooks import find_notebook
    from sparsebert.chapters.reports import CHAPTER, write_report
    from sparsebert.training.runs import RunStore

    asked |= {"task": task, "budget": duration(asked["budget"])}
    request = Request.checked(**asked)
    find_notebook(CHAPTER)  # the report is made from it, in the end
    os.environ |= folders.environment
    try:
        advice = search(request, out, RunStore(folders.runs), folders)
        if not as_json:
            more = [f"{advice.seen}:", advice.on_all_rows(out), ""] if advice.seen else []
            click.echo("\n".join([advice.answer, *advice.saved, "", advice.lines(out), "", *more]))
        say("writing the report")
        page = write_report(asked | {"folder": out}, out)
    except KeyboardInterrupt:
        click.echo(f"interrupted: the same command goes on with the search in {out}", err=True)
        raise SystemExit(130) from None
    facts = {
        "answer": advice.answer,
        "recommended": advice.recommended and advice.recommended.model_dump(exclude_defaults=True),
        "model": advice.model,
        "promises": [asdict(promise) for promise in advice.promises],
        "findings": [asdict(finding) for finding in advice.log.findings],
        "savings": advice.savings.to_dict("records"),
        "report": str(page),
    }
    answer(as_json, facts, f"the report: {page}")


def _only_savings(plan: str, encoder: str, lengths: list[int], as_json: bool) -> None:
    from sparsebert.advise.savings import in_words, measure
    from sparsebert.advise.search_log import check_lengths

    check_lengths(lengths)
    found = measure(plan, encoder, lengths)
    answer(as_json, found.to_dict("records"), "\n".join(in_words(found)))
