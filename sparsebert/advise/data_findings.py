"""What is in the data: findings in plain words, before anything is trained.

A finding that makes every answer worthless stops (`check`); others are shown.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from sparsebert.data.tasks import Task
from sparsebert.data.tasks.files import HELD_OUT
from sparsebert.data.tasks.metrics import entity_counts
from sparsebert.data.tasks.task import CONFIRMED, one_text
from sparsebert.errors import InputError, shown
from sparsebert.models.encoders import load_tokenizer, quiet
from sparsebert.study import power
from sparsebert.study.captions import listed

LOOKED_AT = 2_000  # rows whose tokens are counted
LEAKED = 0.1  # of the evaluation rows: with more of them, the loss on new texts stays unknown
LOPSIDED = 0.9  # of the rows in the largest class, beyond which accuracy says little
CUT = 0.1  # of the texts
MOST_NAMED = 6  # labels in a sentence
# What rows and seeds are taken to do before anything is measured, see `sparsebert.study.power.chance`: 3 % of
# the rows differ with every seed, and losses scatter by 0.7 points over seeds.
DISAGREEMENT, SCATTER, SEEDS = 0.03, 0.7, 5
PARTS = {"train": "training", "validation": "choosing", "test": "confirmation"}
NOUNS = {"texts": ("row", "label", "classes"), "words": ("word", "tag", "tags")}  # by what a task labels


@dataclass(frozen=True)
class DataFinding:
    """What is so in the data, in one sentence, with the number that it is about if others go on from that.

    One that `stops` makes every answer from these data worthless.
    """

    kind: str
    severity: Literal["stops", "warns", "tells"]
    sentence: str
    value: float | None = None


def check(findings: Iterable[DataFinding]) -> None:
    """`InputError` with the sentence of the first finding that stops."""
    for finding in findings:
        if finding.severity == "stops":
            raise InputError(finding.sentence)


def look(task: Task, encoder: str, max_length: int | None = None, max_loss: float = 1.0) -> list[DataFinding]:
    """What is in a task with a part `test` (see `Task.confirmed`): what stops first, then warnings.

    `max_length` is by default the task's, and `max_loss` the loss in points that a promise is asked for.
    """
    splits = task.load()
    rows = pd.concat([splits[part].to_pandas().assign(part=part) for part in PARTS], ignore_index=True)
    rows["text"] = rows["text"].map(one_text)
    if task.labelled == "words":
        rows["label"] = rows["label"].map(tuple)
    texts = rows[["text", "text_pair"]].agg("\x1f".join, axis=1) if task.paired else rows["text"]
    rows["key"] = texts.str.casefold().str.split().str.join(" ")
    found = [
        *_sizes(task, rows, max_loss),
        *(_classes(task, rows) if task.label_names else _numbers(rows)),
        *_lengths(task, rows, encoder, max_length or task.max_length),
        *_repeated(task, rows),
    ]
    return sorted(found, key=lambda finding: ("stops", "warns", "tells").index(finding.severity))


def files_of(confirming: float) -> str:
    """The files that have so many confirmation rows, in words: one that is split, or one to evaluate on.

    >>> files_of(150)
    'a file of about 1,200 labelled rows, or a second one of about 230 to evaluate on'
    """
    sizes = []
    for rows in (confirming / CONFIRMED / HELD_OUT, confirming / CONFIRMED):
        step = 10 ** max(0, len(str(int(rows))) - 2)  # rounded up, as each class is split by itself
        sizes.append(f"{step * math.ceil(rows / step):,}")
    return f"a file of about {sizes[0]} labelled rows, or a second one of about {sizes[1]} to evaluate on"


def _sizes(task: Task, rows: pd.DataFrame, max_loss: float) -> Iterator[DataFinding]:
    train, choosing, confirming = (int((rows["part"] == part).sum()) for part in PARTS)
    said = (
        f"There are {train:,} rows to train on, {choosing:,} to choose by, and {confirming:,} to confirm on."
    )
    yield DataFinding("rows", "tells", said)
    labels = rows.loc[rows["part"] == "test", "label"]
    what, confirming = f"confirmation {NOUNS[task.labelled][0]}s", len(labels.explode())
    if task.entities:
        tags = [[task.label_names[tag] for tag in sentence] for sentence in labels]
        what, confirming = "confirmation entities", int(entity_counts(tags, tags)[:, 0].sum())
    asked = f"that at most {max_loss:g} points are lost"
    least = math.ceil(300 / max_loss)  # the rule of three: if none of n rows differs, up to 3 in n may
    in_a_row = max(1, confirming) / len(labels)
    if confirming < least:
        said = f"{confirming:,} {what} can't show {asked}, whatever they say: {least:,} are needed"
        said += f"; give {files_of(least / in_a_row)}, or allow a larger loss."
        yield DataFinding("too few rows", "stops", said)
        return
    usual = power.rows_needed(0.5, max_loss, SCATTER, DISAGREEMENT, SEEDS)
    if task.label_names and (usual is None or confirming < usual):
        said = f"{confirming:,} {what} will hardly show {asked}"
        if usual:
            said += f"; an even chance takes about {usual:,}, as in {files_of(usual / in_a_row)}."
        else:
            said += ", as seeds alone scatter by more."
        yield DataFinding("few rows", "warns", said)


def _classes(task: Task, rows: pd.DataFrame) -> Iterator[DataFinding]:
    one, label, classes = NOUNS[task.labelled]
    for part, own in rows.groupby("part", sort=False):
        labels = own["label"].explode()
        if labels.nunique() == 1:
            name = shown(task.label_names[labels.iloc[0]])
            said = (
                f"Every {PARTS[part]} {one} has the {label} '{name}'; give {one}s of at least two {classes}."
            )
            yield DataFinding("one class", "stops", said)
    folded = pd.Series(task.label_names).str.casefold().str.split().str.join("")
    if alike := [f"'{shown(task.label_names[n])}'" for n in folded.index[folded.duplicated(keep=False)]]:
        said = f"The {label}s {listed(alike[:MOST_NAMED])} differ in case or blanks alone"
        yield DataFinding("labels alike", "warns", f"{said}; write each class in one way.")
    labels = rows.loc[rows["part"] == "train", "label"].explode()
    count = labels.value_counts()
    if len(count) > max(2, len(labels) / 2):
        said = f"{len(labels):,} training {one}s have {len(count):,} different {label}s, nearly one each"
        said += f", as ids do; give {classes} that many {one}s share."
        yield DataFinding("labels all different", "stops", said)
    largest, share = shown(task.label_names[count.index[0]]), count.iloc[0] / len(labels)
    said = f"Of {len(task.label_names)} {classes} the largest, '{largest}', has {share:.0%} of the training "
    said += f"{one}s"
    if share < LOPSIDED or task.entities:
        yield DataFinding("classes", "tells", f"{said}, and the smallest has {count.iloc[-1]:,} {one}s.")
    else:
        yield DataFinding("classes", "warns", f"{said}; always answering '{largest}' is right as often.")


def _numbers(rows: pd.DataFrame) -> Iterator[DataFinding]:
    low, high = rows["label"].min(), rows["label"].max()
    yield DataFinding("labels", "tells", f"The labels are numbers from {low:g} to {high:g}.")


def _lengths(task: Task, rows: pd.DataFrame, encoder: str, max_length: int) -> Iterator[DataFinding]:
    """Of at most `LOOKED_AT` rows, with the special tokens."""
    some, tokenizer = rows.sample(min(LOOKED_AT, len(rows)), random_state=0), load_tokenizer(encoder)
    with quiet():  # texts may be longer than the encoder takes
        encoded = tokenizer(some["text"].tolist(), some["text_pair"].tolist() if task.paired else None)
    lengths = np.array([len(ids) for ids in encoded["input_ids"]])
    cut, median = float((lengths > max_length).mean()), float(np.median(lengths))
    said = f"Texts have {median:.0f} tokens in the median and {lengths.max():,} at most"
    said += f"; {cut:.1%} of them are cut at {max_length} tokens."
    yield DataFinding("lengths", "warns" if cut > CUT else "tells", said, min(median, max_length))
    most = 1 + task.paired + tokenizer.num_special_tokens_to_add(task.paired)
    short = float((lengths <= most).mean())
    if short > 0.5:
        said = f"{short:.0%} of the texts have one token, where attention has nothing to leave out"
        yield DataFinding("one token", "stops", f"{said}; give whole texts.")
    elif short:
        yield DataFinding("one token", "warns", f"{short:.1%} of the texts have one token.")


def _repeated(task: Task, rows: pd.DataFrame) -> Iterator[DataFinding]:
    train, choosing, confirming = (rows[rows["part"] == part] for part in PARTS)
    if repeated := int(train.duplicated(["key", "label"]).sum()):
        said = f"{repeated:,} of the {len(train):,} training rows repeat an earlier one."
        yield DataFinding("duplicates", "warns", said)
    several = int((rows.groupby("key")["label"].nunique() > 1).sum())
    if task.label_names and several:
        said = f"{several:,} texts have several labels each, and no model can be right on all of their rows."
        yield DataFinding("several labels", "warns", said)
    leaked = rows.loc[rows["part"] != "train", "key"].isin(train["key"])
    if leaked.any():
        said = f"{leaked.sum():,} of the {len(leaked):,} evaluation rows have a text of the training rows, "
        said += "where a model can learn it by heart; remove it from one of them."
        yield DataFinding("leakage", "stops" if leaked.mean() > LEAKED else "warns", said)
    if shared := int(confirming["key"].isin(choosing["key"]).sum()):
        said = f"{shared:,} confirmation rows have a text that plans are chosen by, too."
        yield DataFinding("shared rows", "warns", said)
