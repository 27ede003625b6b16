"""Encoders: one that comes as a package, any of the hub or of a local folder, and a tiny random one."""

from __future__ import annotations

import difflib
import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    BertConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as hf_logging

from sparsebert.errors import InputError, first_line, shown
from sparsebert.machine import hub_reachable
from sparsebert.models.architectures import architecture_of, check_architecture
from sparsebert.models.packaged import ENCODERS
from sparsebert.reading import path_of

TOKENS = ("input_ids", "attention_mask", "token_type_ids")
HEADS = {"texts": AutoModelForSequenceClassification, "words": AutoModelForTokenClassification}
"""The models that label whole texts, and those that label words."""
_USUAL = {  # what a config may say alone, and why nothing else
    "position_embedding_type": ("absolute", "transformers no longer computes other ones; give another model"),
    "is_decoder": (False, "a decoder's tokens don't see those behind them; give an encoder"),
    "quantization_config": (None, "quantised weights can't be trained; save it in float32"),
}
_LARGEST = {  # of what a config may say, so that building a model ends
    "num_hidden_layers": 1000,
    "num_attention_heads": 1000,
    "hidden_size": 2**16,
    "vocab_size": 10**8,
    "max_position_embeddings": 10**7,
    "intermediate_size": 2**18,
    "inner_group_num": 100,
    "num_hidden_groups": 100,
}
FROM_HUB = "FROM_HUB"  # in the folder that a bundle makes of an encoder of the hub
_HUB_NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")


def check_encoder(name: str) -> str:
    """The name, if it can be an encoder's (packaged, folder, hub name), else `InputError`. Loads nothing."""
    if name in ENCODERS or (name and path_of(name).is_dir()):
        return name
    if near := difflib.get_close_matches(name, ENCODERS, n=1, cutoff=0.75):
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
    if name in ENCODERS or not folder.is_dir() or (folder / FROM_HUB).exists():
        return None
    return _hash_of(*((path, path.stat().st_mtime_ns, path.stat().st_size) for path in model_files(folder)))


def model_files(folder: Path) -> list[Path]:
    """The files that a model in a folder is loaded from; `InputError` if something else has such a name."""
    found = sorted([*folder.glob("*.json"), *folder.glob("*.safetensors"), *folder.glob("*.txt")])
    for path in found:
        if not os.path.isfile(path):  # a pipe would be waited for
            raise InputError(f"'{path}' is no file, as the files of a model are; remove it")
    return found


@lru_cache(maxsize=16)
def _hash_of(*files: tuple[Path, int, int]) -> str:
    """Of names and contents. Times and sizes are there so that an unchanged file is read once."""
    found = hashlib.sha256()
    for path, _, _ in files:
        with path.open("rb") as file:
            found.update(f"{path.name} {hashlib.file_digest(file, 'sha256').hexdigest()} ".encode())
    return found.hexdigest()


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """The encoder's fast tokenizer; `InputError` if it has none, or one without words or a padding token.

    Chapter 01 explains it.
    """
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


def load_classifier(
    name: str,
    task_labels: Sequence[str],
    length: int | None = None,
    labelled: str = "texts",
    layers: int | None = None,
) -> PreTrainedModel:
    """The encoder with a fresh classification head, or a regression head if there is one label or none.

    `labelled` says what gets a label: "texts" or "words". The head is drawn from torch's global generator, so
    seed it first. Weights are read from safetensors, as float32, and no code that comes with a model is run.
    The model takes `length` tokens at least (see `extend_positions`), and has its first `layers` (None: all).
    Raises `InputError` for an encoder that
    is not found, cannot be sparsified, or whose files do not belong together. Chapter 02 explains it.
    """
    names = label_names(task_labels)
    what = f"encoder '{name}'"
    sizes = ENCODERS[name].sizes if name in ENCODERS else None
    with _explained(name):
        if sizes:
            config = BertConfig(vocab_size=len(load_tokenizer(name)), **sizes)
        else:
            source = _source(name)  # once: it may ask the hub
            config = AutoConfig.from_pretrained(**source)
        config.num_labels = len(names)
        config.id2label = dict(enumerate(names))
        config.label2id = {label: index for index, label in enumerate(names)}
        if sizes:
            model = HEADS[labelled].from_config(config)
        else:
            model = open_model(what, source, config, labelled, new_head=True)
        check_reads(what, model, load_tokenizer(name))
    if layers:
        architecture_of(model).keep_layers(layers)
    return extend_positions(model, length) if length else model


def open_model(
    what: str, source: dict[str, Any], config: PretrainedConfig, labelled: str, new_head: bool
) -> PreTrainedModel:
    """A classifier from files, in evaluation mode, with a `new_head` or with the one that the files have.

    `labelled` is one of `HEADS`. Raises `InputError` if the files lack a part of it, hold another one, or
    anything that it has no use for.
    """
    check_config(what, config, source["pretrained_model_name_or_path"], labelled)
    model, loaded = HEADS[labelled].from_pretrained(
        **source,
        config=config,
        dtype=torch.float32,  # whatever the files have, for a record says in what precision it was trained
        use_safetensors=True,
        ignore_mismatched_sizes=True,  # they are looked at here
        output_loading_info=True,
    )
    own = {model.base_model_prefix, *(name for name, _ in model.base_model.named_children())}

    def counts(key: str) -> bool:
        if key.endswith("_ids") or (new_head and ".pooler." in f".{key}"):
            return False
        return not new_head or key.split(".")[0] in own

    lacking = [*loaded["missing_keys"], *(key[0] for key in loaded["mismatched_keys"])]
    for found, wrong in (
        (lacking, "are missing or of other sizes"),
        (loaded["unexpected_keys"], "have no place in the model"),
    ):
        if keys := sorted(filter(counts, found)):
            raise InputError(
                f"{what}: its weights don't fit its config.json ({len(keys)} {wrong}, such as {keys[0]}); "
                "put what belongs together into one folder"
            )
    if not architecture_of(model).modules:
        raise InputError(f"{what} has no attention layers; give another model")
    for key, weights in model.named_parameters():
        if not weights.isfinite().all():
            raise InputError(f"{what}: not all of its weights are finite numbers ({key}); save it again")
    return model


def labelled_by(config: PretrainedConfig) -> str:
    """What a saved classifier labels, one of `HEADS`."""
    words = any(name.endswith("ForTokenClassification") for name in config.architectures or ())
    return "words" if words else "texts"


def check_config(what: str, config: PretrainedConfig, folder: str, labelled: str = "texts") -> None:
    """`InputError` for a config of a model that can't be sparsified or that its files can't hold.

    Fields that change how a model is called, and not what it computes, get their usual values.
    """
    check_architecture(config, of=f"{what}: ")
    for field, (usual, why) in _USUAL.items():
        value = getattr(config, field, None)
        if value not in (None, usual):
            raise InputError(f"{what}: its config.json has {field}={shown(value)}, and {why}")
    for field, largest in _LARGEST.items():
        value = getattr(config, field, 1)
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= largest:
            raise InputError(
                f"{what}: its config.json has {field}={shown(value)}; write a whole number from 1 to "
                f"{largest:,}"
            )
    stored = sum(path.stat().st_size for path in Path(folder).glob("*.safetensors"))
    with torch.device("meta"):
        wanted = HEADS[labelled].from_config(config).num_parameters()
    if stored and wanted > 2 * stored:  # a new head is small, and a number takes a byte at least
        raise InputError(
            f"{what}: its config.json describes {wanted:,} numbers and its weights are {stored:,} bytes; put "
            "what belongs together into one folder"
        )
    config.problem_type, config.return_dict, config.chunk_size_feed_forward = None, True, 0
    config.output_attentions = config.output_hidden_states = False


@torch.no_grad()
def check_reads(what: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """`InputError` if a tokenizer has tokens that a model lacks, or the model gives no numbers for a text."""
    words, rows = len(tokenizer), model.get_input_embeddings().weight.shape[0]
    if words > rows:
        raise InputError(
            f"{what}: its tokenizer has {words:,} tokens and the model embeds {rows:,}; put what "
            "belongs together into one folder, or call resize_token_embeddings and save"
        )
    training = model.training
    inputs = tokenizer("a", "b", return_tensors="pt")
    logits = model.eval()(**{name: inputs[name] for name in columns_of(model) if name in inputs}).logits
    model.train(training)
    if (logits.shape[0], logits.shape[-1]) != (1, model.config.num_labels) or not logits.isfinite().all():
        raise InputError(f"{what} gives no finite numbers for a text; look at the numbers in its config.json")


def columns_of(model: PreTrainedModel) -> tuple[str, ...]:
    """The tokenizer's columns that a model has a use for: a single kind of token types tells it nothing."""
    return TOKENS if architecture_of(model).token_types > 1 else TOKENS[:2]


def fitting_length(given: int | None, wanted: int, model: PreTrainedModel) -> int:
    """Tokens that a row is cut to: as given, or else as its task wants, within the encoder's positions."""
    return given or min(wanted, architecture_of(model).positions)


def extend_positions(model: PreTrainedModel, length: int) -> PreTrainedModel:
    """Make an encoder take `length` tokens, in place, and return it; one that does so already is left alone.

    Learned position embeddings are repeated until they suffice, as Beltagy et al. (2020) do for Longformer:
    near tokens then stand to each other as they did in pretraining, except where a copy begins. Outputs for
    texts that fitted before stay the same to the bit. ModernBERT's rotary positions have no table, and only
    its config changes. The table becomes a new parameter, so an optimizer is made afterwards. Raises
    `InputError` for an architecture that is not in `ARCHITECTURES`.
    """
    architecture = architecture_of(model)
    if length > architecture.positions:
        architecture.extend_positions(length)
    return model


def _source(name: str) -> dict[str, Any]:
    """What `from_pretrained` takes: the folder or hub name, and whether not to ask the hub."""
    folder = ENCODERS[name].get() if name in ENCODERS else path_of(name)
    local = folder.is_dir()
    if local:
        model_files(folder)
    offline = local or not hub_reachable()  # else the hub's client retries for half a minute
    place = str(folder) if local else check_encoder(name)
    return {"pretrained_model_name_or_path": place, "local_files_only": offline, "trust_remote_code": False}


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bars and no warnings from transformers inside the block."""
    verbosity, bars = hf_logging.get_verbosity(), hf_logging.is_progress_bar_enabled()
    hf_logging.set_verbosity_error()
    hf_logging.disable_progress_bar()
    try:
        yield
    finally:
        hf_logging.set_verbosity(verbosity)
        if bars:
            hf_logging.enable_progress_bar()


@contextmanager
def explained(what: str, instead: str) -> Iterator[None]:
    """Load quietly (a fresh head is what we ask for, not a mishap); say in one sentence what went wrong."""
    try:
        with quiet():
            yield
    except InputError:
        raise
    except Exception as error:  # whatever libraries come to when they read broken files
        reason = shown(first_line(error), 300)
        raise InputError(f"{what} could not be loaded ({reason}); {instead}") from error


def _explained(name: str) -> AbstractContextManager[None]:
    return explained(
        f"encoder '{name}'",
        f"give a packaged encoder ({', '.join(ENCODERS)}), a local folder with config.json, tokenizer.json "
        "and model.safetensors, or a hub name while the hub is reachable",
    )
