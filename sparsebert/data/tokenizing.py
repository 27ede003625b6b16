"""Prepared data: a task's rows as an encoder reads them, with parses if a plan asks for them, on disk."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from sparsebert.data.syntax import add_syntax, parser_name
from sparsebert.data.tasks import Task
from sparsebert.data.tasks.prepared import ARRAYS, MANIFEST, Manifest, PreparedTask, Split, whole_manifest
from sparsebert.errors import InputError
from sparsebert.models.encoders import fitting_length, load_classifier, load_tokenizer, quiet
from sparsebert.paths import cache_dir, check_writable
from sparsebert.patterns.batches import Batch, Rows
from sparsebert.reading import path_of

if TYPE_CHECKING:
    import datasets

_FORMAT = 1  # raise it when the columns change, so that data prepared before is not found again
_PROBE = "Don't Überprüfe  İstanbul’s 3,141.59€ re-entry—naïve co\u0301te 日本語 🙂\n"
_SHUFFLE = 0  # a size keeps the same rows in every run; seeds change their order, not their choice


def prepare(
    task: Task,
    encoder: str,
    max_length: int,
    train_size: int | None = None,
    eval_size: int | None = None,
    parsed: bool = False,
) -> datasets.DatasetDict | dict[str, Rows]:
    """The splits of a task as token ids, found again on disk when they were prepared before.

    Columns: `input_ids`, `attention_mask` (and `token_type_ids` where the encoder has them), `label`,
    `length`; with `parsed` also `word_ids` and `head_ids` (see `sparsebert.patterns.batches.Batch`). Sizes
    keep the first rows of one fixed shuffle, so a smaller set is part of a larger one. Validation rows are
    sorted by length. The rows of a `PreparedTask` are those of its folder, as `Rows`.
    """
    tokenizer = load_tokenizer(encoder)
    if isinstance(task, PreparedTask):
        tokens = tokenizer_hash(tokenizer)
        return task.rows(tokens, max_length, train_size, eval_size, parsed, len(tokenizer))
    import datasets

    folder = cache_dir() / "prepared" / _key(task, tokenizer, max_length, train_size, eval_size, parsed)
    try:
        return datasets.load_from_disk(str(folder))
    except Exception:  # nothing is there, or something that pyarrow cannot read
        shutil.rmtree(folder, ignore_errors=True)
    prepared = datasets.DatasetDict()
    for name, rows in task.load().items():
        size = train_size if name == "train" else eval_size
        if size is not None and size < len(rows):
            rows = rows.shuffle(seed=_SHUFFLE).select(range(size))
        prepared[name] = _encode(rows, tokenizer, max_length, parsed)
        if name != "train":
            lengths = list(prepared[name]["length"])
            prepared[name] = prepared[name].select(sorted(range(len(lengths)), key=lengths.__getitem__))
    _save_whole(prepared, folder)
    return datasets.load_from_disk(str(folder))


def write_prepared(
    task: Task,
    encoder: str,
    folder: str | Path,
    max_length: int | None = None,
    train_size: int | None = None,
    eval_size: int | None = None,
    parsed: bool = False,
    progress: Callable[[str], object] = lambda line: None,
) -> Path:
    """Write a task's tokens where `sparsebert.data.tasks.prepared` finds them; returns their place there.

    `max_length` is by default what a run takes that names none. What is there already and suffices is left
    as it is; what does not is made again so that it serves both. `progress` is called with lines for a
    person. Raises `InputError` for a task that cannot be read and a folder that cannot be written.
    """
    tokenizer = load_tokenizer(encoder)
    tokens = tokenizer_hash(tokenizer)
    max_length = fitting_length(max_length, task.max_length, load_classifier(encoder, task.label_names))
    place = path_of(folder) / _place(task.name, max_length, tokens)
    splits = task.load()
    sizes = {name: train_size if name == "train" else eval_size for name in splits}
    there = whole_manifest(place)
    if there and there.data_hash == task.data_hash:
        if there.covers(train_size, eval_size) and (there.parser or not parsed):
            return place
        parsed = parsed or bool(there.parser)
        sizes = {name: size and max(size, there.splits[name].rows) for name, size in sizes.items()}
    check_writable(place.parent, f"'{place.parent}'", "folder")
    arrays, kept = {}, {}
    for name, rows in splits.items():
        total, order = len(rows), _shuffled(len(rows))
        whole = sizes[name] is None or sizes[name] >= total
        rows = rows if whole else rows.select(order[: sizes[name]])
        progress(f"{task.name}, {name}: {'parsing' if parsed else 'cutting'} {len(rows)} of {total} rows")
        columns = _arrays(_encode(rows, tokenizer, max_length, parsed))
        if whole:
            columns["order"] = _smallest(np.array(order))
        arrays |= {f"{name}/{column}": values for column, values in columns.items()}
        kept[name] = Split(rows=len(rows), of=total)
    content = _serialised(arrays)
    manifest = Manifest(
        task=task.name,
        summary=task.summary,
        metrics=task.metrics,
        label_names=task.label_names,
        default_length=task.max_length,
        paired=task.paired,
        source=task.source,
        licence=task.licence,
        data_hash=task.data_hash,
        encoder=encoder,
        tokenizer=tokens,
        max_length=max_length,
        parser=parser_name() if parsed else None,
        versions={name: metadata.version(name) for name in ("tokenizers", "datasets", "spacy")[: 2 + parsed]},
        splits=kept,
        sha256=hashlib.sha256(content).hexdigest(),
    )
    _replace(place, {ARRAYS: content, MANIFEST: (manifest.model_dump_json(indent=1) + "\n").encode()})
    return place


def tokenizer_hash(tokenizer: PreTrainedTokenizerBase) -> str:
    """Hash of what a tokenizer does: its vocabulary, and how it cuts a text made to tell tokenizers apart.

    Its files would not do, since libraries write them differently from version to version.
    """
    with quiet():  # it may be longer than what a saved model takes
        cut = tokenizer([_PROBE], [_PROBE.lower()])["input_ids"]
    parts = [sorted(tokenizer.get_vocab().items()), cut, tokenizer.pad_token_id]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def one_sentence(
    text: str, encoder: str = "minilm", needs: frozenset[str] = frozenset({"word_ids", "embeddings"})
) -> tuple[list[str], Batch]:
    """The word pieces of one text and the batch that patterns read; `needs` says which columns to fill in."""
    tokenizer = load_tokenizer(encoder)
    encoded = tokenizer([text], truncation=True, return_offsets_mapping=True)
    columns: dict[str, torch.Tensor] = {}
    if "word_ids" in needs:
        word_ids, head_ids = add_syntax(encoded, [text])
        columns = {"word_ids": torch.tensor(word_ids), "head_ids": torch.tensor(head_ids)}
    if "embeddings" in needs:
        embed = load_classifier(encoder, ["any"]).get_input_embeddings()
        columns["embeddings"] = embed(torch.tensor(encoded["input_ids"])).detach()
    return encoded.tokens(), Batch.of_lengths([len(encoded["input_ids"][0])], **columns)


def _encode(
    rows: datasets.Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int, parsed: bool
) -> datasets.Dataset:
    texts = list(rows["text"])
    pairs = list(rows["text_pair"]) if "text_pair" in rows.column_names else None
    encoded = tokenizer(texts, pairs, truncation=True, max_length=max_length, return_offsets_mapping=parsed)
    columns = {name: encoded[name] for name in encoded if name != "offset_mapping"}
    if parsed:
        columns["word_ids"], columns["head_ids"] = add_syntax(encoded, texts, pairs)
    columns["length"] = [len(ids) for ids in encoded["input_ids"]]
    import datasets

    return datasets.Dataset.from_dict(columns | {"label": list(rows["label"])})


def _key(task: Task, tokenizer: PreTrainedTokenizerBase, *choices: object) -> str:
    parsed = choices[-1]
    parts = [_FORMAT, task.name, task.data_hash, tokenizer_hash(tokenizer), *choices]
    parts.append(parser_name() if parsed else None)
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def _shuffled(count: int) -> list[int]:
    """The order that `prepare` takes the rows of a smaller set in."""
    import datasets

    return list(datasets.Dataset.from_dict({"row": range(count)}).shuffle(seed=_SHUFFLE)["row"])


def _arrays(encoded: datasets.Dataset) -> dict[str, np.ndarray]:
    rows = Rows(encoded)
    columns = {name: _smallest(values) for name, values in rows.tokens.items() if name != "attention_mask"}
    label = np.array(rows.label)
    return columns | {
        "lengths": _smallest(np.array(rows.lengths)),
        "label": _smallest(label) if label.dtype.kind == "i" else label,
    }


def _smallest(values: np.ndarray) -> np.ndarray:
    """The same integers in the smallest type that holds them."""
    low, high = values.min(initial=0), values.max(initial=0)
    kinds = (np.uint8, np.int8, np.uint16, np.int16, np.int32, np.int64)
    return values.astype(
        next(kind for kind in kinds if np.iinfo(kind).min <= low <= high <= np.iinfo(kind).max)
    )


def _serialised(arrays: dict[str, np.ndarray]) -> bytes:
    from safetensors.numpy import save

    return save(arrays)


def _place(task: str, max_length: int, tokens: str) -> str:
    known = hashlib.sha256(json.dumps([task, tokens]).encode()).hexdigest()[:8]
    return f"{re.sub(r'[^A-Za-z0-9]+', '-', task)[-40:].strip('-')}-{max_length}-{known}"


def _replace(place: Path, files: dict[str, bytes]) -> None:
    """Write a folder whole; one that was there gives way to it."""
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=place.parent, prefix=".writing-") as temporary:
            new, old = Path(temporary) / "new", Path(temporary) / "old"
            new.mkdir()
            for name, content in files.items():
                (new / name).write_bytes(content)
            if place.exists():
                os.rename(place, old)
            os.rename(new, place)
    except OSError as error:
        raise InputError(
            f"'{place.parent}' cannot be written: {error.strerror}; give another folder"
        ) from None


def _save_whole(prepared: datasets.DatasetDict, folder: Path) -> None:
    import datasets

    check_writable(folder.parent, f"the cache '{folder.parent}'", "SPARSEBERT_CACHE_DIR")
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = tempfile.mkdtemp(dir=folder.parent)
    try:
        datasets.disable_progress_bars()
        prepared.save_to_disk(temporary)
        os.rename(temporary, folder)
    except OSError:  # another process was first
        if not folder.is_dir():
            raise
    finally:
        datasets.enable_progress_bars()
        shutil.rmtree(temporary, ignore_errors=True)
