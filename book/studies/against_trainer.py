"""Training speed under a plan, dense, and of transformers' Trainer at its defaults, side by side.

    python book/studies/against_trainer.py task=topics plan="neighbour(2) | global(cls)" --lengths 32,128,512

All three train the same model on the same rows with the same batch size, in turn. Results are ratios, since
absolute times differ between machines and hours.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from functools import partial

import click
import numpy as np
import torch
from datasets import Dataset
from transformers import DataCollatorWithPadding, PrinterCallback, Trainer, TrainingArguments

from sparsebert.bench.measuring import find_device, paired_ratio, seconds
from sparsebert.cli.group import HELP, Sentences
from sparsebert.cli.options import answer, folder_options, json_option, lengths_of
from sparsebert.data.rows import Rows
from sparsebert.errors import InputError, say
from sparsebert.machine import device_name, resolve_precision, versions
from sparsebert.models.encoders import load_tokenizer
from sparsebert.models.sparsified import sparsify
from sparsebert.paths import Folders
from sparsebert.patterns.plans import Plan
from sparsebert.training.finetuning import build_trainer
from sparsebert.training.resolved import Run
from sparsebert.training.runs import RunConfig

# What fine-tuning is held to: masked against the Trainer at its defaults, and against our own dense run.
BARS = {"speedup_over_default_trainer": 1.6, "masked_over_dense_time": 1.05}

_TOKENS = 20_000  # of a training at one of several lengths, if no number of rows is asked for


def bench_finetune(
    config: RunConfig, rounds: int = 3, folders: Folders | None = None, lengths: Sequence[int] = ()
) -> dict:
    """Training throughput of the config's plan, of dense attention and of the Trainer at its defaults.

    Each trains `rounds` times after a warm-up of one step; the Trainer's defaults include fp32 and batches of
    random rows. Returns, for the
    config's length, or for each of `lengths` under that name: examples per second (medians), from the
    rounds' own ratios medians of `masked_over_dense_time` (the price of the mask) and
    `speedup_over_default_trainer`, `kernels` (the layers' under the plan) and, in `met`, whether the medians
    keep to `BARS`. With `lengths` and no `train_size` the rows are as many as make some 20,000 tokens, three
    batches at least.
    """
    measured = []
    for length in lengths or [config.max_length]:
        rows = config.train_size
        if lengths and rows is None:
            rows = max(3 * config.batch_size, _TOKENS // length)
        at_length = config.model_copy(update={"max_length": length, "train_size": rows})
        measured.append(_bench_length(Run.of(at_length, folders), rounds))
    return {
        "config": config.model_dump(),
        "rounds": rounds,
        **({"lengths": measured} if lengths else measured[0]),
        "bars": BARS,
        "device": device_name(),
        "precision": resolve_precision(config.precision),
        "versions": versions(),
    }


def _bench_length(run: Run, rounds: int) -> dict:
    config = run.config
    run.task.load()  # refuses prepared data, which the default trainer can't read
    if run.task.labelled == "words":
        raise InputError(f"task '{run.task.name}' labels words, and this compares runs that label texts")
    precision = resolve_precision(config.precision)
    max_length = run.length(run.model())
    data = run.rows(max_length)
    plain = {split: _plain(rows) for split, rows in data.items()}
    kernels: list[str] = []

    def ours(plan: Plan | str, rows: dict[str, Rows], steps: int) -> float:
        model = run.model()
        trainer = build_trainer(model, config, rows, precision)
        trainer.args.max_steps = steps
        with sparsify(model, plan, kernel=config.kernel) as sparse:
            taken = seconds(trainer.train, device=find_device())
        if plan is run.plan:
            kernels[:] = sparse.kernels
        return taken

    def default_trainer(steps: int) -> float:
        arguments = TrainingArguments(
            output_dir=".",  # in which nothing is written
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            num_train_epochs=config.epochs,
            max_steps=steps,
            per_device_train_batch_size=config.batch_size,
            use_cpu=not torch.cuda.is_available(),
        )
        train = plain["train"]
        columns = {name: np.split(tokens, train.ends[:-1]) for name, tokens in train.tokens.items()}
        rows = Dataset.from_dict(columns | {"labels": train.label})
        collator = DataCollatorWithPadding(load_tokenizer(config.encoder))
        trainer = Trainer(model=run.model(), args=arguments, train_dataset=rows, data_collator=collator)
        trainer.remove_callback(PrinterCallback)  # standard output is for the result
        return seconds(trainer.train, device=find_device())

    contenders: dict[str, Callable[[int], float]] = {
        "masked": partial(ours, run.plan, data),
        "dense": partial(ours, "dense", plain),
        "default trainer": default_trainer,
    }
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(rounds + 1):
        for name, measure in contenders.items():
            taken = measure(-1 if number else 1)  # one step warms caches and allocators up
            times[name] += [taken] if number else []
            which = f"round {number}" if number else "warm-up"
            say(f"  {max_length} tokens, {which}: {name} {taken:.1f} s")
    rows = round(config.epochs * len(data["train"]))
    cost = paired_ratio(times["masked"], times["dense"])
    faster = {name: paired_ratio(times["default trainer"], times[name]) for name in ("masked", "dense")}
    met = {"masked_over_dense_time": cost <= BARS["masked_over_dense_time"]}
    met["speedup_over_default_trainer"] = faster["masked"] >= BARS["speedup_over_default_trainer"]
    return {
        "max_length": max_length,
        "rows": rows,
        "tokens_per_row": statistics.mean(data["train"].lengths),
        "seed": config.seed,
        "kernels": kernels,
        "seconds": times,
        "examples_per_second": {name: rows / statistics.median(taken) for name, taken in times.items()},
        "masked_over_dense_time": cost,
        "speedup_over_default_trainer": faster,
        "met": met,
    }


def _plain(rows: Rows) -> Rows:
    """The rows without what only patterns read."""
    tokens = {name: values for name, values in rows.tokens.items() if name not in ("word_ids", "head_ids")}
    return Rows(rows.lengths, tokens, rows.label)


def as_text(result: dict) -> str:
    """What `bench_finetune` returned, for a terminal: at each length speeds, ratios and bars."""
    lines = []
    for measured in result.get("lengths", [result]):
        cost, over = "masked_over_dense_time", "speedup_over_default_trainer"
        bar = {
            name: f"bar {BARS[name]:g}: {'met' if met else 'not met'}"
            for name, met in measured["met"].items()
        }
        kernels, faster = ", ".join(dict.fromkeys(measured["kernels"])), measured[over]
        speeds = measured["examples_per_second"].items()
        lines += [
            f"at most {measured['max_length']} tokens ({measured['tokens_per_row']:.0f} on average), "
            f"{measured['rows']} rows, kernels {kernels}",
            *(f"  {name:>15}: {speed:6.1f} examples per second" for name, speed in speeds),
            f"  masked takes {measured[cost]:.3f} times the dense time ({bar[cost]})",
            f"  times as fast as the default Trainer: {faster['masked']:.2f} masked ({bar[over]}), "
            f"{faster['dense']:.2f} dense",
        ]
    last = f"medians of {result['rounds']} rounds, {result['device']}, {result['precision']}"
    return "\n".join([*lines, last])


@click.command(cls=Sentences, context_settings=HELP)
@click.argument("fields", nargs=-1, metavar="[NAME=VALUE]...")
@click.option("--rounds", default=3, type=click.IntRange(1), help="Rounds, after a warm-up.")
@click.option(
    "--lengths",
    callback=lengths_of,
    metavar="N,N,...",
    help="Measure at each of these lengths, by default on topics and about 20,000 of its tokens.",
)
@folder_options("data")
@json_option
def main(fields: Sequence[str], rounds: int, lengths: list[int], folders: Folders, as_json: bool) -> None:
    """Train as the fields of a RunConfig say, such as task=glue/sst2; by default 800 rows."""
    given = {"plan": "neighbour(2) | global(cls)"} | ({"task": "topics"} if lengths else {"train_size": 800})
    config = RunConfig.checked(**given | dict(field.partition("=")[::2] for field in fields))
    for length in lengths:
        RunConfig.checked(max_length=length)
    result = bench_finetune(config, rounds, folders, lengths)
    answer(as_json, result, as_text(result))


if __name__ == "__main__":
    main()
