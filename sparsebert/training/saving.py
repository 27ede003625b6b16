"""A fine-tuned model in a folder: weights and tokenizer, with its plan and its degrees beside them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, PreTrainedModel

from sparsebert import __version__
from sparsebert.errors import InputError, shown
from sparsebert.models.architectures import architecture_of
from sparsebert.models.companions import Companion
from sparsebert.models.encoders import (
    check_reads,
    columns_of,
    explained,
    labelled_by,
    load_tokenizer,
    model_files,
    open_model,
    quiet,
)
from sparsebert.models.sparsified import Sparsified, sparsify
from sparsebert.paths import check_writable, write_whole
from sparsebert.patterns.plans import Plan, parse_plan
from sparsebert.reading import path_of, read_model
from sparsebert.reductions import Reduction, attach_reduction, reduction_name
from sparsebert.training.resolved import Learner
from sparsebert.training.runs import RunConfig

SETTINGS = "sparsebert.json"
REDUCTION = "reduction.safetensors"
CARD = "README.md"
NOTE = (
    "Opened with AutoModel alone this model's attention is dense, and its answers are not those that were "
    "measured; sparsebert.load opens it with its plan"
)
_CARD = """\
# A classifier with sparse attention

Fine-tuned by sparsebert {version} under this plan:

    {plan}

{note}:

    from sparsebert import load

    model = load("FOLDER").model
"""


class Settings(BaseModel):
    """What stands in `sparsebert.json`: the plan, with files of the folder, and the run it comes from."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    plan: str
    max_length: int = Field(ge=1, le=32768)
    labels: list[str] = Field(min_length=1)
    config: dict[str, Any]  # as it was: what it names, such as its encoder, may be gone by now

    @field_validator("plan")
    @classmethod
    def _of_the_folder(cls, text: str) -> str:
        for path in parse_plan(text).files:
            if path in ("", ".", "..") or Path(path).name != path:
                raise InputError(f"it names the file '{shown(path)}', which is not one of the folder's own")
        return text


def save(
    model: PreTrainedModel,
    plan: Plan,
    config: RunConfig,
    max_length: int,
    folder: str | Path,
    learner: Learner | None = None,
    reduction: Reduction | None = None,
) -> Path:
    """Write a model that was fine-tuned under a plan, and all that `load` needs to make it sparse again.

    Asked to truncate, the tokenizer that is saved cuts texts to `max_length` tokens. `learner` holds the hard
    degrees or weights that the plan left open, `reduction` how tokens leave. Returns the folder.
    """
    folder = path_of(folder)
    folder.mkdir(parents=True, exist_ok=True)
    names: dict[str | None, str] = {}
    files = ({None: learner} if learner else {}) | plan.files
    for number, (path, part) in enumerate(files.items(), 1):
        name = Path(part.file_name)
        names[path] = part.file_name if number == 1 else f"{name.stem}-{number}{name.suffix}"
        write_whole(folder / names[path], part.contents())
    saved_plan = str(plan.with_files(names.get))
    if reduction:
        save_file(reduction.state_dict(), folder / REDUCTION)
    how = f"{saved_plan}, {reduction}" if reduction else saved_plan
    companions = {name: part for name, part in model.named_children() if isinstance(part, Companion)}
    for name in companions:  # which are not among the weights: they have files of their own
        delattr(model, name)
    model.config.sparsebert = {"plan": how, "note": NOTE} if how != "dense" else None
    try:
        with quiet():
            model.save_pretrained(folder)
    finally:
        del model.config.sparsebert
        for name, part in companions.items():
            setattr(model, name, part)
    tokenizer = load_tokenizer(config.encoder)
    tokenizer.model_max_length = max_length
    tokenizer.padding_side = "right"  # as in the training
    columns = [name for name in tokenizer.model_input_names if name in columns_of(model)]
    tokenizer.model_input_names = tokenizer.init_kwargs["model_input_names"] = columns  # else it isn't saved
    tokenizer.save_pretrained(folder)
    labels = [str(label) for label in model.config.id2label.values()]
    settings = Settings(plan=saved_plan, max_length=max_length, labels=labels, config=config.model_dump())
    if how != "dense":
        write_whole(folder / CARD, _CARD.format(plan=how, note=NOTE, version=__version__))
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


def load(folder: str | Path, kernel: str = "auto", reduce: str | None = None) -> Sparsified:
    """A model that `save` wrote, following its plan again: `load(folder).model` goes wherever a model goes.

    `truncation=True` cuts texts to the length of the training texts. A model that labels words goes into a
    pipeline "token-classification" with `aggregation_strategy="first"`, which is how it was trained. `kernel`
    is as in `sparsify`. `reduce` are other settings of the run's reduction, such as `lat(keep=0.6)` of a
    model that was trained with `lat`. Raises `InputError` for a folder that `save` did not write, and for
    weights or degrees that do not belong to it. Chapter 05 explains it.

    >>> sparse = load("my-model")  # doctest: +SKIP
    >>> pipeline(  # doctest: +SKIP
    ...     "text-classification", model=sparse.model, tokenizer="my-model", truncation=True
    ... )
    """
    folder = path_of(folder)
    settings = read_settings(folder)
    what = f"the model in '{folder}'"
    plan = parse_plan(settings.plan).with_files(lambda path: path and str(folder / path))
    with explained(what, "save it again"):
        model_files(folder)
        source = {"pretrained_model_name_or_path": str(folder), "local_files_only": True}
        config = AutoConfig.from_pretrained(**source, trust_remote_code=False)
        model = open_model(what, source, config, labelled_by(config), new_head=False)
        check_reads(what, model, load_tokenizer(str(folder)))
    labels, positions = list(map(str, model.config.id2label.values())), architecture_of(model).positions
    if labels != settings.labels or settings.max_length > positions:
        raise InputError(
            f"{what} has {positions} positions and the labels {shown(', '.join(labels))}, and its "
            f"{SETTINGS} says otherwise; save it again"
        )
    return sparsify(model, plan, None, kernel, _reduction(model, settings, folder, reduce))


def _reduction(
    model: PreTrainedModel, settings: Settings, folder: Path, reduce: str | None
) -> Reduction | None:
    trained = settings.config.get("reduce")
    if not trained:
        if reduce:
            raise InputError(f"--reduce {reduce}: no token leaves the model in '{folder}'; leave it out")
        return None
    reduction = attach_reduction(model, reduce or trained)
    if reduction.name != reduction_name(trained):
        raise InputError(
            f"--reduce {reduce}: the model in '{folder}' was trained with {trained}; give its settings"
        )
    try:
        reduction.load_state_dict(load_file(folder / REDUCTION))
    except (OSError, SafetensorError, RuntimeError) as error:
        if reduce and isinstance(error, RuntimeError):
            raise InputError(
                f"--reduce {reduce}: what the model in '{folder}' learned with {trained} does not fit it; "
                "give settings that change no weights"
            ) from None
        raise InputError(
            f"the model in '{folder}': its {REDUCTION} can't be read ({error}); save it again"
        ) from None
    return reduction.eval()


def read_settings(folder: str | Path) -> Settings:
    """What stands beside the weights; `InputError` if the folder holds no model that `save` wrote."""
    instead = "give a folder that this version's `sparsebert finetune --save FOLDER` wrote"
    return read_model(path_of(folder) / SETTINGS, Settings, "the saved model's settings", instead)
