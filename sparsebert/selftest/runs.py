"""Short fine-tunings, interrupted and resumed; and what attention costs on this machine."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sparsebert.bench import PLAN
from sparsebert.bench.measuring import PASSES
from sparsebert.data.rows import Rows
from sparsebert.data.tasks import get_task
from sparsebert.data.tasks.prepared import Needs, PreparedTask, prepared_task
from sparsebert.paths import Folders
from sparsebert.selftest.checks import Check, Finding, NotHere, Wrong
from sparsebert.training.finetuning import finetune
from sparsebert.training.resolved import Run
from sparsebert.training.runs import RunConfig, RunRecord

_ROWS, _BATCH, _LENGTH, _EPOCHS = 64, 8, 24, 2.0
_COSTS = {"cpu": ("fp32", (1024, 2048)), "cuda": ("bf16", (1024, 4096, 16384))}


class _Interrupted(Exception):
    """In the place of Ctrl-C."""


class _Breaking(Rows):
    """Rows that can be read only some times."""

    left: int

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not self.left:
            raise _Interrupted
        self.left -= 1
        return super().__getitem__(index)


@dataclass(frozen=True)
class _Tokens(PreparedTask):
    """Random tokens, the first of which tells the class: a task for machines that have no texts."""

    readable: int | None = None  # how many training rows may be read before it is interrupted

    data_hash = "0" * 64

    def prepared_with(self, needs: Needs) -> dict[str, str]:
        return {}

    def rows(self, *_: object, **__: object) -> dict[str, Rows]:
        splits = {}
        for seed, split in enumerate(("train", "validation")):
            generator = np.random.default_rng(seed)
            lengths = np.sort(generator.integers(6, _LENGTH + 1, _ROWS))
            ids = generator.integers(2000, 9000, lengths.sum())
            label = ids[np.cumsum(lengths) - lengths] % 2
            tokens = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
            kind = Rows if split != "train" or self.readable is None else _Breaking
            splits[split] = kind(lengths, tokens, label.tolist())
            splits[split].left = self.readable
        return splits


def run_checks_of(device: str) -> Iterator[Check]:
    """Runs of a fixed and of a learned plan, and one from prepared data."""
    fixed = {"plan": "neighbour(2) | random(1) | global(cls)"}
    learned = {"plan": "learned | global(cls)", "degrees": {"target_density": 0.4}}
    for name, fields, batches in (("a fixed plan", fixed, 9), ("learned degrees", learned, 12)):
        run = partial(_resumed, device, fields, batches * _BATCH)
        yield Check("runs", f"{name}, interrupted and resumed", run)
    yield Check("runs", "prepared data, as from its texts", partial(_prepared, device))


def cost_checks(device: str) -> Iterator[Check]:
    """Time and memory beside dense attention."""
    dtype, lengths = _COSTS[device]
    for length in lengths:
        yield Check("costs", f"{PLAN}, {length:,} tokens, {dtype}", partial(_cost, length, dtype, device))


def _resumed(device: str, fields: dict[str, Any], readable: int) -> Finding:
    """A run that was interrupted and went on beside one that was not."""
    with tempfile.TemporaryDirectory() as folder:
        scratch, run = Path(folder), _run(device, folder, **fields)
        broken = replace(run, task=_tokens(readable))
        with suppress(_Interrupted):
            finetune(broken, scratch, checkpoint_seconds=0, progress_seconds=0)
        resumed = finetune(run, scratch, progress_seconds=0)
    trained = resumed.examples_per_second["train"] * resumed.seconds["train"]
    if trained > _EPOCHS * _ROWS - readable / 2:
        raise Wrong(f"it began anew: {trained:.0f} rows were trained after the interruption")
    return _apart(resumed, finetune(run, progress_seconds=0))


def _prepared(device: str) -> Finding:
    """A run from prepared data beside the run from the texts that they were made of."""
    try:
        import datasets  # noqa: F401

        from sparsebert.data.tokenizing import write_prepared
    except ImportError as error:
        raise NotHere(f"it needs the package {error.name}") from None
    with tempfile.TemporaryDirectory() as folder:
        rows = [f"{'good' if number % 2 else 'bad'} film {number % 7},{number % 2}" for number in range(80)]
        path = Path(folder, "films.csv")
        path.write_text("\n".join(["text,label", *rows]) + "\n")
        texts = get_task(f"file:{path}", Folders(None, None, Path(folder)))
        write_prepared(texts, "tiny", Path(folder, "prepared"), _LENGTH)
        tokens = prepared_task(texts.name, Path(folder, "prepared"))
        run = _run(device, folder, plan="neighbour(1) | global(cls)", task=texts.name)
        runs = [replace(run, task=task, data_hash=task.data_hash) for task in (tokens, texts)]
        return _apart(*(finetune(each, progress_seconds=0) for each in runs))


def _run(device: str, folder: str, **fields: Any) -> Run:
    if device == "cpu" and torch.cuda.is_available():
        raise NotHere("runs take the GPU that is there; hide it with CUDA_VISIBLE_DEVICES=")
    fields = {"task": "selftest", "encoder": "tiny", "batch_size": _BATCH, "max_length": _LENGTH} | fields
    config = RunConfig.checked(**fields, epochs=_EPOCHS, learning_rate=1e-3, precision="fp32")
    return Run.of(config, Folders(None, None, Path(folder)), _tokens())


def _tokens(readable: int | None = None) -> _Tokens:
    about = ("selftest", "", ("accuracy",), ("odd", "even"), _LENGTH, False, "", "", dict)
    return _Tokens(*about, readable=readable)


def _apart(found: RunRecord, expected: RunRecord) -> Finding:
    """Relative difference of the losses and densities."""
    pairs = {"loss": (found.train_loss, expected.train_loss), "density": (found.density, expected.density)}
    apart = {name: abs(a - b) / abs(b) for name, (a, b) in pairs.items()}
    name = max(apart, key=lambda name: (apart[name] != apart[name], apart[name]))
    return Finding(apart[name], 1e-3, f"{name}, {found.steps} steps")


def _cost(length: int, dtype: str, device: str) -> Finding:
    try:
        from sparsebert.bench.attention import attention_rows
    except ImportError as error:
        raise NotHere(f"it needs the package {error.name}") from None
    options = {"contenders": ["dense", "auto"], "rounds": 3, "dtype": dtype, "device": device}
    dense, ours = attention_rows(PLAN, [length], **options)
    if reasons := ours["left_out"] or dense["left_out"]:
        raise NotHere(reasons)
    said = [
        f"{words} {1e3 * ours[what]:.2f} of {1e3 * dense[what]:.2f} ms, "
        f"{ours[f'memory_{what}'] / 1e6:.0f} of {dense[f'memory_{what}'] / 1e6:.0f} MB"
        for what, words in PASSES.items()
    ]
    return Finding(
        ours["both_over_dense"], None, f"of dense attention's time by {ours['kernel']}: {'; '.join(said)}"
    )
