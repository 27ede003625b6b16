"""What inference takes for a text of a task under each way to spend less: `book/results/times/GRID.json`.

    python book/studies/time_per_text.py book/grids/spending/0_reviews.yaml --models runs/models

The runs of a grid with its first seed are trained, and their models kept in a folder, where another call
finds them. Then all of them read the same validation rows in turns, one text at a time and 32 at once. The
rows are sorted by length, so a batch holds hardly any padding; the share of padding is in the table.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import click
import numpy as np
import pandas as pd
import torch
from torch.utils.data import DataLoader

from sparsebert import load
from sparsebert.bench import measuring
from sparsebert.cli.group import HELP, Sentences
from sparsebert.cli.options import folder_options
from sparsebert.data.rows import Collator, Rows
from sparsebert.data.tasks import get_task
from sparsebert.data.tokenizing import prepare
from sparsebert.errors import InputError
from sparsebert.models.encoders import columns_of, load_tokenizer
from sparsebert.models.sparsified import Sparsified
from sparsebert.paths import Folders, write_whole
from sparsebert.study.results import results_dir
from sparsebert.study.spending import DENSE, way_of
from sparsebert.sweeps.grids import load_grid
from sparsebert.sweeps.running import find_or_train
from sparsebert.training.runs import RunConfig, RunStore
from sparsebert.training.saving import SETTINGS

BATCHES = 1, 32  # texts at once
COLUMNS = ["task", "way", "setting", "texts", "batch", "padding", "seconds", "over_dense", "spread"]


def first_seed(grid: str) -> list[RunConfig]:
    """The runs of a grid that have its smallest seed; `InputError` if none of them is dense attention."""
    configs = load_grid(grid)
    chosen = [config for config in configs if config.seed == min(one.seed for one in configs)]
    if (DENSE, DENSE) not in map(way_of, chosen):
        raise InputError(f"{grid}: no run of its first seed is dense attention; add the plan 'dense'")
    return chosen


def models_of(configs: Sequence[RunConfig], folder: Path, folders: Folders) -> list[Path]:
    """The folders of the runs' models, trained now where they are missing."""
    store, places = RunStore(folders.runs), [folder / config.name for config in configs]
    for number, (config, place) in enumerate(zip(configs, places, strict=True), 1):
        click.echo(f"[{number}/{len(configs)}] {', '.join(way_of(config))}", err=True)
        if not (place / SETTINGS).exists():
            find_or_train(config, store, folders, place)
    return places


def spread_out(rows: Rows, texts: int) -> Rows:
    """So many of the rows, which are sorted by length, at equal distances among all."""
    return rows.select(np.linspace(0, len(rows) - 1, min(texts, len(rows))).round().astype(int))


def times(configs: Sequence[RunConfig], places: Sequence[Path], rows: Rows, rounds: int) -> pd.DataFrame:
    """A row per run and batch: seconds of a text (the median of the rounds), and over dense attention's.

    `over_dense` is the median of the rounds' own ratios, `spread` the interquartile range of the seconds over
    their median, and `padding` the share of the tokens that are padding.
    """
    found = []
    with ExitStack() as opened, torch.no_grad():
        models = [opened.enter_context(load(place)) for place in places]
        for sparse in models:
            sparse.model.eval()
        collate = Collator(
            load_tokenizer(configs[0].encoder).pad_token_id, "token_type_ids" in columns_of(models[0].model)
        )
        for size in BATCHES:
            batches = list(DataLoader(Rows(rows.lengths, rows.tokens), size, collate_fn=collate))
            taken: list[list[float]] = [[] for _ in models]

            def turn(sparse: Sparsified, own: list[float], batches=batches) -> None:
                own.append(measuring.seconds(lambda: [sparse.model(**batch) for batch in batches]))

            turns = [lambda pair=pair: turn(*pair) for pair in zip(models, taken, strict=True)]
            measuring.take_turns(turns, rounds + 1, f"{size} at once")  # the first round warms up
            taken = [own[1:] for own in taken]
            dense = taken[[way_of(config) for config in configs].index((DENSE, DENSE))]
            read = sum(batch["attention_mask"].numel() for batch in batches)
            padding = 1 - sum(rows.lengths) / read
            for config, own in zip(configs, taken, strict=True):
                ratio, per_text = measuring.paired_ratio(own, dense), measuring.median(own) / len(rows)
                shown = len(rows), size, padding, per_text, ratio, measuring.spread(own)
                found.append((config.task, *way_of(config), *shown))
    return pd.DataFrame(found, columns=COLUMNS)


@click.command(cls=Sentences, context_settings=HELP)
@click.argument("grid")
@click.option("--models", default="runs/models", type=Path, help="Folder of the models.")
@click.option("--texts", default=512, type=click.IntRange(1), help="Rows that are read.")
@click.option("--rounds", default=5, type=click.IntRange(3), help="Rounds of turns.")
@folder_options("data", "runs")
def main(grid: str, models: Path, texts: int, rounds: int, folders: Folders) -> None:
    """Time inference under each setting of a GRID of ways to spend less."""
    configs = first_seed(grid)
    places, first = models_of(configs, models, folders), configs[0]
    task = get_task(first.task, folders)
    whole = prepare(
        task, first.encoder, first.max_length or task.max_length, first.train_size, first.eval_size
    )
    frame = times(configs, places, spread_out(whole["validation"], texts), rounds)
    made = measuring.provenance(grid=Path(grid).name, encoder=first.encoder, texts=texts, rounds=rounds)
    path = results_dir() / "times" / f"{Path(grid).stem}.json"
    write_whole(path, measuring.costs_json(frame, made))
    click.echo(frame.drop(columns=["task", "texts"]).to_string(index=False, float_format="{:.3g}".format))


if __name__ == "__main__":
    main()
