"""The tasks of GLUE, and IMDB, from a local folder in the GLUE layout or else from the Hugging Face hub.

Both ways give the same columns and the same integers for the labels: the order of the hub's class names.
Rows without a gold label are dropped.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path

import datasets
import huggingface_hub
import numpy as np
import pandas as pd

from sparsebert.data.tasks.task import Splits, Task
from sparsebert.errors import InputError, first_line
from sparsebert.machine import hub_reachable
from sparsebert.reading import read_text
from sparsebert.registry import TASKS

NO_GOLD_LABEL = ("-1", "-")
LARGEST_FILE = 2**32  # bytes


def _nowhere() -> Splits:
    raise InputError("a benchmark has no rows before it is known where they lie; ask get_task for it")


@dataclass(frozen=True, kw_only=True)
class Benchmark(Task):
    """A task, and where it lies in a GLUE folder and on the hub; `in_folder` gives it its rows.

    `columns`: the text columns and the label column in the local header; `hub`: what the hub calls the data,
    by default a part of GLUE; `hub_columns`: the text columns there, by default the same, where the label is
    called label. `label_names`: in the hub's order, empty for scores. `header`: the columns of files that
    have no header line. `torn_rows`: whether the official files have rows broken in two by a line break,
    which the hub leaves out. `splits`: our split -> (local file, hub split); of two splits from one file each
    has half of its rows, in their order.
    """

    folder: str
    columns: tuple[str, ...]
    hub: tuple[str, ...] = ()
    hub_columns: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ("accuracy",)
    max_length: int = 128
    paired: bool = field(init=False)
    source: str = "a local folder or the Hugging Face hub"
    read: Callable[[], Splits] = field(default=_nowhere, repr=False, compare=False)
    header: tuple[str, ...] | None = None
    torn_rows: bool = False
    splits: dict[str, tuple[str, str]] = field(
        hash=False,
        default_factory=lambda: {"train": ("train.tsv", "train"), "validation": ("dev.tsv", "validation")},
    )

    def __post_init__(self) -> None:
        object.__setattr__(self, "hub", self.hub or ("nyu-mll/glue", self.name.removeprefix("glue/")))
        object.__setattr__(self, "hub_columns", self.hub_columns or self.columns[:-1])
        object.__setattr__(self, "paired", len(self.hub_columns) == 2)

    def in_folder(self, folder: Path | None) -> Task:
        """The task from a folder in the GLUE layout if that has its data, else from the hub."""
        return glue_task(self.name, folder)


_BENCHMARKS = (
    Benchmark(
        name="glue/cola",
        summary="sentence: is it acceptable English?",
        folder="CoLA",
        header=("source", "label", "judgement", "sentence"),
        columns=("sentence", "label"),
        label_names=("unacceptable", "acceptable"),
        metrics=("matthews", "accuracy"),
        licence="examples from linguistics texts, fair use",
    ),
    Benchmark(
        name="glue/mnli",
        summary="sentence pair: does the premise entail the hypothesis, or contradict it?",
        folder="MNLI",
        columns=("sentence1", "sentence2", "gold_label"),
        hub_columns=("premise", "hypothesis"),
        label_names=("entailment", "neutral", "contradiction"),
        splits={
            "train": ("train.tsv", "train"),
            "validation": ("dev_matched.tsv", "validation_matched"),
            "validation_mismatched": ("dev_mismatched.tsv", "validation_mismatched"),
        },
        licence="by genre: OANC, CC BY 3.0, CC BY-SA 3.0",
    ),
    Benchmark(
        name="glue/mrpc",
        summary="sentence pair: do the two mean the same?",
        folder="MRPC",
        columns=("#1 String", "#2 String", "Quality"),
        hub_columns=("sentence1", "sentence2"),
        label_names=("not_equivalent", "equivalent"),
        metrics=("accuracy", "f1"),
        licence="Microsoft Research, non-commercial",
    ),
    Benchmark(
        name="glue/qnli",
        summary="sentence pair: does the sentence answer the question?",
        folder="QNLI",
        columns=("question", "sentence", "label"),
        label_names=("entailment", "not_entailment"),
        licence="CC BY-SA 4.0",
    ),
    Benchmark(
        name="glue/qqp",
        summary="sentence pair: do two questions ask the same?",
        folder="QQP",
        columns=("question1", "question2", "is_duplicate"),
        label_names=("not_duplicate", "duplicate"),
        metrics=("accuracy", "f1"),
        torn_rows=True,
        licence="Quora's terms of service, non-commercial",
    ),
    Benchmark(
        name="glue/rte",
        summary="sentence pair: does the first entail the second?",
        folder="RTE",
        columns=("sentence1", "sentence2", "label"),
        label_names=("entailment", "not_entailment"),
        licence="none stated, for research",
    ),
    Benchmark(
        name="glue/sst2",
        summary="sentence sentiment: is this part of a movie review positive?",
        folder="SST-2",
        columns=("sentence", "label"),
        label_names=("negative", "positive"),
        licence="none stated, for research",
    ),
    Benchmark(
        name="glue/stsb",
        summary="sentence pair, regression: how similar are the two, from 0 to 5?",
        folder="STS-B",
        columns=("sentence1", "sentence2", "score"),
        label_names=(),
        metrics=("pearson", "spearman"),
        licence="by source, for research",
    ),
    Benchmark(
        name="imdb",
        summary="long documents: is this movie review positive?",
        folder="IMDB",
        columns=("sentence", "label"),
        hub=("stanfordnlp/imdb",),
        hub_columns=("text",),
        label_names=("neg", "pos"),
        max_length=512,
        splits={"train": ("train.tsv", "train"), "validation": ("dev.tsv", "test")},
        licence="none stated, for research",
    ),
)


def _with_test_part(benchmark: Benchmark, file: str, hub: str) -> Benchmark:
    """The same task with a test part, whose rows nothing is chosen on."""
    return replace(
        benchmark,
        name=f"{benchmark.name}+test",
        summary=f"{benchmark.name} with a test part",
        splits=benchmark.splits | {"test": (file, hub)},
    )


_TEST_PARTS = {  # where the official test rows have no labels, half of the validation rows
    "glue/sst2": ("test_with_labels.tsv", "test"),
    "glue/mrpc": ("msr_paraphrase_test.txt", "test"),
    "glue/qnli": ("dev.tsv", "validation"),
    "imdb": ("dev.tsv", "test"),
}
_WITH_TEST = [_with_test_part(b, *_TEST_PARTS[b.name]) for b in _BENCHMARKS if b.name in _TEST_PARTS]
GLUE = {benchmark.name: TASKS.add(benchmark) for benchmark in (*_BENCHMARKS, *_WITH_TEST)}


@cache
def glue_task(name: str, data_dir: Path | None) -> Task:
    """The task from `data_dir` if that has its folder, else from the hub."""
    benchmark = GLUE[name]
    if data_dir is not None and (data_dir / benchmark.folder).is_dir():
        source = f"{benchmark.folder} in a local folder"
        return replace(benchmark, source=source, read=partial(_read_folder, benchmark, data_dir))
    source = f"Hugging Face hub, {'/'.join(benchmark.hub)}"
    return replace(benchmark, source=source, read=partial(_read_hub, benchmark, data_dir))


def _read_folder(benchmark: Benchmark, data_dir: Path) -> Splits:
    folder = data_dir / benchmark.folder
    files = [file for file, _ in benchmark.splits.values()]
    return _split(
        benchmark, {file: _read_tsv(folder / file, benchmark) for file in dict.fromkeys(files)}, files
    )


def _split(benchmark: Benchmark, rows: dict[str, pd.DataFrame], sources: list[str]) -> Splits:
    """The rows of each split, which has those of its source, or half of them where two splits have one."""
    splits = {}
    for split, source in zip(benchmark.splits, sources, strict=True):
        own = rows[source]
        if sources.count(source) > 1:
            half = len(own) // 2
            own = (own[half:] if split == "test" else own[:half]).reset_index(drop=True)
        splits[split] = own
    return splits


def _read_tsv(path: Path, benchmark: Benchmark) -> pd.DataFrame:
    """Fields end at tabs and rows at newlines alone: quotation marks, U+0085 and CR belong to a text."""
    files = ", ".join(dict.fromkeys(file for file, _ in benchmark.splits.values()))
    instead = f"{benchmark.folder} in the GLUE layout has {files}, in UTF-8"
    content = read_text(path, "the data", instead, most=LARGEST_FILE)
    lines = [line.removesuffix("\r") for line in content.rstrip("\r\n").split("\n")]
    header = benchmark.header or tuple(lines.pop(0).split("\t"))
    missing = [column for column in benchmark.columns if column not in header]
    if missing:
        raise InputError(
            f"{path}, line 1: no column '{missing[0]}' among {', '.join(header)}; "
            f"the header must name {', '.join(benchmark.columns)}, separated by tabs"
        )
    positions = [header.index(column) for column in benchmark.columns]
    names = ["text", "text_pair", "label"] if len(positions) == 3 else ["text", "label"]
    rows = []
    for number, line in enumerate(lines, start=1 if benchmark.header else 2):
        fields = line.split("\t")
        if len(fields) < len(header) and benchmark.torn_rows:
            continue
        if len(fields) != len(header):
            raise InputError(
                f"{path}, line {number}: {len(fields)} tab-separated fields instead of {len(header)}; "
                f"write {', '.join(header)}, without quoting and without tabs or line breaks in a text"
            )
        *texts, label = (fields[position] for position in positions)
        if label not in NO_GOLD_LABEL:
            rows.append((*texts, _parsed_label(label, benchmark, path, number)))
    if not rows:
        raise InputError(f"{path} has no row with a label; give the labelled file of this split")
    return pd.DataFrame(rows, columns=names)


def _parsed_label(label: str, benchmark: Benchmark, path: Path, number: int) -> int | float:
    names = benchmark.label_names
    if not names:
        score = pd.to_numeric(label, errors="coerce")
        if not np.isfinite(score):
            raise InputError(f"{path}, line {number}: score '{label}' is not a number; write one, like 3.8")
        return float(score)
    if label in names:
        return names.index(label)
    if label in map(str, range(len(names))):
        return int(label)
    known = ", ".join(f"{name} (or {index})" for index, name in enumerate(names))
    raise InputError(f"{path}, line {number}: unknown label '{label}'; write {known}")


def _read_hub(benchmark: Benchmark, data_dir: Path | None) -> Splits:
    name = benchmark.name
    found = f"no folder {benchmark.folder} in {data_dir}" if data_dir else "no local data folder given"
    advice = (
        f"give --data-dir or SPARSEBERT_DATA_DIR a folder in the GLUE layout that holds {benchmark.folder}, "
        "or set HF_HUB_OFFLINE=1 if the hub's copy is in the cache"
    )
    if not huggingface_hub.is_offline_mode() and not hub_reachable():
        raise InputError(f"task '{name}': {found} and the Hugging Face hub cannot be reached; {advice}")
    try:
        loaded = datasets.load_dataset(*benchmark.hub)
    except Exception as error:  # the hub's client lets through whatever its HTTP library raises
        found += f" and the hub failed ({first_line(error)})"
        raise InputError(f"task '{name}': {found}; {advice}") from error
    theirs = [split for _, split in benchmark.splits.values()]
    found = {split: _from_hub(loaded[split], benchmark) for split in dict.fromkeys(theirs)}
    if bare := [split for split, rows in found.items() if rows.empty]:
        raise InputError(f"task '{name}': the rows of {bare[0]} have no labels on the hub; {advice}")
    return _split(benchmark, found, theirs)


def _from_hub(rows: datasets.Dataset, benchmark: Benchmark) -> pd.DataFrame:
    names = getattr(rows.features["label"], "names", [])
    if tuple(names) != benchmark.label_names:
        raise InputError(
            f"the hub's {'/'.join(benchmark.hub)} has labels {names}, not {list(benchmark.label_names)}; "
            "use a local folder in the GLUE layout instead"
        )
    ours = dict(zip(("text", "text_pair"), benchmark.hub_columns, strict=False)) | {"label": "label"}
    frame = pd.DataFrame({column: rows[theirs] for column, theirs in ours.items()})
    return frame[frame["label"] != -1].reset_index(drop=True)
