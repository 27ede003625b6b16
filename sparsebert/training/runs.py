"""Runs: what was asked (`RunConfig`), what came out (`RunRecord`), and where both are kept (`RunStore`)."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable, Iterator
from functools import lru_cache
from itertools import count
from pathlib import Path
from typing import Annotated, Any, Literal
from uuid import uuid4

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import from_json

from sparsebert.degrees import DegreeConfig
from sparsebert.errors import InputError, check_names, first_mistake, first_refusal, say
from sparsebert.paths import check_writable, runs_dir, write_whole
from sparsebert.patterns.hard_degrees import HardDegrees
from sparsebert.reading import read_bytes
from sparsebert.training.naming import SCHEMA, former_names, migrated, revision_of, run_name
from sparsebert.training.predictions import Predictions, WordPredictions

_NAME = re.compile(r"[0-9a-f]{16}")
_TODAYS = re.compile(rb'\{\s*"name":\s*"\w+",\s*"schema_version":\s*%d,' % SCHEMA)
_TRUNCATED = "it is truncated, or no JSON"
_MARKUP = set("<>`[]")
_LEAST = {"accuracy": 0, "f1": 0, "matthews": -1, "pearson": -1, "spearman": -1}  # of metrics up to 1
_SLACK = 1e-6  # by which a mean of fractions may miss its bounds


@lru_cache(maxsize=2**14)
def _unmarked(text: str) -> str:
    if not text.isprintable() or not _MARKUP.isdisjoint(text):
        raise InputError(
            f"{text[:80]!r} has control characters or one of < > ` [ ], which would be read as markup in a "
            "book; write it without them"
        )
    return text


@lru_cache(maxsize=2**14)
def _canonical(plan: str) -> str:
    from sparsebert.patterns.plans import parse_plan

    return str(parse_plan(plan))


Text = Annotated[str, AfterValidator(_unmarked)]
Label = Annotated[str, Field(coerce_numbers_to_str=True, max_length=200), AfterValidator(_unmarked)]
Positive = Annotated[int, Field(ge=1)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Density = Annotated[float, Field(gt=0, le=1 + _SLACK)]
Densities = Annotated[list[Density], Field(min_length=1)]
Measured = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0)]


def _possible(metrics: dict[str, float]) -> dict[str, float]:
    """Scores that can be; NaN is what a metric gives that is not defined."""
    for name, value in metrics.items():
        least = _LEAST.get(name.rpartition("_")[2], -math.inf)
        most = 1 + _SLACK if least > -math.inf else math.inf
        if math.isinf(value) or value < least - _SLACK or value > most:
            raise ValueError(f"{name} can't be {value}")
    return metrics


def _with(*parts: str) -> Callable[[dict], dict]:
    def check(values: dict) -> dict:
        if missing := set(parts) - values.keys():
            raise ValueError(f"'{min(missing)}' is missing")
        return values

    return check


Metrics = Annotated[dict[Text, float], Field(min_length=1), AfterValidator(_possible)]


class RunConfig(BaseModel):
    """One fine-tuning run, completely; unknown fields are refused.

    The same config gives the same run, up to the arithmetic of the device: the record names it, and the
    precision that `auto` took. `labels` say what a run is for, as in {"treatment": "named heads"}; they are
    kept in its record, and two configs that differ in them alone are equal and of one name.
    Chapter 02 explains it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    task: Text = Field("reviews", description="Task to learn, see `sparsebert tasks`")
    encoder: Text = Field("minilm", description="Encoder to fine-tune, see `sparsebert encoders`")
    plan: Text = Field(
        "dense", description="Patterns and the layers that each is applied at, see `sparsebert patterns`"
    )
    train_size: Positive | None = Field(None, description="Number of training rows (default: all)")
    eval_size: Positive | None = Field(None, description="Number of evaluation rows (default: all)")
    epochs: float = Field(1.0, gt=0, le=100, description="Passes over the training rows")
    batch_size: int = Field(32, ge=1, le=4096, description="Rows per training step")
    learning_rate: float = Field(
        1e-4, gt=0, le=1, description="Peak learning rate of AdamW; 2e-5 to 5e-5 for BERT-base"
    )
    max_length: int | None = Field(
        None,
        ge=4,
        le=32768,
        description="Tokens that a row is cut to; an encoder with fewer positions is extended "
        "(default: the task's, within the encoder's positions)",
    )
    seed: int = Field(
        0, ge=0, lt=2**32, description="Seed of the classifier head, the order of the data and dropout"
    )
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto",
        description="Precision of training: fp32, bf16, or auto, which is bf16 where the hardware has it",
    )
    kernel: Text = Field(
        "auto",
        description="Kernel that computes attention, such as banded; auto takes the fastest, and the result "
        "is the same",
    )
    layers: Positive | None = Field(
        None, description="Layers of the encoder that are kept, from the lowest (default: all)"
    )
    reduce: Text | None = Field(
        None,
        description="Way to let tokens leave between the layers, such as lat(keep=0.8), see "
        "`sparsebert reductions` (default: none)",
    )
    degrees: DegreeConfig | None = Field(
        None, description="How the degrees of the pattern `learned` are learned"
    )

    labels: dict[Label, Label] = Field({}, description="Free text that is kept with the record")

    @field_validator("plan", "encoder", "kernel")
    @classmethod
    def _known(cls, text: str, info: ValidationInfo) -> str:
        if info.mode == "json":  # of a record or another process: what it names may be known there alone
            return text
        from sparsebert.kernels import (
            kernel_names,
        )  # these take long to import, and reading records needs none
        from sparsebert.models.encoders import check_encoder

        if info.field_name == "plan":
            return _canonical(text)
        if info.field_name == "encoder":
            return check_encoder(text)
        check_names("kernel", [text], kernel_names())
        return text

    @field_validator("reduce")
    @classmethod
    def _known_reduction(cls, text: str | None, info: ValidationInfo) -> str | None:
        if text is None or info.mode == "json":
            return text
        from sparsebert.reductions import reduction_text

        return reduction_text(text)

    @field_validator("labels")
    @classmethod
    def _in_order(cls, labels: dict[str, str]) -> dict[str, str]:
        return dict(sorted(labels.items()))

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_value(cls, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, bool):
            raise InputError(f"{info.field_name}={str(value).lower()}: write a number or a text")
        return value

    @model_validator(mode="after")
    def _computable(self) -> RunConfig:
        if self.reduce and self.degrees:
            raise InputError("degrees can't be learned while tokens leave; give --learn-degrees or --reduce")
        soft = self.degrees is not None and self.degrees.method_class.soft
        if soft and self.kernel != "auto":
            from sparsebert.kernels import needs_band

            if needs_band(self.kernel):
                raise InputError(
                    f"kernel={self.kernel} can't compute degrees while they are learned; write kernel=auto, "
                    "which takes it when they are hard and it pays"
                )
        return self

    @classmethod
    def checked(cls, **fields: Any) -> RunConfig:
        """A config from what a person typed; `InputError`, in one sentence, for the first wrong field."""
        check_names("field of a run", fields, cls.model_fields)
        if isinstance(degrees := fields.get("degrees"), dict):
            check_names("field of degrees", degrees, DegreeConfig.model_fields)
        try:
            return cls(**fields)
        except ValidationError as error:
            first = first_refusal(error)
            raise InputError(f"{first['loc'][-1]}={first['input']}: {first['msg'].lower()}") from None

    @property
    def asked(self) -> dict[str, Any]:
        """The fields that differ from the defaults, without the labels."""
        return self.model_dump(exclude={"labels"}, exclude_defaults=True)

    @property
    def name(self) -> str:
        """The run's name: a hash of what was asked, see `sparsebert.training.naming`."""
        return run_name(self.asked, revision_of(self.degrees and self.degrees.method))

    @property
    def former_names(self) -> list[str]:
        """Names that earlier versions gave this run, the latest first."""
        return former_names(self.model_dump(exclude={"labels"}), self.asked)

    def labelled(self, labels: dict[str, str]) -> RunConfig:
        """The same run with further labels; `InputError` if one of them has another value already."""
        for name in self.labels.keys() & labels:
            if self.labels[name] != labels[name]:
                raise InputError(
                    f"one run is labelled {name}={self.labels[name]} and {name}={labels[name]}; give it one"
                )
        return self.model_copy(update={"labels": dict(sorted((self.labels | labels).items()))})

    def _values(self) -> tuple:
        return tuple(value for name, value in self.__dict__.items() if name != "labels")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RunConfig) and self._values() == other._values()

    def __hash__(self) -> int:
        return hash(self._values())


class Learning(BaseModel):
    """What a run learned about degrees.

    Densities are means over the layers that learned, on the evaluation data: `soft_density` is the one to
    expect before hardening, `hard_density` the one measured at the end. `soft_metrics` are the scores before
    hardening. `survival[layer][head][o - 1]` is S(o) at that time, the last item for all larger distances,
    given for every layer and head that learns. Methods without a soft part have None.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    target_density: Density | None
    soft_density: Measured | None = None
    hard_density: Density
    soft_metrics: Metrics | None = None
    survival: list[list[list[Finite]]] | None = None
    degrees: HardDegrees


class RunRecord(BaseModel):
    """What one run gave and where it came from.

    Densities are fractions, measured on the evaluation data with every sequence weighted by its pairs:
    `density` is the mean of `density_per_layer`, over pairs of real tokens; `padded_density...` the same
    allowed pairs over the square of `max_length`. `kept_per_layer` is the share of the tokens that stays
    behind each layer's attention, where tokens leave. `multiply_adds` counts what the layers multiply and
    add for an evaluation row, on average; records of early runs have None. Times are wall seconds, memory
    is the process's peak in MiB (the GPU's where there is one). `kernels` names the kernel that each
    layer used last, and `revision` counts the changes to the method of learning degrees by then.
    `predictions` holds what was predicted for each row of a part (validation, test, ...), or each word;
    records of early runs have None.

    `RunRecord.read` brings a record of an earlier version to today's schema. Chapter 02 explains it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")

    name: str = ""
    schema_version: Literal[SCHEMA] = SCHEMA
    config: RunConfig
    revision: int = Field(None, validate_default=True, ge=0)
    metrics: Metrics
    density: Density
    density_per_layer: Densities
    padded_density: Density
    padded_density_per_layer: Densities
    kept_per_layer: Densities | None = None
    multiply_adds: Measured | None = None
    train_rows: Count
    eval_rows: Count
    steps: Count
    train_loss: float
    seconds: Annotated[dict[Text, Measured], AfterValidator(_with("prepare", "train", "evaluate"))]
    examples_per_second: Annotated[dict[Text, float], AfterValidator(_with("train", "evaluate"))]
    peak_memory_mib: Measured
    device: Text
    precision: Text
    kernels: list[Text] | None = None
    versions: dict[Text, Text]
    commit: Text | None
    data_hash: Text
    finished: Text
    learning: Learning | None = None
    predictions: dict[Text, Predictions | WordPredictions] | None = None

    @field_validator("revision", mode="before")
    @classmethod
    def _of_today(cls, revision: int | None, info: ValidationInfo) -> int:
        if revision is None and info.mode == "python" and (config := info.data.get("config")):
            return revision_of(config.degrees and config.degrees.method)
        return revision or 0

    @model_validator(mode="after")
    def _rightly_named(self) -> RunRecord:
        name = run_name(self.config.asked, self.revision)
        if self.name not in ("", name):
            raise InputError(f"the name {self.name} is not the hash of its config, {name}")
        object.__setattr__(self, "name", name)
        return self

    @property
    def metric(self) -> str:
        """The metric that a run is judged by, the task's first one."""
        return next(iter(self.metrics))

    def labelled(self, config: RunConfig) -> RunRecord:
        """The record for a config that asks for the same run, with the labels of both."""
        labels = self.config.labels | config.labels
        return self.model_copy(update={"config": config.model_copy(update={"labels": labels})})

    @classmethod
    def read(cls, text: str | bytes) -> RunRecord:
        """The record in a JSON text of this version or an earlier one; `InputError` says why it is none."""
        try:
            if not _TODAYS.match(text if isinstance(text, bytes) else text[:99].encode(errors="replace")):
                text = json.dumps(migrated(from_json(text)))
            return cls.model_validate_json(text)
        except ValidationError as error:
            first = first_refusal(error)
            if first["type"] == "json_invalid":
                raise InputError(_TRUNCATED) from None
            where = ".".join(map(str, first["loc"]))
            if first["type"] == "extra_forbidden":
                raise InputError(f"it has the field '{where}', which only a newer version knows") from None
            raise InputError(f"it is no record of a run: {first_mistake(error)}") from None
        except InputError:
            raise
        except ValueError:
            raise InputError(_TRUNCATED) from None


class RunStore:
    """A folder with one JSON file per finished run, `<name>.json`, each written whole or not at all.

    Reading changes nothing: a file that holds no record is passed over, with a sentence on stderr.
    Chapter 02 explains it.
    """

    def __init__(self, folder: str | Path | None = None):
        self.folder = runs_dir(folder)
        self._told: set[Path] = set()

    def find(self, config: RunConfig, data_hash: str | None = None) -> RunRecord | None:
        """The record of a config, with its labels, or None; with `data_hash` only one of these data.

        It may stand under a name that an earlier version gave it.
        """
        for name in (config.name, *config.former_names):
            record = self._read(self._path(name))
            if record and record.config == config and data_hash in (None, record.data_hash):
                return record.labelled(config)
        return None

    def named(self, name: str) -> RunRecord | None:
        """The record of the run of that name, today's or that of an earlier version, or None."""
        if not _NAME.fullmatch(name):
            return None
        direct = self._read(self._path(name))
        return direct or next((r for r in self if name in (r.name, *r.config.former_names)), None)

    def add(self, record: RunRecord) -> Path:
        """Write a record whole; what stands in its place, if not of the same data, is moved to `.aside`."""
        path = self._path(record.name)
        found = self._bytes(path)
        if found is not None:
            try:
                if RunRecord.read(found).data_hash != record.data_hash:
                    self._move_aside(path, found, "it was made from other data")
            except InputError as error:
                self._move_aside(path, found, str(error))
        write_whole(path, record.model_dump_json(indent=1) + "\n")
        self.failure(record.name).unlink(missing_ok=True)
        return path

    def check_writable(self) -> None:
        """`InputError` if no record could be written here, to be told before anything is trained."""
        check_writable(self.folder, f"the folder of runs '{self.folder}'", "--runs-dir")

    def failure(self, name: str) -> Path:
        """Where the reason is kept why a run failed, until it succeeds."""
        return self.folder / "failed" / f"{name}.json"

    def scratch(self, config: RunConfig, data_hash: str) -> Path:
        """Where an unfinished run keeps its checkpoints, which are of no use for other data."""
        names = (config.name, *config.former_names)
        own, *former = (self.folder / "unfinished" / f"{name}-{data_hash[:16]}" for name in names)
        return next((folder for folder in former if folder.is_dir()), own)

    def __iter__(self) -> Iterator[RunRecord]:
        """Each run once, in the order of the files' names; today's record of two of one run and its data."""
        seen = set()
        for path in sorted(self.folder.glob("*.json")):
            if _NAME.fullmatch(path.stem) and (record := self._read(path)):
                newer = path.stem != record.name and self._read(self._path(record.name))
                if not newer and record.name not in seen:
                    seen.add(record.name)
                    yield record

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.json"

    def _bytes(self, path: Path) -> bytes | None:
        try:
            return read_bytes(path, "the record")
        except InputError:
            if path.parent.exists() and path.exists():
                raise
            return None

    def _read(self, path: Path) -> RunRecord | None:
        found = self._bytes(path)
        if found is None:
            return None
        try:
            record = RunRecord.read(found)
            if path.stem in (record.name, *record.config.former_names):
                return record
            why = f"its name is that of another run, {record.name}"
        except InputError as error:
            why = str(error)
        if path not in self._told:
            self._told.add(path)
            say(f"sparsebert: the record {path.name} is passed over: {why}")
        return None

    def _move_aside(self, path: Path, found: bytes, why: str) -> None:
        """Take a file that was read as `found` out of the way; what another process put there stays."""
        taken = path.with_name(f".taken-{uuid4().hex}")
        try:
            os.replace(path, taken)
        except FileNotFoundError:  # another process did
            return
        if taken.read_bytes() != found:
            os.replace(taken, path)
            return
        aside = path.with_suffix(".json.aside")
        others = (path.with_suffix(f".json.aside-{number}") for number in count(2))
        while aside.exists():
            aside = next(others)
        os.replace(taken, aside)
        say(f"sparsebert: {path.name} was moved to {aside.name}, since {why}")
