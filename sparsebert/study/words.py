"""How far a task of pairs is solved by counting the words that two texts share."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd

from sparsebert.data.tasks import Task
from sparsebert.errors import InputError


def by_shared_words(task: Task) -> pd.DataFrame:
    """The accuracy of a threshold on the share of the first text's words that the second has, too.

    A row per part of the task (`what`), with its number of `rows`, the `accuracy` of the threshold that is
    best on the training rows, and the share of the most frequent class, `majority`; both are fractions. Each
    word counts once, in lower case. Raises `InputError` for a task that is not one of pairs in two classes.
    Chapter 08 explains it.
    """
    if not task.paired or len(task.label_names) != 2:
        raise InputError(f"task '{task.name}' is not one of pairs of texts in two classes")
    parts = {name: rows.to_pandas() for name, rows in task.load().items()}
    for rows in parts.values():
        rows["shared"] = list(map(_share, rows["text"], rows["text_pair"]))
    train = parts["train"]
    cuts = np.unique(train["shared"])
    right = np.array([((train["shared"] >= cut) == train["label"]).mean() for cut in cuts])
    best = int(np.abs(right - 0.5).argmax())
    more = right[best] >= 0.5  # whether pairs that share more are of class 1
    found = [
        {
            "what": name,
            "rows": len(rows),
            "accuracy": (((rows["shared"] >= cuts[best]) == more) == rows["label"]).mean(),
            "majority": rows["label"].value_counts(normalize=True).max(),
        }
        for name, rows in parts.items()
    ]
    return pd.DataFrame(found)


def _share(text: str, other: str) -> float:
    words = set(re.findall(r"\w+", text.lower()))
    return len(words & set(re.findall(r"\w+", other.lower()))) / max(1, len(words))
