"""A person's own data: `file:PATH` or `file:TRAIN,VALIDATION`, each a .csv, .tsv or .jsonl file in UTF-8.

Columns: text (or sentence, sentence1), label, and for pairs text_pair (or sentence2); others are ignored. CSV
and TSV as spreadsheets write them: a header line, fields with separators or line breaks in double quotes.
JSONL: one object a line.

Labels written with a decimal point are numbers to predict (regression), and then all must be numbers. Any
others are the names of classes, in alphabetical order (integers by value).

Of a single file a fifth is held out, in each class (`hold_out`).
"""

from __future__ import annotations

import csv
import json
import re
import warnings
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd

from sparsebert.data.tasks.task import Task, hold_out
from sparsebert.errors import InputError

PREFIX = "file:"
COLUMNS = {
    "text": ("text", "sentence", "sentence1"),
    "text_pair": ("text_pair", "sentence2"),
    "label": ("label",),
}
ALL_COLUMNS = tuple(alias for aliases in COLUMNS.values() for alias in aliases)
HELD_OUT = 0.2


def file_task(name: str) -> Task:
    """The task of a name like "file:reviews.csv"; its files are read at once: they say which labels exist.

    Raises `InputError` if a file cannot be read or used.
    """
    files = _paths(name.removeprefix(PREFIX))
    return _file_task(name, files, tuple(path.stat().st_mtime_ns for path in files))


@cache
def _file_task(name: str, files: tuple[Path, ...], changed: tuple[int, ...]) -> Task:
    """`changed`, the files' times of last change, is there so that a changed file is read again."""
    frames = [_read(path) for path in files]
    if len({len(frame.columns) for frame in frames}) > 1:
        raise InputError(f"{files[0]} and {files[1]} must both have a column text_pair, or neither")
    label_names = _label_names(frames[0]["label"], files[0])
    frames = [_with_labels(frame, label_names, path) for frame, path in zip(frames, files, strict=True)]
    splits = dict(zip(("train", "validation"), frames, strict=False))
    if len(frames) == 1:
        splits = hold_out(frames[0], HELD_OUT, stratify=bool(label_names))
        if splits["validation"].empty or splits["train"].empty:
            raise InputError(
                f"{files[0]} has too few different texts of any label to hold some out; "
                f"add rows, or give a second file: {PREFIX}{files[0]},VALIDATION"
            )
    return Task(
        name=name,
        summary=f"your own data: {f'{len(label_names)} classes' if label_names else 'regression'}",
        metrics=("accuracy", "macro_f1") if label_names else ("pearson", "spearman"),
        label_names=label_names,
        max_length=512,
        paired="text_pair" in frames[0],
        source=name.removeprefix(PREFIX),  # as it was named: it is written into prepared data
        licence="your own",
        read=splits.copy,
    )


def _paths(given: str) -> tuple[Path, ...]:
    """One file, or two separated by a comma; a comma may be part of an existing file's name."""
    parts = [given] if Path(given).expanduser().is_file() else given.split(",")
    if not given or len(parts) > 2 or "\0" in given:
        raise InputError(f"'{PREFIX}{given}': write {PREFIX}PATH or {PREFIX}TRAIN,VALIDATION")
    files = tuple(Path(part.strip()).expanduser().resolve() for part in parts)
    for path in files:
        if not path.is_file():
            raise InputError(f"there is no file '{path}'; give its path from the working folder, or from /")
        if path.suffix.lower() not in READERS:
            raise InputError(f"'{path}' must end in {', '.join(READERS)} to say how it is to be read")
    if len(set(files)) < len(files):
        raise InputError(
            f"'{PREFIX}{given}' names one file twice; name two, or one of which a fifth is held out"
        )
    return files


def _read(path: Path) -> pd.DataFrame:
    """Columns text, [text_pair,] label, all of them text."""
    try:
        frame = READERS[path.suffix.lower()](path)
    except OSError as error:
        raise InputError(f"{path} can't be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not in UTF-8 (byte {error.start}); save it as UTF-8") from None
    if frame.empty:
        raise InputError(f"{path} has no rows; it needs a header line and one row for each example")
    frame.columns = [str(column).strip() for column in frame.columns]
    found = {}
    for column, aliases in COLUMNS.items():
        theirs = next((alias for alias in aliases if alias in frame), None)
        if theirs:
            found[column] = theirs
        elif column != "text_pair":
            wanted, there = " or ".join(aliases), ", ".join(frame.columns)
            instead = "rename one"
            if len(frame.columns) == 1 and re.search("[,;\t]", there):
                instead = "separate columns by commas in a .csv and by tabs in a .tsv"
            raise InputError(f"{path} has no column '{wanted}', only: {there}; {instead}")
    frame = pd.DataFrame({column: frame[theirs] for column, theirs in found.items()})
    for column, theirs in found.items():
        empty = ("", "nan") if column == "label" else ("",)
        missing = frame[column].isna() | frame[column].str.strip().str.lower().isin(empty)
        if missing.any():
            row = int(missing.to_numpy().argmax()) + 1
            raise InputError(f"{path}, row {row} of the data: no {theirs}; write one or remove the row")
    return frame.assign(label=frame["label"].str.strip())


def _read_delimited(path: Path, separator: str) -> pd.DataFrame:
    try:
        with warnings.catch_warnings():
            # A warning would mean that all rows are longer than the header and lose their end.
            warnings.simplefilter("error", pd.errors.ParserWarning)
            # Python's engine is strict about quotes: the other takes all rows between two that open as one.
            csv.field_size_limit(2**31 - 1)  # documents may be long
            return pd.read_csv(
                path, sep=separator, dtype=str, keep_default_na=False, index_col=False, engine="python"
            )
    except pd.errors.EmptyDataError:
        raise InputError(f"{path} is empty; it needs a header line and one row for each example") from None
    except (pd.errors.ParserError, pd.errors.ParserWarning) as error:
        raise InputError(
            f"{path} cannot be read ({error}); put texts that hold the separator, a quotation mark or a line "
            "break between double quotes, and write each quotation mark in them twice"
        ) from None


_HALF = re.compile("[\ud800-\udfff]")  # a surrogate, which no text in UTF-8 can hold


def _read_jsonl(path: Path) -> pd.DataFrame:
    rows = []
    for number, line in enumerate(path.read_bytes().decode("utf-8-sig").split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except RecursionError:
            raise InputError(
                f"{path}, line {number}: too deeply nested; write one flat object a line"
            ) from None
        except ValueError as error:  # a number may be too long, too
            raise InputError(f"{path}, line {number}: not JSON ({error}); write one object a line") from None
        if not isinstance(row, dict):
            raise InputError(f'{path}, line {number}: not an object; write {{"text": "...", "label": "..."}}')
        nested = [column for column in ALL_COLUMNS if isinstance(row.get(column), list | dict)]
        if nested:
            raise InputError(f"{path}, line {number}: '{nested[0]}' is a list or an object; write a text")
        rows.append({column: None if value is None else str(value) for column, value in row.items()})
        if half := _HALF.search("".join(filter(None, rows[-1].values()))):
            raise InputError(
                f"{path}, line {number}: {half[0]!a} is half of a character; write its other half, too"
            )
    return pd.DataFrame(rows, dtype=object)


READERS = {
    ".csv": lambda path: _read_delimited(path, ","),
    ".tsv": lambda path: _read_delimited(path, "\t"),
    ".jsonl": _read_jsonl,
}


def _label_names(labels: pd.Series, path: Path) -> tuple[str, ...]:
    """The classes in their order; none if the labels are numbers to predict."""
    if labels.str.fullmatch(r"[+-]?\d*\.\d+([eE][+-]?\d+)?").any():
        return ()
    names = sorted(labels.unique(), key=int if labels.str.fullmatch(r"[+-]?\d{1,18}").all() else None)
    if len(names) < 2:
        raise InputError(f"{path}: every label is '{names[0]}'; a classifier needs at least two classes")
    return tuple(names)


def _with_labels(frame: pd.DataFrame, label_names: tuple[str, ...], path: Path) -> pd.DataFrame:
    """Labels as the indices of classes, or as numbers."""
    if label_names:
        labels = frame["label"].map({name: index for index, name in enumerate(label_names)})
        wanted = f"one of {', '.join(label_names)}"
    else:
        labels = pd.to_numeric(frame["label"], errors="coerce").replace([np.inf, -np.inf], np.nan)
        if labels.nunique(dropna=False) == 1:
            raise InputError(f"{path}: every label is {labels.iloc[0]:g}; there is nothing to predict")
        wanted = "numbers alone, as other labels have a decimal point"
    if labels.isna().any():
        row = int(labels.isna().to_numpy().argmax())
        raise InputError(
            f"{path}, row {row + 1} of the data: label '{frame['label'].iloc[row]}' does not go with "
            f"the others; write {wanted}"
        )
    return frame.assign(label=labels)
