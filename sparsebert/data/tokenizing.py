"""Prepared data: a task's rows as an encoder reads them, with parses if a plan asks for them, on disk."""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
from importlib import metadata
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from safetensors.numpy import load_file, save
from transformers import PreTrainedTokenizerBase

from sparsebert.data.rows import Rows
from sparsebert.data.syntax import Parse, add_syntax, align, parser_name
from sparsebert.data.tasks import Task, prepared
from sparsebert.data.tasks.task import one_text
from sparsebert.errors import InputError, say, shown
from sparsebert.models.encoders import TOKENS, fitting_length, load_classifier, load_tokenizer, quiet
from sparsebert.paths import cache_dir, check_writable, write_whole
from sparsebert.patterns.batches import Batch, tokens_before_second
from sparsebert.reading import path_of

if TYPE_CHECKING:
    import datasets
    from tokenizers import Encoding

_FORMAT = 3  # raise it when the columns change, so that data prepared before is not found again
_PROBE = "Don't Überprüfe  İstanbul’s 3,141.59€ re-entry—naïve co\u0301te 日本語 🙂\n"
_SHUFFLE = 0  # a size keeps the same rows in every run; seeds change their order, not their choice


def prepare(
    task: Task,
    encoder: str,
    max_length: int,
    train_size: int | None = None,
    eval_size: int | None = None,
    parsed: bool = False,
) -> dict[str, Rows]:
    """The splits of a task as token ids, found again on disk when they were prepared before.

    Columns: `input_ids`, `attention_mask` (and `token_type_ids` where the encoder has them), `label`, or
    `tags` where words are labelled; with `parsed` also `word_ids` and `head_ids` (see
    `sparsebert.patterns.batches.Batch`). Sizes keep the first rows of one fixed shuffle, so a smaller set is
    part of a larger one. Validation rows are sorted by length. The rows of a `PreparedTask` are those of its
    folder.
    """
    tokenizer = load_tokenizer(encoder)
    needs = prepared.Needs(train_size, eval_size, parsed, max_length, tokenizer_hash(tokenizer))
    if isinstance(task, prepared.PreparedTask):
        return task.rows(needs)
    key = _hash([_FORMAT, task.name, task.data_hash, *needs, parser_name() if parsed else None])
    path = cache_dir() / "prepared" / f"{key[:16]}.safetensors"
    try:
        arrays = load_file(path)
    except Exception:  # nothing is there, or nothing that safetensors can read
        check_writable(path.parent, f"the cache '{path.parent}'", "SPARSEBERT_CACHE_DIR")
        arrays = _arrays(task, tokenizer, needs)
        write_whole(path, save(arrays))
    return {split: prepared.rows_of(arrays, split, needs) for split in task.sizes}


def write_prepared(
    task: Task,
    encoder: str,
    folder: str | Path,
    max_length: int | None = None,
    train_size: int | None = None,
    eval_size: int | None = None,
    parsed: bool = False,
) -> Path:
    """Write a task's tokens where `sparsebert.data.tasks.prepared` finds them; returns their place there.

    `max_length` is by default what a run takes that names none. What is there already and suffices is left
    as it is; what does not is made again so that it serves both, and stderr says so. Raises
    `InputError` for a task that cannot be read and a folder that cannot be written.
    """
    tokenizer = load_tokenizer(encoder)
    tokens = tokenizer_hash(tokenizer)
    max_length = fitting_length(max_length, task.max_length, load_classifier(encoder, task.label_names))
    name = re.sub(r"[^A-Za-z0-9]+", "-", task.name)[-40:].strip("-")
    place = path_of(folder) / f"{name}-{max_length}-{_hash([task.name, tokens])[:8]}"
    there = prepared.whole_manifest(place)
    about = {name: getattr(task, name) for name in prepared.DESCRIBED} | {"default_length": task.max_length}
    if there and there.data_hash == task.data_hash:
        covers = there.covers(prepared.Needs(train_size, eval_size)) and (there.parser or not parsed)
        if covers and there.model_dump(include=set(about)) == about:
            return place
        parsed = parsed or bool(there.parser)
        train_size = train_size and max(train_size, there.splits["train"].rows)
        eval_size = eval_size and max(eval_size, *(s.rows for n, s in there.splits.items() if n != "train"))
    check_writable(place.parent, f"'{place.parent}'", "folder")
    needs = prepared.Needs(train_size, eval_size, parsed, max_length, tokens)
    for split, total in task.sizes.items():
        rows = min(needs.size(split) or total, total)
        say(f"  {task.name}, {split}: {'parsing' if parsed else 'cutting'} {rows} of {total} rows")
    arrays = _arrays(task, tokenizer, needs)
    content = save(arrays)
    manifest = prepared.Manifest(
        task=task.name,
        **about,
        encoder=encoder,
        tokenizer=tokens,
        max_length=max_length,
        parser=parser_name() if parsed else None,
        versions={name: metadata.version(name) for name in ("tokenizers", "datasets", "spacy")[: 2 + parsed]},
        splits={n: {"rows": len(arrays[f"{n}/lengths"]), "of": total} for n, total in task.sizes.items()},
        sha256=hashlib.sha256(content).hexdigest(),
    )
    said = (manifest.model_dump_json(indent=1) + "\n").encode()
    _replace(place, {prepared.ARRAYS: content, prepared.MANIFEST: said})
    return place


def tokenizer_hash(tokenizer: PreTrainedTokenizerBase) -> str:
    """Hash of what a tokenizer does: its vocabulary, and all it makes of a pair that tells tokenizers apart.

    Its files would not do, since libraries write them differently from version to version.
    """
    with quiet():  # it may be longer than what a saved model takes
        cut = tokenizer([_PROBE], [_PROBE.lower()]).data
    return _hash([sorted(tokenizer.get_vocab().items()), cut, tokenizer.pad_token_id])


def one_sentence(
    text: str, encoder: str = "minilm", needs: frozenset[str] = frozenset({"word_ids", "embeddings"})
) -> tuple[list[str], Batch]:
    """The word pieces of one text and the batch that patterns read; `needs` says which columns to fill in.

    Two texts are written with the encoder's separator between them, such as "Who wrote it? [SEP] She did."
    """
    tokenizer = load_tokenizer(encoder)
    encoded = tokenizer([text], truncation=True, return_offsets_mapping=True)
    columns: dict[str, torch.Tensor] = {}
    if "word_ids" in needs:
        word_ids, head_ids = add_syntax(encoded, [text])
        columns = {"word_ids": torch.tensor(word_ids), "head_ids": torch.tensor(head_ids)}
    if "embeddings" in needs:
        embed = load_classifier(encoder, ["any"]).get_input_embeddings()
        columns["embeddings"] = embed(torch.tensor(encoded["input_ids"])).detach()
    if "second" in needs:
        ids = torch.tensor(encoded["input_ids"])
        columns["second"] = tokens_before_second(torch.ones_like(ids).bool(), ids)
    return encoded.tokens(), Batch.of_lengths([len(encoded["input_ids"][0])], **columns)


def _arrays(task: Task, tokenizer: PreTrainedTokenizerBase, needs: prepared.Needs) -> dict[str, np.ndarray]:
    """The columns of each split as `sparsebert.data.tasks.prepared` has them, such as train/input_ids."""
    arrays: dict[str, np.ndarray] = {}
    for split, rows in task.load().items():
        size, total = needs.size(split), len(rows)
        order = np.random.default_rng(_SHUFFLE).permutation(total)
        whole = size is None or size >= total
        rows = rows if whole else rows.select(order[:size])
        columns = _encode(rows, tokenizer, needs, task.labelled) | ({"order": order} if whole else {})
        arrays |= {f"{split}/{name}": _smallest(values) for name, values in columns.items()}
    return arrays


def _encode(
    rows: datasets.Dataset, tokenizer: PreTrainedTokenizerBase, needs: prepared.Needs, labelled: str
) -> dict[str, np.ndarray]:
    words = list(rows["text"])
    texts = list(map(one_text, words))
    pairs = list(rows["text_pair"]) if "text_pair" in rows.column_names else None
    how = {"truncation": True, "max_length": needs.max_length, "return_offsets_mapping": needs.parsed}
    encoded = tokenizer(texts, pairs, **how)
    columns = {name: encoded[name] for name in TOKENS if name in encoded and name != "attention_mask"}
    if needs.parsed:
        columns["word_ids"], columns["head_ids"] = add_syntax(encoded, texts, pairs)
    if labelled == "words":
        columns["tags"] = list(map(_tags, encoded.encodings, words, rows["label"]))
    flat = {name: np.fromiter(chain.from_iterable(each), np.int64) for name, each in columns.items()}
    lengths = np.array([len(ids) for ids in encoded["input_ids"]])
    return flat | {"lengths": lengths} | ({} if "tags" in flat else {"label": np.array(list(rows["label"]))})


def _tags(encoding: Encoding, words: list[str], tags: list[int]) -> np.ndarray:
    """The tag of each word at its first token; -1 at other tokens.

    Words were joined by spaces, as a pipeline gets them. A word that is cut off, or has no token, has no tag
    and is not judged, as in the examples of transformers.
    """
    lengths = np.array(list(map(len, words)))
    ends = (lengths + 1).cumsum() - 1
    spans = Parse(ends - lengths, ends, np.arange(len(words)))
    at_word, first = np.unique(align(encoding.offsets, encoding.sequence_ids, [spans])[0], return_index=True)
    found = np.full(len(encoding.ids), -1)
    found[first[at_word >= 0]] = np.array(tags)[at_word[at_word >= 0]]
    if (found < 0).all():
        raise InputError(
            f"the tokenizer has no token for any word of '{shown(' '.join(words))}'; remove the sentence"
        )
    return found


def _smallest(values: np.ndarray) -> np.ndarray:
    """The same integers in the smallest type that holds them; other numbers as they are."""
    if values.dtype.kind != "i":
        return values
    low, high = values.min(initial=0), values.max(initial=0)
    return values.astype(np.min_scalar_type(min(low, ~high) if low < 0 else high))


def _hash(parts: object) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


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
