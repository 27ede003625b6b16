"""A person's own data: `file:PATH` or `file:TRAIN,VALIDATION`, each a .csv, .tsv, .jsonl or .conll in UTF-8.

Columns: text (or sentence, sentence1), label, and for pairs text_pair (or sentence2); others are ignored. CSV
and TSV as spreadsheets write them: a header line, fields with separators or line breaks in double quotes.
JSONL: one object a line.

Labels written with a decimal point are numbers to predict (regression), and then all must be numbers. Any
others are the names of classes, in alphabetical order (integers by value).

Of a single file a fifth is held out, in each class (`hold_out`).

Files of words and their tags (.conll, .txt, or .jsonl with `words` and `tags`) are `tagged`'s.
"""

from __future__ import annotations

import csv
import io
import itertools
import json
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd

from sparsebert.data.tasks import tagged
from sparsebert.data.tasks.task import Task, hold_out
from sparsebert.errors import InputError, shown
from sparsebert.reading import path_of, read_text, wrong_line

PREFIX = "file:"
COLUMNS = {
    "text": ("text", "sentence", "sentence1"),
    "text_pair": ("text_pair", "sentence2"),
    "label": ("label",),
}
ALL_COLUMNS = tuple(alias for aliases in COLUMNS.values() for alias in aliases)
HELD_OUT = 0.2
LARGEST_FILE = 2**31  # bytes, since it is read whole
LARGEST_LABEL = 1e12  # of numbers to predict: squares of errors and of gradients have to fit into 32 bits
_INTEGER, _DECIMAL = r"[+-]?\d{1,18}", r"[+-]?\d*\.\d+([eE][+-]?\d+)?"


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
    if len({"lines" in frame for frame in frames}) > 1:
        raise InputError(f"{files[0]} and {files[1]} must both have words with tags, or neither")
    frames, about = (tagged.with_tags if "lines" in frames[0] else _with_labels)(frames, files)
    splits = dict(zip(("train", "validation"), frames, strict=False))
    if len(frames) == 1:
        splits = hold_out(frames[0], HELD_OUT, stratify=bool(about["label_names"]))
        if splits["validation"].empty or splits["train"].empty:
            if len(about["label_names"]) == len(frames[0]) > 2 and "lines" not in frames[0]:
                raise InputError(
                    f"{files[0]}: every row has a label of its own, as an id has; write classes, such as "
                    "good and bad, which many rows share"
                )
            raise InputError(
                f"{files[0]} has too few different texts of any label to hold some out; "
                f"add rows, or give a second file: {PREFIX}{files[0]},VALIDATION"
            )
    return Task(
        name=name,
        max_length=512,
        paired="text_pair" in frames[0],
        source=name.removeprefix(PREFIX),  # as it was named: it is written into prepared data
        licence="your own",
        read=splits.copy,
        **about,
    )


def _paths(given: str) -> tuple[Path, ...]:
    """One file, or two separated by a comma; a comma may be part of an existing file's name."""
    parts = [given] if "," in given and path_of(given).is_file() else given.split(",")
    if not given or len(parts) > 2:
        raise InputError(f"'{PREFIX}{shown(given)}': write {PREFIX}PATH or {PREFIX}TRAIN,VALIDATION")
    files = tuple(path_of(part.strip()).resolve() for part in parts)
    for path in files:
        if not path.exists():
            raise InputError(
                f"there is no file '{shown(path)}'; give its path from the working folder, or from /"
            )
        if path.suffix.lower() not in READERS:
            raise InputError(f"'{shown(path)}' must end in {', '.join(READERS)} to say how it is to be read")
    if len(set(files)) < len(files):
        raise InputError(
            f"'{PREFIX}{shown(given)}' names one file twice; name two, or one of which a fifth is held out"
        )
    return files


def _read(path: Path) -> pd.DataFrame:
    """Columns text, [text_pair,] label, all of them text; the index has the lines that rows begin at.

    Of words with tags, what `tagged` gives.
    """
    text = read_text(path, "the data", most=LARGEST_FILE)
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise wrong_line(path, line, "a NUL character; save the file as text in UTF-8")
    return READERS[path.suffix.lower()](path, text)


def _of_texts(path: Path, frame: pd.DataFrame) -> pd.DataFrame:
    """Our columns alone."""
    if frame.empty:
        raise InputError(f"{path} has no rows; it needs a header line and one row for each example")
    names = _columns(path, list(frame))
    frame = pd.DataFrame({column: frame[theirs] for column, theirs in names.items()})
    for column, theirs in names.items():
        empty = ("", "nan") if column == "label" else ("",)
        missing = frame[column].isna() | frame[column].str.strip().str.lower().isin(empty)
        if missing.any():
            raise wrong_line(path, missing.idxmax(), f"no {theirs}; write one or remove the row")
    return frame.assign(label=frame["label"].str.strip())


def _columns(path: Path, names: Sequence[str]) -> dict[str, str]:
    """What the file calls our columns."""
    found = {}
    for column, aliases in COLUMNS.items():
        theirs = next((alias for alias in aliases if alias in names), None)
        if theirs:
            found[column] = theirs
            if names.count(theirs) > 1:
                raise InputError(f"{path} has the column '{theirs}' twice; rename or remove one")
        elif column != "text_pair":
            wanted, there = " or ".join(aliases), shown(", ".join(names), 200)
            instead = "rename one"
            if len(names) == 1 and re.search("[,;\t]", names[0]):
                instead = "separate columns by commas in a .csv and by tabs in a .tsv"
            raise InputError(f"{path} has no column '{wanted}', only: {there}; {instead}")
    return found


def _read_delimited(path: Path, text: str, separator: str) -> pd.DataFrame:
    """Fields and quotation marks as spreadsheets write them; see `_joined` for what is refused."""
    advice = (
        "put texts that hold the separator, a quotation mark or a line break between double quotes, and "
        "write each quotation mark in them twice; or write the file as .jsonl"
    )
    csv.field_size_limit(LARGEST_FILE - 1)  # documents may be long
    lines = list(io.StringIO(text, newline=""))
    reader = csv.reader(lines, delimiter=separator, strict=True)
    header, rows, spans, start = [], [], [], 0
    try:
        for fields in reader:
            here, start = slice(start, reader.line_num), reader.line_num
            if not any(fields) and len(fields) < 2:
                continue
            if not header:
                header = [name.strip() for name in fields]
                _columns(path, header)
                continue
            if len(fields) != len(header):
                what = f"{len(fields)} fields, and the header has {len(header)}"
                raise wrong_line(path, here.start + 1, f"{what}; {advice}")
            rows.append(fields)
            spans.append(here)
    except csv.Error as error:
        raise wrong_line(path, start + 1, f"it cannot be read ({error}); {advice}") from None
    if not header:
        raise InputError(f"{path} is empty; it needs a header line and one row for each example")
    place = header.index("label")
    labels = {fields[place].strip() for fields in rows}
    for span in spans:
        if span.stop - span.start > 1 and _joined(lines[span], separator, len(header), place, labels):
            raise wrong_line(
                path, span.start + 1, f"a quotation mark makes one row of this line and the next; {advice}"
            )
    lines = [span.start + 1 for span in spans]
    return _of_texts(path, pd.DataFrame(rows, columns=header, index=lines, dtype=object))


def _joined(lines: list[str], separator: str, fields: int, place: int, labels: set[str]) -> bool:
    """Whether two of the lines that a row takes look like rows: all the fields, and a label in its place.

    In a .tsv the number of fields is enough, as texts hardly ever hold a tab.
    """
    numbers = any(re.fullmatch(_DECIMAL, label) for label in labels)

    def alike(line: str) -> bool:
        parts = line.split(separator)
        label = parts[place].strip('" \r\n') if len(parts) == fields else None
        known = label in labels or (numbers and re.fullmatch(_DECIMAL, label or ""))
        return label is not None and (separator == "\t" or bool(known))

    return sum(map(alike, lines)) > 1


def _read_jsonl(path: Path, text: str) -> pd.DataFrame:
    rows, objects = {}, {}
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line, object_pairs_hook=_without_doubles, parse_constant=_no_number)
        except RecursionError:
            raise wrong_line(path, number, "too deeply nested; write one flat object a line") from None
        except ValueError as error:  # a number may be too long, too
            raise wrong_line(path, number, f"not JSON ({shown(error)}); write one object a line") from None
        if not isinstance(row, dict):
            raise wrong_line(path, number, 'not an object; write {"text": "...", "label": "..."}')
        nested = [column for column in ALL_COLUMNS if isinstance(row.get(column), list | dict)]
        if nested:
            raise wrong_line(path, number, f"'{nested[0]}' is a list or an object; write a text")
        objects[number] = row
        rows[number] = {
            column: value if isinstance(value, str | None) else json.dumps(value)
            for column, value in row.items()
        }
        if half := tagged.HALF.search("".join(filter(None, rows[number].values()))):
            raise wrong_line(path, number, f"{half[0]!a} is half of a character; write its other half, too")
    first = next(iter(objects.values()), {})
    if "words" in first and not first.keys() & set(COLUMNS["text"]):
        return tagged.of_objects(path, objects)
    return _of_texts(path, pd.DataFrame(list(rows.values()), index=list(rows), dtype=object))


def _without_doubles(pairs: list[tuple[str, object]]) -> dict[str, object]:
    row = {name.strip(): value for name, value in pairs}
    if len(row) < len(pairs):
        raise ValueError("a key stands twice")
    return row


def _no_number(constant: str) -> None:
    raise ValueError(f"{constant} is no number of JSON")


READERS = {
    ".csv": lambda path, text: _read_delimited(path, text, ","),
    ".tsv": lambda path, text: _read_delimited(path, text, "\t"),
    ".jsonl": _read_jsonl,
    ".conll": tagged.of_columns,
    ".txt": tagged.of_columns,
}


def _label_names(labels: pd.Series, path: Path) -> tuple[str, ...]:
    """The classes in their order; none if the labels are numbers to predict."""
    if labels.str.fullmatch(_DECIMAL).any():
        return ()
    integers = labels.str.fullmatch(_INTEGER).all()
    names = sorted(labels.unique(), key=int if integers else None)
    if len(names) < 2:
        name = shown(names[0])
        raise InputError(f"{path}: every label is '{name}'; a classifier needs at least two classes")
    for name, other in itertools.pairwise(names):
        if integers and int(name) == int(other):
            raise InputError(f"{path}: the labels '{name}' and '{other}' are one number; write it one way")
    broken = labels.str.contains(r"[\x00-\x1f\x7f\x85\u2028\u2029]")
    if broken.any():
        raise wrong_line(path, broken.idxmax(), "the label holds a line break or the like; write a word")
    return tuple(names)


def _with_labels(
    frames: Sequence[pd.DataFrame], files: Sequence[Path]
) -> tuple[list[pd.DataFrame], dict[str, Any]]:
    """Frames with labels as the indices of classes, or as numbers; and what the task is."""
    if len({len(frame.columns) for frame in frames}) > 1:
        raise InputError(f"{files[0]} and {files[1]} must both have a column text_pair, or neither")
    label_names = _label_names(frames[0]["label"], files[0])
    about = {
        "summary": f"your own data: {f'{len(label_names)} classes' if label_names else 'regression'}",
        "metrics": ("accuracy", "macro_f1") if label_names else ("pearson", "spearman"),
        "label_names": label_names,
    }
    return [_numbered(frame, label_names, path) for frame, path in zip(frames, files, strict=True)], about


def _numbered(frame: pd.DataFrame, label_names: tuple[str, ...], path: Path) -> pd.DataFrame:
    """Labels as the indices of classes, or as numbers; rows are counted anew."""
    if label_names:
        labels = frame["label"].map({name: index for index, name in enumerate(label_names)})
        wanted = f"one of {shown(', '.join(label_names), 200)}"
    else:
        labels = pd.to_numeric(frame["label"], errors="coerce")
        labels = labels.where(labels.abs() <= LARGEST_LABEL)
        wanted = f"numbers alone, as other labels have a decimal point, and none beyond {LARGEST_LABEL:g}"
    if labels.isna().any():
        line = labels.isna().idxmax()
        label = shown(frame["label"][line])
        raise wrong_line(path, line, f"label '{label}' does not go with the others; write {wanted}")
    if not label_names and labels.nunique() == 1:
        raise InputError(f"{path}: every label is {labels.iloc[0]:g}; there is nothing to predict")
    return frame.assign(label=labels).reset_index(drop=True)
