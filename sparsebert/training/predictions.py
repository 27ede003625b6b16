"""What a run predicted for each row or word that it was evaluated on, packed to about a bit per class bit."""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Self

import numpy as np
from jaxtyping import Float, Int, Num
from pydantic import BaseModel, ConfigDict, Field, model_validator

from sparsebert.data.tasks.metrics import OF_SENTENCES, entity_counts, score
from sparsebert.errors import InputError

if TYPE_CHECKING:
    from sparsebert.data.rows import Rows

Numbers = Num[np.ndarray, "row"]


class Predictions(BaseModel):
    """Labels and predictions of the rows of one part, sorted by length as `prepare` gives them.

    `rows` is a hash of the rows' tokens and labels in their order: two runs with the same one were evaluated
    on the same rows, and can be compared row by row. `classes` is the number of classes; 0 where a number is
    predicted. Classes stand in `label` and `predicted` bit by bit, the lowest bits of all rows first; numbers
    stand there in 32 bits. Both are base64. Chapter 07 explains what they are for.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    rows: str = Field(pattern="^[0-9a-f]{16}$")
    count: int = Field(ge=1)
    classes: int = Field(ge=0, le=2**16)
    label: str
    predicted: str

    @classmethod
    def of(cls, rows: Rows, logits: Num[np.ndarray, "row class"], classes: int) -> Predictions:
        """What `logits` say of `rows`, one column of numbers where `classes` is 0; `InputError` for NaN."""
        return cls(**cls._fields(rows, np.asarray(rows.label), logits, classes))

    @staticmethod
    def _fields(rows: Rows, label: Numbers, logits: Num[np.ndarray, "row class"], classes: int) -> dict:
        if not np.isfinite(logits).all():
            raise InputError(
                "the model's predictions are not finite: training diverged; lower the learning rate"
            )
        predicted = logits.argmax(-1) if classes else logits.reshape(-1)
        packed = {"label": _packed(label, classes), "predicted": _packed(predicted, classes)}
        return packed | {"rows": _hash(rows, label), "count": len(label), "classes": classes}

    @property
    def labels(self) -> Numbers:
        return _unpacked(self.label, self.count, self.classes)

    @property
    def predictions(self) -> Numbers:
        return _unpacked(self.predicted, self.count, self.classes)

    @property
    def correct(self) -> Numbers:
        """1 for each row whose class was found, else 0."""
        return (self.labels == self.predictions).astype(int)

    def metrics(self, names: Sequence[str]) -> dict[str, float]:
        """The metrics that follow from these predictions."""
        return score(names, self.predictions, self.labels)

    def points(self, metric: str) -> Float[np.ndarray, " row"]:
        """What each row adds to a score in points; their mean is the score.

        A row adds 100 if its class was found. Where the score is a correlation (Pearson's or, for two
        classes, Matthews'), a row adds the score and its influence on it (Devlin, Gnanadesikan and
        Kettenring, 1975).
        """
        if self.classes and metric != "matthews":
            return 100.0 * self.correct
        x, y = (_standardised(values) for values in (self.labels, self.predictions))
        together = float((x * y).mean())
        return 100 * (together + x * y - together * (x**2 + y**2) / 2)

    def counted(self, metric: str) -> int:
        """How much a score counts: rows, or in rows of words the words or the entities."""
        return self.count

    @property
    def constant(self) -> Self:
        """What an answer that is always the same, the most frequent one, says of these rows."""
        values, counts = np.unique(self.labels, return_counts=True)
        same = np.full(self.count, values[counts.argmax()])
        return self.model_copy(update={"predicted": _packed(same, self.classes)})

    def in_pipeline(self, metric: str) -> tuple[str, str]:
        """The task of the transformers pipeline that predicts alike, and the options to write there."""
        numbers = "" if self.classes else ', function_to_apply="none"'
        return "text-classification", f"truncation=True{numbers}"

    @model_validator(mode="after")
    def _whole(self) -> Predictions:
        for name in ("label", "predicted"):
            try:
                size = len(base64.b64decode(getattr(self, name), validate=True))
            except binascii.Error:
                raise ValueError(f"{name} is not base64") from None
            bits = self.count * (_bits(self.classes) if self.classes else 32)
            if size != -(-bits // 8):
                raise ValueError(f"{name} does not hold {self.count} rows")
        return self


class WordPredictions(Predictions):
    """Tags and predictions of the words of rows whose words are labelled: `count` is the number of words.

    `tags` are the names of the classes. `words` says how many words each row has, in 16 bits, as base64.
    Words that were cut off or have no token are not among them.
    """

    tags: list[str]
    words: str

    @classmethod
    def of(
        cls, rows: Rows, logits: Num[np.ndarray, "row token class"], tags: Sequence[str]
    ) -> WordPredictions:
        """What `logits` say of the words of `rows`, padded on the right; `InputError` for NaN."""
        lengths, tag = np.array(rows.lengths), rows.tokens["tags"]
        flat = logits[np.arange(logits.shape[1]) < lengths[:, None]]
        words = np.bincount(np.repeat(np.arange(len(rows)), lengths)[tag >= 0], minlength=len(rows))
        packed = base64.b64encode(words.astype("<u2").tobytes()).decode()
        fields = cls._fields(rows, tag[tag >= 0], flat[tag >= 0], len(tags))
        return cls(**fields, tags=list(tags), words=packed)

    @property
    def ends(self) -> Numbers:
        """For each row the place behind its last word."""
        return np.frombuffer(base64.b64decode(self.words, validate=True), "<u2").cumsum(dtype=np.int64)

    @property
    def correct(self) -> Numbers:
        """What each row adds to accuracy over words; their mean is accuracy."""
        return _added(*self._counts("accuracy"))

    def metrics(self, names: Sequence[str]) -> dict[str, float]:
        return score(names, self.predictions, self.labels, self._named())

    def points(self, metric: str) -> Float[np.ndarray, " row"]:
        """What each row adds to a score in points: the score and the row's influence on it.

        The score is F1 of entities, or else accuracy over words. Both are ratios of sums over rows, as rows
        are drawn and not words (the ratio estimator: Cochran, 1977, chapter 6).
        """
        return 100.0 * _added(*self._counts(metric))

    def counted(self, metric: str) -> int:
        if metric in OF_SENTENCES:  # the mean of those that are there and those that are named
            return max(1, int(self._counts(metric)[1].sum()) // 2)
        return self.count

    def in_pipeline(self, metric: str) -> tuple[str, str]:
        return "token-classification", 'aggregation_strategy="first"' * (metric in OF_SENTENCES)

    def _counts(self, metric: str) -> tuple[Int[np.ndarray, " row"], Int[np.ndarray, " row"]]:
        """For each row a numerator and a denominator, the sums of which make the score."""
        if metric in OF_SENTENCES:
            found, both = entity_counts(*self._named()).T
            return 2 * found, both
        right = self.labels == self.predictions
        return tuple(
            np.diff(sums.cumsum()[self.ends - 1], prepend=0) for sums in (right, np.ones_like(right))
        )

    def _named(self) -> list[list[np.ndarray]]:
        """The tags of each row, and those that were predicted."""
        return [np.split(np.array(self.tags)[of], self.ends[:-1]) for of in (self.labels, self.predictions)]

    @model_validator(mode="after")
    def _fits(self) -> WordPredictions:
        ends, most = self.ends, max(self.labels.max(), self.predictions.max())
        if len(self.tags) != self.classes or most >= self.classes:
            raise ValueError(f"tags does not name the {self.classes} classes")
        if ends[-1:].tolist() != [self.count] or not np.diff(ends, prepend=0).all():
            raise ValueError(f"words does not hold the {self.count} words of the rows")
        return self


def metrics_of(parts: Mapping[str, Predictions], names: Sequence[str]) -> dict[str, float]:
    """The named metrics of each part of the rows; those of other parts than validation have its name before.

    The part validation_mismatched is called mismatched, since it is validation, too.
    """
    return {
        f"{prefix_of(part)}{name}": value
        for part, predictions in parts.items()
        for name, value in predictions.metrics(names).items()
    }


def prefix_of(part: str) -> str:
    """What stands before the names of metrics of a part of the rows."""
    return "" if part == "validation" else f"{part.removeprefix('validation_')}_"


def _standardised(values: Numbers) -> Float[np.ndarray, " row"]:
    centred = values.astype(float) - values.mean()
    return centred / (centred.std() or 1.0)


def _added(parts: Numbers, wholes: Numbers) -> Float[np.ndarray, " row"]:
    """What each row adds to the sum of parts over the sum of wholes: that ratio and its influence on it."""
    ratio = parts.sum() / max(wholes.sum(), 1)
    return ratio + (parts - ratio * wholes) / (wholes.mean() or 1.0)


def _bits(classes: int) -> int:
    return max(1, (classes - 1).bit_length())


def _packed(values: Numbers, classes: int) -> str:
    if classes:
        bits = [(values.astype(np.int64) >> bit) & 1 for bit in range(_bits(classes))]
        content = np.packbits(np.concatenate(bits).astype(bool)).tobytes()
    else:
        content = values.astype("<f4").tobytes()
    return base64.b64encode(content).decode()


def _unpacked(text: str, count: int, classes: int) -> Numbers:
    content = base64.b64decode(text)
    if not classes:
        return np.frombuffer(content, "<f4")
    bits = np.unpackbits(np.frombuffer(content, np.uint8))[: count * _bits(classes)]
    return sum(column.astype(np.int64) << bit for bit, column in enumerate(bits.reshape(-1, count)))


def _hash(rows: Rows, label: Numbers) -> str:
    digest = hashlib.sha256()
    for values in (rows.lengths, rows.tokens["input_ids"], label):
        values = np.asarray(values)
        digest.update(values.astype("<f4" if values.dtype.kind == "f" else "<i8").tobytes())
    return digest.hexdigest()[:16]
