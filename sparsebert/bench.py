"""Measurements side by side, as ratios, since absolute times differ between machines and hours."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable

import torch
from transformers import DataCollatorWithPadding, PrinterCallback, Trainer, TrainingArguments, set_seed

from sparsebert.attention import sparsify
from sparsebert.encoders import load_classifier, load_tokenizer
from sparsebert.finetune import build_trainer, device_name, fitting_length, resolve_precision, versions
from sparsebert.plans import parse_plan
from sparsebert.prepare import prepare
from sparsebert.runs import RunConfig
from sparsebert.tasks import get_task


def bench_finetune(config: RunConfig, rounds: int = 3, data_dir: str | None = None) -> dict:
    """Training throughput of the config's plan, of dense attention and of the Trainer at its defaults.

    All three train the same model on the same rows with the same batch size, in turn, `rounds` times after
    one warm-up round. Returns examples per second (medians) and, from the rounds' own ratios, medians of
    `masked_over_dense_time` (the price of the mask) and `speedup_over_default_trainer`.
    """
    task, plan = get_task(config.task, data_dir), parse_plan(config.plan)
    precision = resolve_precision(config.precision)
    max_length = fitting_length(config, task, load_classifier(config.encoder, task.label_names))
    parsed = "word_ids" in plan.needs
    data = prepare(task, config.encoder, max_length, config.train_size, config.eval_size, parsed)
    plain = data.remove_columns(["word_ids", "head_ids"]) if parsed else data

    def ours(plan_text: str, rows) -> float:
        model = _fresh_model(config, task)
        trainer = build_trainer(model, config, rows, precision)
        with sparsify(model, plan_text):
            return _seconds(trainer.train)

    def default_trainer() -> float:
        model = _fresh_model(config, task)
        arguments = TrainingArguments(
            output_dir="unused",
            num_train_epochs=config.epochs,
            per_device_train_batch_size=config.batch_size,
            use_cpu=not torch.cuda.is_available(),
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        rows = plain["train"].remove_columns("length").rename_column("label", "labels")
        collator = DataCollatorWithPadding(load_tokenizer(config.encoder))
        trainer = Trainer(model=model, args=arguments, train_dataset=rows, data_collator=collator)
        trainer.remove_callback(PrinterCallback)  # standard output is for the result
        return _seconds(trainer.train)

    contenders: dict[str, Callable[[], float]] = {
        "masked": lambda: ours(config.plan, data),
        "dense": lambda: ours("dense", plain),
        "default trainer": default_trainer,
    }
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(rounds + 1):
        for name, measure in contenders.items():
            taken = measure()
            if number:  # the first round warms caches and allocators up
                seconds[name].append(taken)
            print(f"  round {number or 'for warm-up'}: {name} {taken:.1f} s", file=sys.stderr, flush=True)
    rows = round(config.epochs * len(data["train"]))

    def ratio(above: str, below: str) -> float:
        return statistics.median(a / b for a, b in zip(seconds[above], seconds[below], strict=True))

    return {
        "config": config.model_dump(),
        "rows": rows,
        "rounds": rounds,
        "examples_per_second": {name: rows / statistics.median(times) for name, times in seconds.items()},
        "masked_over_dense_time": ratio("masked", "dense"),
        "speedup_over_default_trainer": {
            name: ratio("default trainer", name) for name in ("masked", "dense")
        },
        "device": device_name(),
        "precision": precision,
        "versions": versions(),
    }


def _fresh_model(config: RunConfig, task):
    set_seed(config.seed)
    return load_classifier(config.encoder, task.label_names)


def _seconds(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started
