"""Files of words and their tags: in CoNLL columns, or JSONL with `words` and `tags`.

Columns: one word a line, its tag in the last column, a blank line behind each sentence. Columns in between
and lines that begin with -DOCSTART- are ignored. All columns are separated by tabs, or all by spaces. JSONL:
`{"words": ["EU", "rejects"], "tags": ["B-ORG", "O"]}`, one sentence a line.

O and tags that begin with B- or I- mark entities, in IOB1 or IOB2, and the score is F1 of whole entities.
BIOES and BILOU are read as IOB2: S- and U- become B-, E- and L- become I-. Other tags, none of which begins
with B- or I-, are classes of words, such as parts of speech: the scores are accuracy and macro F1 over words.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from sparsebert.errors import InputError, shown
from sparsebert.reading import wrong_line

HALF = re.compile("[\ud800-\udfff]")  # a surrogate, which no text in UTF-8 can hold
_IOB, _IOBES = re.compile("O|[BI]-.+"), re.compile("O|[BIESLU]-.+")
_IN_IOB = str.maketrans("SUEL", "BBII")
_COLUMNS = "write a word and its tag in each line, with tabs between all columns or spaces between all"
_OBJECT = '{"words": ["EU", "rejects"], "tags": ["B-ORG", "O"]}'


def of_columns(path: Path, text: str) -> pd.DataFrame:
    """Columns text (the words of a sentence), label (their tags) and lines (where they stand)."""
    separator, width = "\t" if "\t" in text else " +", 0
    sentences: list[tuple[list, list, list]] = [([], [], [])]
    for number, line in enumerate(text.split("\n"), start=1):
        line = line.strip(" \r")
        if not line.strip() or line.startswith("-DOCSTART-"):
            sentences.append(([], [], []))
            continue
        fields = [field.strip() for field in re.split(separator, line)]
        width = max(width or len(fields), 2)  # as in the first line
        if len(fields) != width:
            raise wrong_line(path, number, f"columns: {len(fields)}, and {width} are needed; {_COLUMNS}")
        for place, value in zip(sentences[-1], (fields[0], fields[-1], number), strict=True):
            place.append(value)
    if not (found := [sentence for sentence in sentences if sentence[0]]):
        raise InputError(f"{path} has no sentences; {_COLUMNS}")
    return _frame(path, found)


def of_objects(path: Path, rows: Mapping[int, dict[str, Any]]) -> pd.DataFrame:
    """As `of_columns`, from the objects of a JSONL file by their lines."""
    sentences = []
    for number, row in rows.items():
        found: list[Any] = [row.get(name) for name in ("words", "tags")]
        if not all(isinstance(each, list) and all(isinstance(one, str) for one in each) for each in found):
            raise wrong_line(path, number, f"words and tags are not both lists of texts; write {_OBJECT}")
        words, tags = ([one.strip() for one in each] for each in found)
        if not words or len(words) != len(tags):
            counts = f"{len(words)} words and {len(tags)} tags" if words else "a sentence without words"
            raise wrong_line(path, number, f"{counts}; write {_OBJECT}")
        sentences.append((words, tags, [number] * len(words)))
    return _frame(path, sentences)


def _frame(path: Path, sentences: Sequence[tuple[list[str], list[str], list[int]]]) -> pd.DataFrame:
    for sentence in sentences:
        for word, tag, line in zip(*sentence, strict=True):
            if not word or not tag:
                raise wrong_line(path, line, f"an empty {'tag' if word else 'word'}; write one")
            if half := HALF.search(word + tag):
                raise wrong_line(path, line, f"{half[0]!a} is half of a character; write its other half, too")
            if not tag.isprintable():
                raise wrong_line(path, line, "the tag holds a line break or the like; write a word")
    return pd.DataFrame(sentences, columns=["text", "label", "lines"])


def with_tags(
    frames: Sequence[pd.DataFrame], files: Sequence[Path]
) -> tuple[list[pd.DataFrame], dict[str, Any]]:
    """The frames with tags as the indices of their names, and what the task is."""
    words = [frame.explode(["label", "lines"]) for frame in frames]
    if all(_IOBES.fullmatch(tag) for each in words for tag in each["label"]):
        for each in words:
            each["label"] = [tag[0].translate(_IN_IOB) + tag[1:] for tag in each["label"]]
    names = sorted(words[0]["label"].unique())
    if len(names) < 2:
        raise InputError(f"{files[0]}: every tag is '{shown(names[0])}'; a model needs at least two tags")
    entities = any(name != "O" and _IOB.fullmatch(name) for name in names)
    for path, each in zip(files, words, strict=True):
        for tag, line in zip(each["label"], each["lines"], strict=True):
            if tag not in names:
                known = shown(", ".join(names), 200)
                raise wrong_line(path, line, f"tag '{shown(tag)}' is not in {files[0]}, which has {known}")
            if entities and not _IOB.fullmatch(tag):
                what = f"tag '{shown(tag)}' has no B- or I- before it, as others have"
                raise wrong_line(path, line, f"{what}; write O, or B- or I- before the type")
    places = {name: index for index, name in enumerate(names)}
    indices = [each["label"].map(places).groupby(level=0).agg(list) for each in words]
    types = {name[2:] for name in names} - {""}
    return [frame.assign(label=label) for frame, label in zip(frames, indices, strict=True)], {
        "summary": f"your own data: {len(names)} tags" + (f" of {len(types)} entities" if entities else ""),
        "metrics": ("entity_f1", "accuracy") if entities else ("accuracy", "macro_f1"),
        "label_names": tuple(names),
        "labelled": "words",
    }
