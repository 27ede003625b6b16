"""What a plan saves at given lengths: time and memory per text against dense attention, measured here.

It needs no labels: an encoder, a plan and lengths are enough. Steps are those of `sparsebert.bench.models`,
on random tokens and with the kernel that `auto` takes.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd

from sparsebert.bench.models import model_rows
from sparsebert.patterns.plans import parse_plan
from sparsebert.training.runs import RunRecord

BATCH_TOKENS = 2048  # of a batch, which has at least two texts
FASTER = 0.05  # of dense attention's time, which two equal models may differ by
_LONGER = 1.5  # what a step with more tokens may take beyond its share, as attention grows with their square


def measure(
    plan: str,
    encoder: str,
    lengths: Sequence[int],
    left: Callable[[], float] = lambda: math.inf,
    rounds: int = 3,
) -> pd.DataFrame:
    """A row for each length and batch, single texts first, as far as the seconds `left` suffice.

    Columns: `length`, `batch` (texts at once); `dense_seconds` and `seconds` per text; `over_dense`, the
    median of the rounds' own ratios; `spread` of the less steady one; `dense_memory` and `memory` in bytes
    per text; `kernel`; `saves`, whether time is saved beyond the noise, or the plan alone could be measured;
    `left_out`, what could not be and why. Raises what `model_rows` does.
    """
    rows, pace, beside = [], 0.0, 0.0  # seconds for a token, and for what does not grow
    for single, length in itertools.product((True, False), sorted(lengths)):
        batch = 1 if single else max(2, BATCH_TOKENS // length)
        tokens = length * batch
        if beside + _LONGER * pace * tokens > left():
            continue
        started = time.monotonic()
        options = {"encoder": encoder, "modes": ["inference"], "tokens": tokens, "rounds": rounds}
        both = pd.DataFrame(model_rows(plan, [length], **options)).set_index("contender")
        rows.append({"length": length, "batch": batch} | _row(both.loc["dense"], both.loc["plan"], batch))
        stepping = 3 * (rounds + 1) * both["seconds"].sum()
        pace, beside = stepping / tokens, max(beside, time.monotonic() - started - stepping)
    return pd.DataFrame(rows)


def in_words(saved: pd.DataFrame) -> list[str]:
    """What is saved, a sentence for each length and batch; where nothing is saved stands first."""
    if saved.empty:
        return ["No time was left to measure what is saved; give a longer budget."]
    sentences = []
    for row in saved.sort_values("saves", kind="stable").itertuples():
        where = (
            f"At {row.length:,} tokens, {'one text' if row.batch == 1 else f'{row.batch} texts'} at a time"
        )
        if left_out := getattr(row, "left_out", ""):  # the log of an earlier search lacks it
            sentences.append(f"{where}, {left_out}.")
            continue
        memory = 1 - row.memory / row.dense_memory
        lighter = (
            f"; memory is {abs(memory):.0%} {'less' if memory > 0 else 'more'}" if row.dense_memory else ""
        )
        if row.saves:
            sentences.append(f"{where}, a text takes {1 - row.over_dense:.0%} less time{lighter}.")
        elif row.over_dense < 1:
            differ = f", and the rounds differ by {row.spread:.0%}" if row.spread > FASTER else ""
            of_dense = f"{row.over_dense:.2f} times dense attention's"
            sentences.append(f"{where}, no saving is sure: it is {of_dense}{differ}{lighter}.")
        else:
            of_dense = f"{row.over_dense:.2f} times dense attention's"
            sentences.append(f"{where}, no time is saved: it is {of_dense}{lighter}.")
    return sentences


def measurable(record: RunRecord, folder: Path) -> str:
    """The plan of a run; degrees that it learned are written to `folder`, and named in the plan."""
    plan = parse_plan(record.config.plan)
    if record.learning is None:
        return str(plan)
    path = record.learning.degrees.save(folder / f"degrees-{record.name}.json")
    return str(plan.with_files(lambda named: named or str(path)))


def _row(dense: pd.Series, own: pd.Series, batch: int) -> dict[str, object]:
    spread = float(max(dense["spread"], own["spread"]))
    named = {"dense attention": dense["left_out"], "the plan": own["left_out"]}
    left_out = [f"{name} could not be measured: {why}" for name, why in named.items() if why]
    return {
        "dense_seconds": float(dense["seconds"]) / batch,
        "seconds": float(own["seconds"]) / batch,
        "over_dense": float(own["over_dense"]),
        "spread": spread,
        "dense_memory": float(dense["memory"]) / batch,
        "memory": float(own["memory"]) / batch,
        "kernel": own["kernel"],
        "saves": bool(
            own["over_dense"] < 1 - max(FASTER, spread) or (dense["left_out"] and not own["left_out"])
        ),
        "left_out": "; ".join(left_out),
    }
