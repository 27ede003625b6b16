"""What a task is, how its rows become data sets, and the split of data that comes without one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from sparsebert.data.tasks.metrics import OF_ROWS, OF_SENTENCES
from sparsebert.errors import InputError
from sparsebert.registry import TASKS, Registry

if TYPE_CHECKING:  # machines that are given prepared data have neither
    import pandas as pd
    from datasets import Dataset, DatasetDict

CONFIRM = "+confirm"  # behind a task's name: with a part `test`, see `Task.confirmed`
CONFIRMED = 2 / 3  # of its evaluation rows: more of them narrow a promise, and ranking plans takes fewer

Splits = dict[str, "pd.DataFrame"]
"""Rows of each split: columns text, text_pair (pairs only) and label (index of the class, or a number).

Where words are labelled, text is a list of words, and label a list of the indices of their tags."""


@dataclass(frozen=True)
class Task:
    """Labelled texts in fixed splits; `sparsebert.register` makes one of your own known by its name.

    `metrics`: the first is the one to report; `label_names`: in the order of the label's integers, empty
    where a number is predicted; `max_length`: word pieces after which a text is cut by default; `paired`:
    whether there is a text_pair; `source` and `licence`: where the data comes from and what its terms are, in
    a few words; `read`: gives the rows of the splits train and validation, see `Splits`; `labelled`: what has
    a label, "texts" or "words".
    """

    registry: ClassVar[Registry] = TASKS

    name: str
    summary: str
    metrics: tuple[str, ...]
    label_names: tuple[str, ...]
    max_length: int
    paired: bool
    source: str
    licence: str
    read: Callable[[], Splits] = field(repr=False, compare=False)
    labelled: str = "texts"

    def check_component(self) -> None:
        """`InputError` for a name that stands for a file, and a first metric without intervals over rows."""
        if self.name.startswith("file:"):
            raise InputError(f"'{self.name}' stands for a task from a file; choose another name")
        if self.metrics[0] not in OF_ROWS:
            raise InputError(
                f"task '{self.name}' can't be judged by {self.metrics[0]}, since no interval over rows is "
                f"made of it; put one of {', '.join(OF_ROWS)} before it"
            )

    def in_folder(self, folder: Path | None) -> Task:
        """The task where data sets in the GLUE layout lie in `folder`, which only benchmarks look into."""
        return self

    def load(self) -> DatasetDict:
        """The splits "train", "validation" and any others, such as "test"; read once per process.

        Raises `InputError` if the data cannot be had or is malformed.
        """
        from datasets import DatasetDict

        return DatasetDict(self._datasets)

    @cached_property
    def confirmed(self) -> Task:
        """The task `NAME+confirm`, which holds `CONFIRMED` of the validation rows out as the part `test`.

        Plans are chosen on the part `validation`, and what is promised of them is tested on the part `test`.
        A task that has a test part keeps its parts.
        """
        summary = f"{self.summary} (with rows held out to confirm what was chosen)"
        return replace(self, name=self.name + CONFIRM, summary=summary, read=self._with_test)

    def _with_test(self) -> Splits:
        splits = self.read()
        if "test" in splits:
            return splits
        held = hold_out(splits["validation"], CONFIRMED, stratify=bool(self.label_names))
        if held["validation"].empty:  # no class has two texts
            held = hold_out(splits["validation"], CONFIRMED, stratify=False)
        if held["validation"].empty:
            raise InputError(
                f"'{self.name}' has too few different evaluation rows to hold some out; add labelled rows"
            )
        return splits | {"validation": held["train"], "test": held["validation"]}

    @cached_property
    def _datasets(self) -> dict[str, Dataset]:
        from datasets import ClassLabel, Dataset, Features, List, Value

        text = Value("string")
        label = ClassLabel(names=list(self.label_names)) if self.label_names else Value("float32")
        if self.labelled == "words":
            text, label = List(text), List(label)
        texts = dict.fromkeys(("text", "text_pair")[: 1 + self.paired], text)
        features = Features(texts | {"label": label})
        return {
            split: Dataset.from_pandas(rows[list(features)], features=features, preserve_index=False)
            for split, rows in self.read().items()
        }

    @cached_property
    def data_hash(self) -> str:
        """sha256 over the splits' names and rows in their order: the same data have it wherever they lie.

        Of entities and of your own tasks it covers what else decides a score: metrics, labels and the length.
        """
        digest = hashlib.sha256()
        for split, rows in self._datasets.items():
            digest.update(f"{split}\n".encode())
            pairs = rows["text_pair"] if self.paired else [None] * len(rows)
            for text, pair, label in zip(rows["text"], pairs, rows["label"], strict=True):
                # Six digits: a score has the same hash whether it was stored in 32 or 64 bits.
                row = [text, pair, label if self.label_names else f"{label:.6g}"]
                digest.update(json.dumps(row).encode() + b"\n")
        if self.entities or self.name.removesuffix(CONFIRM) in TASKS.fingerprints:
            digest.update(json.dumps([self.metrics, self.label_names, self.max_length]).encode())
        return digest.hexdigest()

    @property
    def entities(self) -> bool:
        """Whether whole entities are scored."""
        return self.metrics[0] in OF_SENTENCES

    @property
    def sizes(self) -> dict[str, int]:
        """Rows of each split."""
        return {split: len(rows) for split, rows in self._datasets.items()}


def one_text(text: str | Sequence[str]) -> str:
    """A text, or words joined by spaces, as tokenizers and pipelines get them."""
    return text if isinstance(text, str) else " ".join(text)


def hold_out(rows: pd.DataFrame, share: float, stratify: bool = True) -> Splits:
    """Splits rows into train and validation by the sha256 of their texts, so that no library can move a row.

    In each class (or over all rows, without `stratify` and where words are labelled) the `share` of texts
    with the lowest digests is held out, at least one if there are two; as a text may have several labels,
    none that is the last of a class in training. Rows of the same text stay together, and both splits are
    ordered by digest, that is, shuffled.

    >>> import pandas as pd
    >>> rows = pd.DataFrame({"text": ["a", "b", "b", "c", "d"], "label": [0, 0, 0, 1, 1]})
    >>> {split: sorted(part["text"]) for split, part in hold_out(rows, 0.5).items()}
    {'train': ['a', 'c'], 'validation': ['b', 'b', 'd']}
    """
    import pandas as pd

    texts = rows[["text", "text_pair"] if "text_pair" in rows else ["text"]]
    texts = texts.map(one_text)
    digests = texts.agg("\x1f".join, axis=1).map(lambda text: hashlib.sha256(text.encode()).hexdigest())
    digests = digests.sort_values(kind="stable")
    rows = rows.loc[digests.index]
    whole = stratify and not any(isinstance(label, list) for label in rows["label"][:1])
    classes = rows["label"] if whole else pd.Series(0, rows.index)
    texts_of = {label: of_class.unique() for label, of_class in digests.groupby(classes)}
    classes_of = classes.groupby(digests).unique()
    training = {label: len(distinct) for label, distinct in texts_of.items()}
    held: set[str] = set()
    for distinct in texts_of.values():
        wanted = max(round(share * len(distinct)), 1 if len(distinct) > 1 else 0)
        for text in distinct:
            if wanted and text not in held and all(training[label] > 1 for label in classes_of[text]):
                held.add(text)
                for label in classes_of[text]:
                    training[label] -= 1
            wanted -= wanted > 0 and text in held
    is_held = digests.isin(held)
    return {
        "train": rows[~is_held].reset_index(drop=True),
        "validation": rows[is_held].reset_index(drop=True),
    }
