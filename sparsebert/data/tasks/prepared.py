"""Prepared data: tasks as tokens in a folder, for machines without their texts, a parser or a network.

    FOLDER/reviews-128-0a1b2c3d/prepared.json       what it is: a `Manifest`
    FOLDER/reviews-128-0a1b2c3d/rows.safetensors    arrays of each split, such as train/input_ids

Token columns stand flat, one row after the other, in the smallest integers that hold them; `lengths` says how
many tokens each row has. A split with all its rows has them in the task's order, and `order` is the shuffle
whose first rows a smaller size takes. A split that was cut has the first rows of that shuffle. So runs of
different sizes read one folder. `sparsebert.data.tokenizing` writes it; NumPy and safetensors are enough to
read it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, PositiveInt, model_validator
from safetensors.numpy import load

from sparsebert.data.tasks.metrics import METRICS, REGRESSION
from sparsebert.data.tasks.task import Task
from sparsebert.errors import InputError, shown, unknown_name
from sparsebert.reading import read_bytes, read_model

if TYPE_CHECKING:
    from datasets import DatasetDict

    from sparsebert.data.rows import Rows

MANIFEST, ARRAYS = "prepared.json", "rows.safetensors"
DESCRIBED = ("summary", "metrics", "label_names", "paired", "source", "licence", "data_hash")
DESCRIBED += ("labelled",)  # of a task
SYNTAX = ("word_ids", "head_ids")
LABELS = {"texts": "label", "words": "tags"}  # the column of what is labelled
LARGEST = 2**36  # bytes of arrays


class Needs(NamedTuple):
    """What a run needs of prepared rows; sizes that are None are all there are, what else is None is open."""

    train_size: int | None = None
    eval_size: int | None = None
    parsed: bool = False
    max_length: int | None = None
    tokenizer: str | None = None  # its hash

    def size(self, split: str) -> int | None:
        """Rows of a split."""
        return self.train_size if split == "train" else self.eval_size


class Split(BaseModel):
    """How many rows of a split there are, and how many `of` them the task has."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rows: PositiveInt
    of: PositiveInt

    def covers(self, size: int | None) -> bool:
        """Whether a run of that size can be made from these rows."""
        return self.rows >= min(size or self.of, self.of)


class Manifest(BaseModel):
    """What stands in `prepared.json`: the task, what its rows were made with, and the hash of the arrays.

    `tokenizer` and `sha256` are hashes, `parser` is None where words and heads are left out, `default_length`
    is the task's own `max_length`, `versions` are those of what made the tokens.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    task: str
    summary: str
    metrics: tuple[Annotated[str, Field(pattern=f"^({'|'.join(METRICS)})$")], ...] = Field(min_length=1)
    label_names: tuple[str, ...]
    default_length: PositiveInt
    paired: bool
    labelled: Literal["texts", "words"] = "texts"
    source: str
    licence: str
    data_hash: str
    encoder: str
    tokenizer: str
    max_length: PositiveInt
    parser: str | None
    versions: dict[str, str]
    splits: dict[str, Split]
    sha256: str

    @model_validator(mode="after")
    def _fits(self) -> Manifest:
        if not {"train", "validation"} <= self.splits.keys():
            raise ValueError("splits: there must be train and validation")
        if any(split.rows > split.of for split in self.splits.values()):
            raise ValueError("splits: more rows than the task has")
        if bool(self.label_names) == (self.metrics[0] in REGRESSION):
            raise ValueError("metrics: classes need those of classes, and numbers those of numbers")
        return self

    def covers(self, needs: Needs) -> bool:
        """Whether it has as many rows as a run needs."""
        return all(rows.covers(needs.size(split)) for split, rows in self.splits.items())


@dataclass(frozen=True)
class PreparedTask(Task):
    """A task whose rows are there as tokens alone, cut and parsed in the ways of its `entries`."""

    folder: Path = field(default=Path(), repr=False)
    entries: tuple[tuple[Path, Manifest], ...] = field(default=(), repr=False)

    def load(self) -> DatasetDict:
        """Raises `InputError`: there are no texts."""
        raise InputError(
            f"task '{self.name}' is there as tokens alone, in '{self.folder}', and this needs its texts; "
            "unset SPARSEBERT_PREPARED_DIR"
        )

    @property
    def data_hash(self) -> str:
        """That of the texts which the tokens were made from."""
        return self.entries[0][1].data_hash

    @property
    def sizes(self) -> dict[str, int]:
        """Rows of each split of the task, whether they are all there or not."""
        return {split: rows.of for split, rows in self.entries[0][1].splits.items()}

    def prepared_with(self, needs: Needs) -> dict[str, str]:
        """Versions of what made the tokens that such a run reads."""
        return self.find(needs)[1].versions

    def find(self, needs: Needs) -> tuple[Path, Manifest]:
        """The entry that a run can be made from; `InputError` with the command that makes one if none is."""
        entries, length = list(self.entries), needs.max_length
        wanted: list[tuple[str, Callable[[Manifest], bool]]] = [
            (
                "another tokenizer than the encoder's",
                lambda its: needs.tokenizer in (None, its.tokenizer),
            ),
            (f"rows not cut to {length} tokens", lambda its: length in (None, its.max_length)),
            ("rows without parses", lambda its: bool(its.parser) or not needs.parsed),
            ("fewer rows than asked for", lambda its: its.covers(needs)),
        ]
        for instead, fits in wanted:
            entries = [entry for entry in entries if fits(entry[1])]
            if not entries:
                given = {"max-length": length, "train-size": needs.train_size, "eval-size": needs.eval_size}
                options = "".join(f" --{name} {value}" for name, value in given.items() if value)
                raise InputError(
                    f"the prepared data of '{self.name}' in '{self.folder}' has {instead}; where its texts "
                    f"are, run: sparsebert prepare {self.name} --encoder ENCODER --out FOLDER{options}"
                    + (" --parsed" if needs.parsed else "")
                )
        return entries[0]

    def check(self, needs: Needs) -> None:
        """`InputError` if a run with these needs can't be made, or its rows are no such rows."""
        place, manifest = self.find(needs)
        path = place / ARRAYS
        _check_arrays(place, manifest.sha256, path.stat().st_mtime_ns if path.is_file() else 0)

    def rows(self, needs: Needs) -> dict[str, Rows]:
        """The rows of each split, those of `sparsebert.data.tokenizing.prepare` and in the same order.

        Raises `InputError` if they are not all there, truncated, changed, or not what the manifest says.
        """
        place, manifest = self.find(needs)
        arrays = _read_arrays(place, manifest)
        return {split: rows_of(arrays, split, needs) for split in manifest.splits}


def prepared_tasks(folder: Path) -> tuple[str, ...]:
    """Names of the tasks in a folder of prepared data."""
    return tuple(dict.fromkeys(manifest.task for _, manifest in _entries(folder)))


def prepared_task(name: str, folder: Path) -> PreparedTask:
    """The task of that name; `InputError` if the folder has none, or has it from different texts."""
    entries = tuple(entry for entry in _entries(folder) if entry[1].task == name)
    if not entries:
        raise unknown_name(f"task of the prepared data in {folder}", name, prepared_tasks(folder))
    (first, manifest), *others = entries
    for other, its in others:
        if (its.data_hash, its.label_names) != (manifest.data_hash, manifest.label_names):
            raise InputError(
                f"'{first.name}' and '{other.name}' in '{folder}' were made from different data of "
                f"'{name}'; remove one of them"
            )
    said = {field: getattr(manifest, field) for field in DESCRIBED if field != "data_hash"}
    length = manifest.default_length
    return PreparedTask(name=name, max_length=length, read=dict, folder=folder, entries=entries, **said)


def whole_manifest(place: Path) -> Manifest | None:
    """What `place` says it holds, if it holds all of that, unchanged."""
    try:
        manifest = read_manifest(place)
        _content(place, manifest.sha256)
    except (InputError, OSError):
        return None
    return manifest


def read_manifest(place: Path) -> Manifest:
    """What `place` says it holds; `InputError` if that is not what this version writes."""
    return read_model(place / MANIFEST, Manifest, "the prepared data", "prepare it again")


def _entries(folder: Path) -> list[tuple[Path, Manifest]]:
    places = sorted(path.parent for path in folder.glob(f"*/{MANIFEST}"))
    if (folder / MANIFEST).is_file():
        places.append(folder)
    if not places:
        raise InputError(f"'{folder}' holds no prepared data; give a folder that `sparsebert prepare` wrote")
    return [(place, read_manifest(place)) for place in places]


@cache
def _check_arrays(place: Path, sha256: str, changed: int) -> None:
    """Once for each content: `changed` is the time of the file's last change."""
    _read_arrays(place, read_manifest(place))


def _read_arrays(place: Path, manifest: Manifest) -> dict[str, np.ndarray]:
    """The columns of all splits; `InputError` if they don't hold what the manifest says."""
    content = _content(place, manifest.sha256)
    try:
        arrays = load(content)
    except Exception as error:  # SafetensorError, KeyError for a type that NumPy lacks, ...
        raise InputError(
            f"'{shown(place / ARRAYS)}' holds no arrays ({shown(error)}); prepare it again"
        ) from None
    for split, rows in manifest.splits.items():
        if mistake := _mistake(_columns(arrays, split), rows, manifest):
            raise InputError(f"'{shown(place / ARRAYS)}', {split}: {mistake}; prepare it again")
    return arrays


def _columns(arrays: dict[str, np.ndarray], split: str) -> dict[str, np.ndarray]:
    return {n.removeprefix(f"{split}/"): each for n, each in arrays.items() if n.startswith(f"{split}/")}


def _mistake(columns: dict[str, np.ndarray], rows: Split, manifest: Manifest) -> str | None:
    """How the columns of a split contradict a manifest that was edited by hand, if they do."""
    label, classes = LABELS[manifest.labelled], len(manifest.label_names)
    needed = ["lengths", label, "input_ids", *(["order"] if rows.rows == rows.of else [])]
    needed += SYNTAX if manifest.parser else []
    if missing := [name for name in needed if name not in columns]:
        return f"there is no column {missing[0]}"
    if len(lengths := columns["lengths"]) != rows.rows:
        return f"there are {len(lengths):,} rows and not {rows.rows:,}"
    if lengths.max() > manifest.max_length:
        return f"a row has {lengths.max()} tokens, and max_length is {manifest.max_length}"
    if classes and columns[label].max() >= classes:
        return f"{label} holds {columns[label].max()}, and there are {classes} classes"
    return None


def _content(place: Path, sha256: str) -> bytes:
    content = read_bytes(place / ARRAYS, "the prepared data", "prepare it again", most=LARGEST)
    if hashlib.sha256(content).hexdigest() != sha256:
        raise InputError(f"'{shown(place / ARRAYS)}' is truncated, or was changed later; prepare it again")
    return content


def rows_of(arrays: dict[str, np.ndarray], split: str, needs: Needs) -> Rows:
    """The rows of a split that a run takes, in its order."""
    from sparsebert.data.rows import Rows

    columns, size = _columns(arrays, split), needs.size(split)
    lengths, label = columns.pop("lengths").astype(np.int64), columns.pop("label", None)
    order = columns.pop("order", None)
    chosen = np.arange(len(lengths))
    if size is not None and (order is None or size < len(order)):
        chosen = (chosen if order is None else order)[:size]
    if split != "train":
        chosen = chosen[np.argsort(lengths[chosen], kind="stable")]
    columns = {name: flat for name, flat in columns.items() if needs.parsed or name not in SYNTAX}
    rows = Rows(lengths, columns, None if label is None else label.tolist())
    if split != "train" or len(chosen) < len(lengths):
        rows = rows.select(chosen)
    rows.tokens = {name: flat.astype(np.int64) for name, flat in rows.tokens.items()}
    rows.tokens["attention_mask"] = np.ones_like(rows.tokens["input_ids"])
    return rows
