"""Runs: what was asked (`RunConfig`), what came out (`RunRecord`), and where both are kept (`RunStore`)."""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Annotated, Any, Literal
from uuid import uuid4

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from sparsebert.degrees import DegreeConfig
from sparsebert.errors import InputError, unknown_name
from sparsebert.models.encoders import check_encoder
from sparsebert.paths import check_writable, runs_dir, write_whole
from sparsebert.patterns.hard_degrees import HardDegrees
from sparsebert.patterns.plans import parse_plan

_MEANING = 1  # raise it when a change changes what a config computes; older records are then not found
_SINCE_THEN = {"span": 1, "gates": 1}  # changes to one method of learning degrees alone

_NAME = re.compile(r"[0-9a-f]{16}")

Positive = Annotated[int, Field(ge=1)]


class RunConfig(BaseModel):
    """One fine-tuning run, completely; unknown fields are refused.

    The same config gives the same run, up to the arithmetic of the device: the record names it, and the
    precision that `auto` took.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    task: str = Field("reviews", description="task, see `sparsebert tasks`")
    encoder: str = Field("minilm", description="encoder, see `sparsebert encoders`")
    plan: str = Field(
        "dense", description="patterns and the layers they are placed at, see `sparsebert patterns`"
    )
    train_size: Positive | None = Field(None, description="training rows (default: all)")
    eval_size: Positive | None = Field(None, description="rows to evaluate on (default: all)")
    epochs: float = Field(1.0, gt=0, le=100, description="passes over the training rows")
    batch_size: int = Field(32, ge=1, le=4096, description="rows per step")
    learning_rate: float = Field(
        1e-4, gt=0, le=1, description="peak of AdamW's learning rate; 2e-5 to 5e-5 for BERT-base"
    )
    max_length: int | None = Field(
        None,
        ge=4,
        le=32768,
        description="tokens a row is cut to; an encoder of fewer positions is extended "
        "(default: the task's, within the encoder's positions)",
    )
    seed: int = Field(0, ge=0, lt=2**32, description="of the new head, the order of the data and dropout")
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="bf16 needs hardware for it; auto takes it where there is some"
    )
    kernel: Literal["auto", "reference", "banded", "flex"] = Field(
        "auto",
        description="how attention is computed: reference, banded, flex or auto; the result is the same",
    )
    degrees: DegreeConfig | None = Field(None, description="how the degrees of `learned` are learned")

    @field_validator("plan")
    @classmethod
    def _canonical_plan(cls, text: str) -> str:
        return str(parse_plan(text))

    @field_validator("encoder")
    @classmethod
    def _plausible_encoder(cls, name: str, info: ValidationInfo) -> str:
        return name if info.mode == "json" else check_encoder(name)  # a record's encoder may be elsewhere

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_value(cls, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, bool):
            raise InputError(f"{info.field_name}={str(value).lower()}: write a number or a text")
        return value

    @model_validator(mode="after")
    def _computable(self) -> RunConfig:
        soft = self.degrees is not None and self.degrees.method != "mass"
        if soft and self.kernel in ("banded", "flex"):
            raise InputError(
                f"kernel={self.kernel} can't compute degrees while they are learned; write kernel=auto, "
                "which takes it when they are hard and it pays"
            )
        return self

    @classmethod
    def checked(cls, **fields: Any) -> RunConfig:
        """A config from what a person typed; `InputError`, in one sentence, for the first wrong field."""
        for name in fields:
            if name not in cls.model_fields:
                raise unknown_name("field of a run", name, cls.model_fields)
        for name in fields["degrees"] if isinstance(fields.get("degrees"), dict) else ():
            if name not in DegreeConfig.model_fields:
                raise unknown_name("field of degrees", name, DegreeConfig.model_fields)
        try:
            return cls(**fields)
        except ValidationError as error:
            first = error.errors()[0]
            cause = first.get("ctx", {}).get("error")
            if isinstance(cause, InputError):
                raise cause from None
            raise InputError(f"{first['loc'][-1]}={first['input']}: {first['msg'].lower()}") from None

    @staticmethod
    def degree_fields() -> dict:
        """The fields of `degrees`."""
        return dict(DegreeConfig.model_fields)

    @property
    def name(self) -> str:
        """The run's name: a hash of the canonical JSON of the config, of `kernel` only if it isn't `auto`."""
        fields = self.model_dump(exclude={"kernel"} if self.kernel == "auto" else None)
        meaning = _MEANING + (_SINCE_THEN.get(self.degrees.method, 0) if self.degrees else 0)
        canonical = json.dumps([meaning, fields], sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:16]


class Learning(BaseModel):
    """What a run learned about degrees.

    Densities are means over the layers that learned, on the evaluation data: `soft_density` is the one to
    expect before hardening, `hard_density` the one measured at the end. `soft_metrics` are the scores before
    hardening. `survival[layer][head][o - 1]` is S(o) at that time, the last item for all larger distances,
    given for every layer and head that learns. Methods without a soft part have None.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    target_density: float | None
    soft_density: float | None = None
    hard_density: float
    soft_metrics: dict[str, float] | None = None
    survival: list[list[list[float]]] | None = None
    degrees: HardDegrees


class RunRecord(BaseModel):
    """What one run gave and where it came from.

    Densities are fractions, measured on the evaluation data with every sequence weighted by its pairs:
    `density` is the mean of `density_per_layer`, over pairs of real tokens; `padded_density...` the same
    allowed pairs over the square of `max_length`. Times are wall seconds, memory is the process's peak in
    MiB (the GPU's where there is one). `kernels` names the kernel that each layer used last.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")

    name: str
    config: RunConfig
    metrics: dict[str, float]
    density: float
    density_per_layer: list[float]
    padded_density: float
    padded_density_per_layer: list[float]
    train_rows: int
    eval_rows: int
    steps: int
    train_loss: float
    seconds: dict[str, float]
    examples_per_second: dict[str, float]
    peak_memory_mib: float
    device: str
    precision: str
    kernels: list[str] | None = None
    versions: dict[str, str]
    commit: str | None
    data_hash: str
    finished: str
    learning: Learning | None = None


class RunStore:
    """A folder with one JSON file per finished run, `<name>.json`, each written whole or not at all."""

    def __init__(self, folder: str | Path | None = None):
        self.folder = runs_dir(folder)

    def find(self, config: RunConfig, data_hash: str | None = None) -> RunRecord | None:
        """The record of a config, or None; with `data_hash` only one of these data."""
        record = self.named(config.name)
        return record if record and data_hash in (None, record.data_hash) else None

    def named(self, name: str) -> RunRecord | None:
        """The record of the run of that name, or None."""
        return self._read(self._path(name)) if _NAME.fullmatch(name) else None

    def add(self, record: RunRecord) -> Path:
        """Write a record: temporary file, then rename. One of the same run from other data is set aside."""
        path = self._path(record.name)
        if (old := self._read(path)) and old.data_hash != record.data_hash:
            self._set_aside(path, path.read_bytes(), "it was made from other data")
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
        return self.folder / "unfinished" / f"{config.name}-{data_hash[:16]}"

    def __iter__(self) -> Iterator[RunRecord]:
        for path in sorted(self.folder.glob("*.json")):
            if _NAME.fullmatch(path.stem) and (record := self._read(path)):
                yield record

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.json"

    def _read(self, path: Path) -> RunRecord | None:
        try:
            found = path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise InputError(f"the record '{path}' cannot be read: {error.strerror}") from None
        try:
            record = RunRecord.model_validate_json(found)
        except ValueError:
            self._set_aside(path, found, "it is torn or not a run of this version")
            return None
        if record.name != path.stem or record.config.name != path.stem:
            self._set_aside(path, found, "its name is not the hash of its config")
            return None
        return record

    def _set_aside(self, path: Path, found: bytes, why: str) -> None:
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
        print(f"sparsebert: {path.name} was set aside as {aside.name}, since {why}", file=sys.stderr)
