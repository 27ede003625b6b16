"""Recorded runs: what is in `book/results/`, whether it is sound, how runs get there and back.

A file holds one run per line, in an order that does not depend on where and when the runs were made, so that
it diffs well. Chapters read the files through `recorded`, and show runs of any kind by `as_frame` and
`provenance`.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from sparsebert.errors import InputError, unknown_name
from sparsebert.paths import project_root, write_whole
from sparsebert.patterns.plans import parse_plan
from sparsebert.reading import path_of
from sparsebert.training.runs import RunRecord, RunStore

_DIGITS = 4  # kept of learned survivals, shares and weights: a hundredth of a point of density
_RUN_FILE = re.compile(r"[0-9a-f]{16}\.json")
_SEED = re.compile(r", seed=\d+")


def without_seeds(plan: str) -> str:
    """A plan's text without the seeds of its random graphs.

    >>> without_seeds("random(2, seed=1) | global(cls) @ late")
    'random(2) | global(cls) @ late'
    """
    return _SEED.sub("", plan)


def results_dir() -> Path:
    """Folder of the recorded runs, `book/results/` of the project; `InputError` outside of one."""
    root = project_root()
    if root is None:
        raise InputError("recorded runs are kept in a clone of the project; call this from inside it")
    return root / "book" / "results"


def recorded_names(folder: Path | None = None) -> list[str]:
    """Names of the files of recorded runs, such as `degrees`, in alphabetical order."""
    return sorted(path.stem for path in (folder or results_dir()).glob("*.jsonl") if path.is_file())


def recorded(name: str | None = None) -> list[RunRecord]:
    """The recorded runs in `book/results/<name>.jsonl`, a run per line; none if there is no such file.

    Without a name those of all files, each run once. Raises `InputError` for a line that is no record of
    this version.
    """
    if project_root() is None:
        return []
    paths = [results_dir() / f"{found}.jsonl" for found in recorded_names() if name in (None, found)]
    records = [record for path in paths for _, record in _records(path, _refuse)]
    return records if name else list({record.name: record for record in records}.values())


def run_named(name: str, store: RunStore) -> RunRecord:
    """The run of that name in a store, or else among the recorded ones; `InputError` if there is none."""
    on_record = (r for r in recorded() if name in (r.name, *r.config.former_names))
    if found := store.named(name) or next(on_record, None):
        return found
    raise InputError(
        f"there is no run '{name}' in {store.folder} or book/results/; write its 16 digits, which its record "
        "begins with"
    )


# ---- tables of runs -------------------------------------------------------------------------------


def as_frame(records: Sequence[RunRecord]) -> pd.DataFrame:
    """One row per run: the config, the metrics, and the densities and sparsities as columns.

    What a run learned its degrees with stands in columns such as `degrees_method`; `soft_density` and the
    scores before hardening, such as `soft_accuracy`, stand beside them. `layer_sparsity` is the sparsity of
    the sparsest layer, and `sparsity` the mean over all layers.
    """
    return pd.DataFrame(
        {
            **record.config.model_dump(exclude={"degrees", "labels"}),
            **_learned_columns(record),
            **record.metrics,
            "density": record.density,
            "sparsity": 1 - record.density,
            "layer_sparsity": 1 - min(record.density_per_layer),
            "padded_sparsity": 1 - record.padded_density,
            "train_rows": record.train_rows,
            "eval_rows": record.eval_rows,
            "train_seconds": record.seconds["train"],
            "train_examples_per_second": record.examples_per_second["train"],
            "peak_memory_mib": record.peak_memory_mib,
        }
        for record in records
    )


def _learned_columns(record: RunRecord) -> dict[str, Any]:
    how, learning = record.config.degrees, record.learning
    columns = {f"degrees_{name}": value for name, value in (how.model_dump() if how else {}).items()}
    if learning and learning.soft_metrics:
        columns["soft_density"] = learning.soft_density
        columns |= {f"soft_{name}": value for name, value in learning.soft_metrics.items()}
    return columns


def provenance(records: Sequence[RunRecord]) -> pd.DataFrame:
    """Where the numbers of a chapter come from: a table of what the runs used, each distinct value once."""
    names = dict.fromkeys(name for record in records for name in record.versions)
    hours = sorted(record.finished for record in records)
    rows = {
        "runs": str(len({record.name for record in records})),
        "task and data hash": _distinct(
            f"{record.config.task} {record.data_hash[:12]}" for record in records
        ),
        "rows trained on / evaluated on": _distinct(
            f"{record.train_rows} / {record.eval_rows}" for record in records
        ),
        "encoder": _distinct(record.config.encoder for record in records),
        "seeds": _distinct(record.config.seed for record in records),
        "device": _distinct(record.device for record in records),
        "precision": _distinct(record.precision for record in records),
        "versions": ", ".join(
            f"{name} {_distinct(r.versions.get(name, 'none') for r in records)}" for name in names
        ),
        "commit (+: with changes)": _distinct(record.commit for record in records),
        "training time, all runs": f"{sum(record.seconds['train'] for record in records):.0f} s",
        "most memory of a process": f"{max(record.peak_memory_mib for record in records):.0f} MiB",
        "finished": f"{hours[0]} to {hours[-1]}",
    }
    return pd.DataFrame({"": rows}).rename_axis("provenance")


# ---- list ---------------------------------------------------------------------------------------


def overview(folder: Path | None = None) -> pd.DataFrame:
    """A row for each file, task and kind of run, with its seeds, device and versions.

    Lines that are no records are left out; `check` names them.
    """
    folder = folder or results_dir()
    rows = []
    for name in recorded_names(folder):
        groups = defaultdict(list)
        for _, record in _records(folder / f"{name}.jsonl", lambda _: None):
            config = record.config
            size = f"{record.train_rows} / {record.eval_rows}"
            groups[config.task, config.encoder, _kind_of(record), size].append(record)
        for (task, encoder, kind, size), records in sorted(groups.items()):
            packages = dict.fromkeys(package for record in records for package in record.versions)
            rows.append(
                {
                    "file": name,
                    "task": task,
                    "encoder": encoder,
                    "plan": kind,
                    "rows": size,
                    "runs": len(records),
                    "seeds": _ranges(record.config.seed for record in records),
                    "device": _distinct(record.device for record in records),
                    "versions": ", ".join(
                        f"{package} {_distinct(r.versions.get(package, 'none') for r in records)}"
                        for package in packages
                    ),
                    "commit": _distinct(record.commit for record in records),
                }
            )
    columns = ("file", "task", "encoder", "plan", "rows", "runs", "seeds", "device", "versions", "commit")
    return pd.DataFrame(rows, columns=list(columns))


def as_text(table: pd.DataFrame) -> str:
    """An `overview` to be read: for each file what its runs share, then a line per kind of run."""
    if table.empty:
        return "no runs are recorded"
    parts = []
    for name, own in table.groupby("file"):
        shared = "; ".join(_distinct(own[column]) for column in ("device", "versions", "commit"))
        lines = own.drop(columns=["file", "device", "versions", "commit"])
        parts.append(f"{name}: {own['runs'].sum()} runs on {shared}\n{lines.to_string(index=False)}")
    return "\n\n".join(parts)


def _kind_of(record: RunRecord) -> str:
    """The plan without seeds and, if degrees were learned, how."""
    how = record.config.degrees
    if how is None:
        return without_seeds(record.config.plan)
    changed = {
        name: value
        for name, value in how.model_dump().items()
        if value != type(how).model_fields[name].default and name != "target_density"
    }
    said = ", ".join(f"{name}={value}" for name, value in changed.items())
    asked = "" if how.target_density is None else f" to {how.target_density:g}"
    return f"{without_seeds(record.config.plan)}{asked}" + (f" ({said})" if said else "")


def _ranges(numbers: Iterable[int]) -> str:
    """Whole numbers in short: 0-2, 5."""
    found: list[list[int]] = []
    for number in sorted(set(numbers)):
        if found and number == found[-1][1] + 1:
            found[-1][1] = number
        else:
            found.append([number, number])
    return ", ".join(f"{first}-{last}" if last > first else str(first) for first, last in found)


def _distinct(values: Iterable[object]) -> str:
    return ", ".join(dict.fromkeys(map(str, values)))


# ---- check --------------------------------------------------------------------------------------


def check(folder: Path | None = None) -> list[str]:
    """What is wrong with the recorded runs, a sentence each; nothing if they are sound.

    Lines that are truncated or no record, names that are not the hash of their config, runs that stand twice,
    and tasks whose runs were made from different data.
    """
    folder = folder or results_dir()
    findings: list[str] = []
    places: dict[str, list[tuple[str, str]]] = defaultdict(list)  # of each run, with its line
    data: dict[tuple[str, str], dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for name in recorded_names(folder):
        for number, record in _records(folder / f"{name}.jsonl", findings.append):
            place = f"{name}.jsonl, line {number}"
            places[record.name].append((place, as_line(record)))
            if not parse_plan(record.config.plan).files:  # else the hash covers these, too
                data[record.config.task, record.config.encoder][record.data_hash].append(place)
    for run, found in places.items():
        (first, line), *others = found
        for place, other in others:
            same = "the same record" if other == line else "another record of the same run"
            findings.append(f"{place}: run {run} stands in {first} already, {same}; keep one of them")
    for (task, _), hashes in data.items():
        (usual, most), *rare = sorted(hashes.items(), key=lambda item: (-len(item[1]), item[0]))
        for other, found in rare:
            findings.append(
                f"{found[0]}: {_runs(len(found))} on {task} used data with the hash {other[:12]}, and "
                f"{_runs(len(most))} used {usual[:12]}; they can't be compared"
            )
    return findings


def _runs(count: int) -> str:
    return "one run" if count == 1 else f"{count} runs"


# ---- merge --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Merged:
    """What a merge did: how many runs are new, were found again or replaced; what was left out, and why."""

    path: Path
    total: int
    added: int
    known: int
    replaced: int
    left_out: list[str]

    def __str__(self) -> str:
        return (
            f"{self.total} runs in {self.path}: {self.added} added, {self.replaced} replaced, "
            f"{self.known} found again"
        )


def merge(
    sources: Sequence[str | Path], into: str, newest: bool = False, folder: Path | None = None
) -> Merged:
    """Add runs to the recorded ones in `<into>.jsonl`: from `.jsonl` files, run files, or folders of runs.

    A run that is found twice is kept once. If its two records differ (it was made twice), the one that was
    finished last is taken with `newest`. Of learned survivals, shares and weights 4 digits are kept. What
    is torn or no record is left out, and `left_out` says why. The file is written whole or not at all.

    Raises `InputError` for a name that is no file name, a source that does not exist or holds no runs, two
    records of one run without `newest`, and a file in place that could not be kept as it is.
    """
    if not re.fullmatch(r"\w[\w-]*", into):
        raise InputError(f"--into {into}: write a name of letters, digits, - and _, such as degrees")
    path = (folder or results_dir()) / f"{into}.jsonl"
    kept: dict[str, tuple[str, RunRecord]] = {}  # of each run: its place and record
    for number, record in _records(path, _refuse) if path.is_file() else ():
        if record.name in kept:
            raise InputError(f"{path.name}, line {number}: run {record.name} stands there twice; keep one")
        kept[record.name] = (f"{path.name}, line {number}", record)
    before = set(kept)
    known, replaced, left_out = 0, set(), []
    for source in sources:
        found = 0
        for place, record in _source(path_of(source), left_out.append):
            found += 1
            there, old = kept.get(record.name, (place, None))
            if old is None:
                kept[record.name] = (place, record)
            elif as_line(old) == as_line(record):
                known += 1
            elif not newest:
                raise InputError(
                    f"{place}: run {record.name} is in {there}, too, with another outcome (finished "
                    f"{record.finished} and {old.finished}); --newest takes the later one"
                )
            elif record.finished > old.finished:
                kept[record.name] = (place, record)
                replaced.add(record.name)
        if not found:
            why = f": {left_out[-1]}" if left_out else ""
            raise InputError(f"there are no runs in '{source}'{why}")
    records = sorted((record for _, record in kept.values()), key=_order)
    write_whole(path, "".join(as_line(record) + "\n" for record in records))
    return Merged(path, len(kept), len(kept.keys() - before), known, len(replaced & before), left_out)


def unpack(name: str, store: RunStore, folder: Path | None = None) -> tuple[int, int]:
    """Put the recorded runs of `<name>.jsonl` into a store, so that a sweep goes on from them.

    A run that the store has stays as it is there. Returns how many were put there, and how many the file
    has. Raises `InputError` if there is no such file, or if a line of it is no record.
    """
    known = recorded_names(folder)
    if name not in known:
        raise unknown_name("file of recorded runs", name, known)
    path = (folder or results_dir()) / f"{name}.jsonl"
    records = [record for _, record in _records(path, _refuse)]
    there = {record.name for record in store}
    missing = [record for record in records if record.name not in there]
    if missing:
        store.check_writable()
    for record in missing:
        store.add(record)
    return len(missing), len(records)


def as_line(record: RunRecord) -> str:
    """A record as one line of JSON; learned arrays are rounded, and parts that it lacks are left out."""
    fields = json.loads(record.model_dump_json())
    for part in ("kernels", "learning", "revision"):
        if not fields[part]:
            del fields[part]
    if not fields["config"]["labels"]:
        del fields["config"]["labels"]
    if learning := fields.get("learning"):
        learning["survival"] = _short(learning["survival"])
        for part in ("kept", "weights"):
            learning["degrees"][part] = _short(learning["degrees"][part])
    return json.dumps(fields, separators=(",", ":"))


def _short(value: Any) -> Any:
    """Nested lists of numbers, rounded; whole numbers without a point."""
    if isinstance(value, list):
        return [_short(item) for item in value]
    if isinstance(value, float):
        rounded = round(value, _DIGITS)
        return int(rounded) if rounded == int(rounded) else rounded
    return value


def _order(record: RunRecord) -> tuple:
    """Runs of one kind stand together, by seed; a new seed or task goes to one place."""
    config = record.config
    others = config.model_dump_json(exclude={"task", "encoder", "plan", "seed", "labels"})
    return config.task, config.encoder, without_seeds(config.plan), others, config.seed, record.name


# ---- reading ------------------------------------------------------------------------------------


def _source(path: Path, complain: Callable[[str], None]) -> Iterator[tuple[str, RunRecord]]:
    """The records of a file or of a folder of runs, each with its place."""
    if path.is_dir():
        for file in sorted(path.iterdir()):
            if _RUN_FILE.fullmatch(file.name):
                yield from _source(file, complain)
    elif path.suffix == ".jsonl" and path.is_file():
        for number, record in _records(path, complain):
            yield f"{path.name}, line {number}", record
    elif path.suffix == ".json" and path.is_file():
        if record := _record(_text(path), path.name, complain):
            yield path.name, record
    else:
        raise InputError(f"'{path}' is neither a folder of runs nor a .jsonl or .json file that exists")


def _records(path: Path, complain: Callable[[str], None]) -> Iterator[tuple[int, RunRecord]]:
    """The records of a file with their line numbers; each line that is none is complained about."""
    for number, line in enumerate(_text(path).splitlines(), 1):
        if record := _record(line, f"{path.name}, line {number}", complain):
            yield number, record


def _record(text: str, place: str, complain: Callable[[str], None]) -> RunRecord | None:
    try:
        return RunRecord.read(text)
    except InputError as error:
        complain(f"{place}: {error}")
        return None


def _text(path: Path) -> str:
    return path.read_bytes().decode(errors="replace")  # what is not text is then no record either


def _refuse(complaint: str) -> None:
    raise InputError(f"{complaint}; fix the file first (sparsebert results check)")
