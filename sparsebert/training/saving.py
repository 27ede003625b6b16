"""A fine-tuned model in a folder: weights and tokenizer, with its plan and its degrees beside them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict
from safetensors import SafetensorError
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from sparsebert.degrees import LearnedDegrees
from sparsebert.errors import InputError
from sparsebert.models.encoders import load_tokenizer, quiet
from sparsebert.models.sparsified import Sparsified, sparsify
from sparsebert.paths import check_writable, write_whole
from sparsebert.patterns.hard_degrees import load_degrees
from sparsebert.patterns.plans import Plan, parse_plan
from sparsebert.reading import path_of, read_model
from sparsebert.training.runs import RunConfig

SETTINGS = "sparsebert.json"
DEGREES = "degrees.json"


class Settings(BaseModel):
    """What stands in `sparsebert.json`: the plan, with paths inside the folder, and the run it comes from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    plan: str
    max_length: int
    labels: list[str]
    config: dict[str, Any]  # as it was: what it names, such as its encoder, may be gone by now


def save(
    model: PreTrainedModel,
    plan: Plan,
    config: RunConfig,
    max_length: int,
    folder: str | Path,
    learner: LearnedDegrees | None = None,
) -> Path:
    """Write a model that was fine-tuned under a plan, and all that `load` needs to make it sparse again.

    Asked to truncate, the tokenizer that is saved cuts texts to `max_length` tokens. `learner` holds the hard
    degrees or weights that the plan left open. Returns the folder.
    """
    folder = path_of(folder)
    folder.mkdir(parents=True, exist_ok=True)
    names: dict[str | None, str] = {}
    degrees = [(None, learner.hardened())] if learner else []
    degrees += [(path, load_degrees(path)) for path in plan.files]
    for number, (path, found) in enumerate(degrees, 1):
        names[path] = DEGREES if number == 1 else f"degrees-{number}.json"
        found.save(folder / names[path])
    attached = model._modules.pop("sparsebert_degrees", None)  # not among the weights: they are in the file
    try:
        with quiet():
            model.save_pretrained(folder)
    finally:
        if attached is not None:
            model.sparsebert_degrees = attached
    tokenizer = load_tokenizer(config.encoder)
    tokenizer.model_max_length = max_length
    tokenizer.save_pretrained(folder)
    labels = [str(label) for label in model.config.id2label.values()]
    settings = Settings(
        plan=str(plan.with_files(names.get)), max_length=max_length, labels=labels, config=config.model_dump()
    )
    write_whole(folder / SETTINGS, settings.model_dump_json(indent=1) + "\n")
    return folder


def check_free(folder: Path, config: RunConfig) -> None:
    """See that `save` can write to a folder and would overwrite nothing but the same run's model.

    `InputError` otherwise.
    """
    if folder.is_dir() and any(folder.iterdir()):
        try:
            same = read_settings(folder).config == config.model_dump()
        except InputError:
            same = False
        if not same:
            raise InputError(f"--save {folder}: the folder holds something else; name a new one, or empty it")
    check_writable(folder, f"the folder '{folder}'", "--save")


def load(folder: str | Path, kernel: str = "auto") -> Sparsified:
    """A model that `save` wrote, following its plan again: `load(folder).model` goes wherever a model goes.

    `truncation=True` cuts texts where those of the training were cut. `kernel` is as in `sparsify`.

    >>> sparse = load("my-model")  # doctest: +SKIP
    >>> pipeline(  # doctest: +SKIP
    ...     "text-classification", model=sparse.model, tokenizer="my-model", truncation=True
    ... )
    """
    folder = path_of(folder)
    settings = read_settings(folder)
    try:
        with quiet():
            model = AutoModelForSequenceClassification.from_pretrained(
                folder, use_safetensors=True, trust_remote_code=False
            )
    except (OSError, ValueError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"the model in '{folder}' can't be loaded ({reason}); save it again") from None
    plan = parse_plan(settings.plan).with_files(lambda path: path and str(folder / path))
    return sparsify(model.eval(), plan, kernel=kernel)


def read_settings(folder: str | Path) -> Settings:
    """What stands beside the weights; `InputError` if the folder holds no model that `save` wrote."""
    instead = "give a folder that this version's `sparsebert finetune --save FOLDER` wrote"
    return read_model(path_of(folder) / SETTINGS, Settings, "the saved model's settings", instead)
