"""Prepared data: a task's rows as an encoder reads them, with parses if a plan asks for them, on disk."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from pathlib import Path

import datasets
import torch
from transformers import PreTrainedTokenizerBase

from sparsebert.batches import Batch
from sparsebert.encoders import load_classifier, load_tokenizer
from sparsebert.paths import cache_dir
from sparsebert.syntax import add_syntax, parser_name
from sparsebert.tasks import Task

_FORMAT = 1  # raise it when the columns change, so that data prepared before is not found again
_SHUFFLE = 0  # a size keeps the same rows in every run; seeds change their order, not their choice


def prepare(
    task: Task,
    encoder: str,
    max_length: int,
    train_size: int | None = None,
    eval_size: int | None = None,
    parsed: bool = False,
) -> datasets.DatasetDict:
    """The splits of a task as token ids, found again on disk when they were prepared before.

    Columns: `input_ids`, `attention_mask` (and `token_type_ids` where the encoder has them), `label`,
    `length`; with `parsed` also `word_ids` and `head_ids` (see `sparsebert.batches.Batch`). Sizes keep the
    first rows of one fixed shuffle, so a smaller set is part of a larger one. Validation rows are sorted by
    length.
    """
    tokenizer = load_tokenizer(encoder)
    folder = cache_dir() / "prepared" / _key(task, tokenizer, max_length, train_size, eval_size, parsed)
    if not folder.is_dir():
        splits = task.load()
        prepared = datasets.DatasetDict()
        for name, rows in splits.items():
            size = train_size if name == "train" else eval_size
            if size is not None and size < len(rows):
                rows = rows.shuffle(seed=_SHUFFLE).select(range(size))
            prepared[name] = _encode(rows, tokenizer, max_length, parsed)
            if name != "train":
                lengths = list(prepared[name]["length"])
                prepared[name] = prepared[name].select(sorted(range(len(lengths)), key=lengths.__getitem__))
        _save_whole(prepared, folder)
    return datasets.load_from_disk(str(folder))


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
    return datasets.Dataset.from_dict(columns | {"label": list(rows["label"])})


def _key(task: Task, tokenizer: PreTrainedTokenizerBase, *choices: object) -> str:
    parsed = choices[-1]
    parts = [_FORMAT, task.name, task.data_hash, tokenizer.backend_tokenizer.to_str(), *choices]
    parts.append(parser_name() if parsed else None)
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def _save_whole(prepared: datasets.DatasetDict, folder: Path) -> None:
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
