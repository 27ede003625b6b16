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
_ROLES = str.maketrans("SUEL", "BBII")
_SEPARATED = "write a word and its tag in each line, with tabs between all columns or spaces between all"


def of_columns(path: Path, text: str) -> pd.DataFrame:
    """Columns text (the words of a sentence), label (their tags) and lines (where they stand)."""
    sentences, width = [([], [], [])], 0
    for number, line in enumerate(text.split("\n"), start=1):
        line = line.strip(" \r")
        if not line.strip() or line.startswith("-DOCSTART-"):
            sentences.append(([], [], []))
            continue
        fields = [field for field in line.split(" ") if field] if "\t" not in text else line.split("\t")
        width = width or len(fields)
        if len(fields) != width or width < 2:
            count = "one column" if len(fields) == 1 else f"{len(fields)} columns"
            before = f", and {width} in the lines before" if len(fields) != width else ""
            raise wrong_line(path, number, f"{count}{before}; {_SEPARATED}")
        for place, value in zip(sentences[-1], (fields[0], fields[-1], number), strict=True):
            place.append(value)
    return _frame(path, [sentence for sentence in sentences if sentence[0]])


def of_objects(path: Path, rows: Mapping[int, dict[str, Any]]) -> pd.DataFrame:
    """As `of_columns`, from the objects of a JSONL file by their lines."""
    sentences = []
    for number, row in rows.items():
        words, tags = found = [row.get(name) for name in ("words", "tags")]
        if not all(isinstance(each, list) and all(isinstance(one, str) for one in each) for each in found):
            raise wrong_line(
                path, number, 'no lists of texts; write {"words": ["EU", "rejects"], "tags": ["B-ORG", "O"]}'
            )
        if len(words) != len(tags):
            raise wrong_line(
                path, number, f"{len(words)} words and {len(tags)} tags; write a tag for each word"
            )
        if not words:
            raise wrong_line(path, number, "a sentence without words; remove the line")
        sentences.append((words, tags, [number] * len(words)))
    return _frame(path, sentences)


def with_tags(
    frames: Sequence[pd.DataFrame], files: Sequence[Path]
) -> tuple[list[pd.DataFrame], dict[str, Any]]:
    """The frames with tags as the indices of their names, and what the task is."""
    words = [frame.explode(["text", "label", "lines"]) for frame in frames]
    tags = pd.concat(each["label"] for each in words)
    if all(map(_IOBES.fullmatch, tags)):
        for each in words:
            each["label"] = each["label"].map(lambda tag: tag[:1].translate(_ROLES) + tag[1:])
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
                raise wrong_line(
                    path,
                    line,
                    f"tag '{shown(tag)}' has no B- or I- before it, as others have; write O, B-… or I-…",
                )
    places = {name: index for index, name in enumerate(names)}
    frames = [
        frame.assign(label=each["label"].map(places).groupby(level=0).agg(list))
        for frame, each in zip(frames, words, strict=True)
    ]
    kinds = len({name[2:] for name in names} - {""})
    what = f"entities of {kinds} types" if entities else f"{len(names)} tags of words"
    return frames, {
        "summary": f"your own data: {what}",
        "metrics": ("entity_f1", "accuracy") if entities else ("accuracy", "macro_f1"),
        "label_names": tuple(names),
        "labelled": "words",
    }


def _frame(path: Path, sentences: Sequence[tuple[list[str], list[str], list[int]]]) -> pd.DataFrame:
    if not sentences:
        raise InputError(f"{path} has no sentences; {_SEPARATED}")
    for part, what in ((0, "word"), (1, "tag")):
        for sentence in sentences:
            sentence[part][:] = map(str.strip, sentence[part])
            for value, line in zip(sentence[part], sentence[2], strict=True):
                if not value:
                    raise wrong_line(path, line, f"an empty {what}; write one or remove the line")
                if half := HALF.search(value):
                    raise wrong_line(
                        path, line, f"{half[0]!a} is half of a character; write its other half, too"
                    )
                if part and not value.isprintable():
                    raise wrong_line(path, line, "the tag holds a line break or the like; write a word")
    return pd.DataFrame(sentences, columns=["text", "label", "lines"])
