"""Recorded runs: what is in `book/results/`, whether it is sound, how runs get there and back.

A file holds one run per line, in an order that does not depend on where and when the runs were made, so that
it diffs well. Chapters read the files through `recorded`, and show runs of any kind by `as_frame` and
`provenance`.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from sparsebert.data.tasks.metrics import METRICS
from sparsebert.errors import InputError, UnknownName, check_names
from sparsebert.paths import check_writable, locked, project_root, write_whole
from sparsebert.patterns.plans import Plan, parse_plan
from sparsebert.reading import path_of, read_bytes
from sparsebert.training.naming import FIRST_FIELDS
from sparsebert.training.predictions import metrics_of
from sparsebert.training.runs import RunRecord, RunStore

if TYPE_CHECKING:
    import pandas as pd  # takes long to import, and most commands make no table

NO_EVIDENCE = "promises", "quick", "searches", "spending", "words"  # what no claim is about
_DIGITS = 4  # kept of learned survivals, shares and weights: a hundredth of a point of density
_RUN_FILE = re.compile(r"[0-9a-f]{16}\.json")
_LEFT_OUT = ("kernels", "learning", "predictions", "revision")  # of a line, where they are empty
_SEED = re.compile(r", seed=\d+")


def without_seeds(plan: str) -> str:
    """A plan's text without the seeds of its random graphs.

    >>> without_seeds("random(2, seed=1) | global(cls) @ late")
    'random(2) | global(cls) @ late'
    """
    return _SEED.sub("", plan)


def known_plan(text: str) -> Plan | None:
    """A recorded plan, or None if it has a pattern that is not registered here."""
    try:
        return _plan(text)
    except UnknownName:  # which is not cached: it may be registered later
        return None


_plan = cache(parse_plan)


def results_dir() -> Path:
    """Folder of the recorded runs, `book/results/` of the project; `InputError` outside of one."""
    root = project_root()
    if root is None:
        raise InputError("recorded runs are kept in a clone of the project; call this from inside it")
    return root / "book" / "results"


def recorded_names() -> list[str]:
    """Names of the files of recorded runs, such as `degrees`, in alphabetical order."""
    return sorted(path.stem for path in results_dir().glob("*.jsonl") if path.is_file())


def recorded(name: str | None = None, without: Collection[str] = ()) -> list[RunRecord]:
    """The recorded runs in `book/results/<name>.jsonl`, a run per line; none if there is no such file.

    Without a name those of all files but some, each run once. Raises `InputError` for a line that is no
    record of this version.
    """
    if project_root() is None:
        return []
    names = [found for found in recorded_names() if name in (None, found) and found not in without]
    paths = [results_dir() / f"{found}.jsonl" for found in names]
    records = [record for path in paths for _, record in _records(path, _refuse)]
    return records if name else list({record.name: record for record in records}.values())


def recorded_as(name: str) -> list[RunRecord]:
    """The recorded runs of that name; `InputError` if there is no such file, or for a line that is none."""
    check_names("file of recorded runs", [name], recorded_names())
    return recorded(name)


def evidence() -> list[RunRecord]:
    """The recorded runs that claims are judged by: of most files, with all layers and all tokens."""
    whole = ((record, record.config) for record in recorded(without=NO_EVIDENCE))
    return [record for record, config in whole if not config.layers and not config.reduce]


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

    `sparsity` is the mean over all layers.
    """
    import pandas as pd

    return pd.DataFrame(
        {
            **record.config.model_dump(exclude={"degrees", "labels"}),
            **record.metrics,
            "density": record.density,
            "sparsity": 1 - record.density,
            "padded_sparsity": 1 - record.padded_density,
            "train_rows": record.train_rows,
            "train_examples_per_second": record.examples_per_second["train"],
            "peak_memory_mib": record.peak_memory_mib,
        }
        for record in records
    )


def provenance(records: Sequence[RunRecord]) -> pd.DataFrame:
    """Where the numbers of a chapter come from: a table of what the runs used, each distinct value once.

    Raises `InputError` without a run.
    """
    import pandas as pd

    if not records:
        raise InputError("there are no runs, so nothing says where numbers come from; give at least one")
    hours = sorted(record.finished for record in records)
    total = sum(sum(record.seconds.values()) for record in records)
    trained = sum(record.seconds["train"] for record in records)
    tested = any("test" in (record.predictions or {}) for record in records)
    rows = {
        "runs": str(len({record.name for record in records})),
        "task and data hash": _hashes(records),
        "rows trained on / validated on" + " / tested on" * tested: _distinct(map(_rows, records)),
        "encoder": _distinct(record.config.encoder for record in records),
        "seeds": _distinct(record.config.seed for record in records),
        "device": _distinct(record.device for record in records),
        "precision": _distinct(record.precision for record in records),
        "versions": _versions([record.versions for record in records]),
        "commit (+: with changes)": _distinct(record.commit for record in records),
        "time of all runs": f"{total:.0f} s, training {trained:.0f} s of these",
        "most memory of a process": f"{max(record.peak_memory_mib for record in records):.0f} MiB",
        "finished": f"{hours[0]} to {hours[-1]}",
    }
    return pd.DataFrame({"value": rows}).rename_axis("of the runs")


def _rows(record: RunRecord) -> str:
    """How many rows a run was trained on and judged on; those of a test part where it has one."""
    tested = (record.predictions or {}).get("test")
    return " / ".join(map(str, [record.train_rows, record.eval_rows, *([tested.count] if tested else [])]))


def _hashes(records: Iterable[RunRecord]) -> str:
    """Each task with the hash of its data, or with how many there are: sizes and files of degrees count."""
    found: dict[str, dict[str, None]] = defaultdict(dict)
    for record in records:
        found[record.config.task][record.data_hash[:12]] = None
    said = {task: next(iter(own)) if len(own) == 1 else f"({len(own)} hashes)" for task, own in found.items()}
    return ", ".join(f"{task} {hashes}" for task, hashes in said.items())


# ---- list ---------------------------------------------------------------------------------------


def overview() -> pd.DataFrame:
    """A row for each file, task and kind of run, with its seeds, device and versions.

    Lines that are no records are left out; `check` names them.
    """
    import pandas as pd

    runs = [
        {
            "file": name,
            "task": record.config.task,
            "encoder": record.config.encoder,
            "plan": _kind_of(record),
            "rows": f"{record.train_rows} / {record.eval_rows}",
            "seed": record.config.seed,
            "device": record.device,
            "versions": record.versions,
            "commit": str(record.commit),
        }
        for name in recorded_names()
        for _, record in _records(results_dir() / f"{name}.jsonl", lambda _: None)
    ]
    kind, said = ["file", "task", "encoder", "plan", "rows"], ["device", "versions", "commit"]
    return (
        pd.DataFrame(runs, columns=[*kind, "seed", *said])
        .groupby(kind, as_index=False)
        .agg(
            runs=("seed", "size"),
            seeds=("seed", lambda seeds: _distinct(sorted(seeds))),
            device=("device", _distinct),
            versions=("versions", _versions),
            commit=("commit", _distinct),
        )
    )


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
    changed = how.model_dump(exclude={"target_density"}, exclude_defaults=True)
    said = ", ".join(f"{name}={value}" for name, value in changed.items())
    asked = "" if how.target_density is None else f" to {how.target_density:g}"
    return f"{without_seeds(record.config.plan)}{asked}" + (f" ({said})" if said else "")


def _versions(found: Iterable[dict[str, str]]) -> str:
    """Each package with its versions."""
    names = dict.fromkeys(name for versions in found for name in versions)
    return ", ".join(f"{name} {_distinct(v.get(name, 'none') for v in found)}" for name in names)


def _distinct(values: Iterable[object]) -> str:
    return ", ".join(dict.fromkeys(map(str, values)))


# ---- check --------------------------------------------------------------------------------------


def check(lacking: Counter[str] | None = None) -> list[str]:
    """What is wrong with the recorded runs, a sentence each; nothing if they are sound.

    Lines that are truncated or no record, names that are not the hash of their config, plans that can't be,
    runs that stand twice, metrics that do not follow from the predictions, and tasks whose runs were made
    from different data. Not compared are runs whose hash covers more than data: files of their plan, or
    components from outside of the package. In `lacking` the runs of each file are counted that have no
    predictions.
    """
    from sparsebert.training.resolved import components_of  # takes long to import

    findings: list[str] = []
    seen: dict[str, tuple[str, RunRecord]] = {}  # the first place of each run, and its record there
    data: dict[tuple[str, str], dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for name in recorded_names():
        for place, record in _records(results_dir() / f"{name}.jsonl", findings.append):
            config = record.config
            if lacking is not None and record.predictions is None:
                lacking[name] += 1
            first, other = seen.setdefault(record.name, (place, record))
            if first != place:
                same = as_line(other) == as_line(record)
                which = "the same record" if same else "another record of the same run"
                findings.append(
                    f"{place}: run {record.name} stands in {first} already, {which}; keep one of them"
                )
            if wrong := _not_following(record):
                findings.append(f"{place}: {wrong} does not follow from the run's predictions")
            if record.name != config.name:
                findings.append(f"{place}: its method of learning degrees has changed since; make it again")
            try:
                plan = known_plan(config.plan)
                for _, where in plan.steps if plan else ():
                    where.layers(len(record.density_per_layer))
            except InputError as error:
                findings.append(f"{place}: no run can have this plan: {error}")
                continue
            named = components_of(config, plan) if plan else ()
            if plan and not plan.files and all(kind.packaged(names) for kind, names in named):
                data[config.task, config.encoder][record.data_hash].append(place)
    for (task, _), hashes in data.items():
        (usual, most), *rare = sorted(hashes.items(), key=lambda item: (-len(item[1]), item[0]))
        for other, found in rare:
            findings.append(
                f"{found[0]}: {counted(len(found))} on {task} used data with the hash {other[:12]}, and "
                f"{counted(len(most))} used {usual[:12]}; they can't be compared"
            )
    return findings


def _not_following(record: RunRecord) -> str:
    """A metric that is not what the predictions give; none if there are no predictions."""
    if record.predictions is None:
        return ""
    names = [name for name in record.metrics if name in METRICS]
    again = metrics_of(record.predictions, names)
    differing = [
        name
        for name in again.keys() | record.metrics.keys()
        if not math.isclose(again.get(name, math.inf), record.metrics.get(name, math.nan), abs_tol=1e-6)
    ]
    return min(differing, default="")


def counted(count: int) -> str:
    """A number of runs in words."""
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


def merge(sources: Sequence[str | Path], into: str, newest: bool = False) -> Merged:
    """Add runs to the recorded ones in `<into>.jsonl`: from `.jsonl` files, run files, or folders of runs.

    A run that is found twice is kept once, with the labels of both. If its two records differ (it was made
    twice), the one that was finished last is taken with `newest`. Of learned survivals, shares and weights 4
    digits are kept. What is truncated or no record is left out, and `left_out` says why. The file is written
    whole or not at all, and merges into one folder wait for each other.

    Raises `InputError` for a name that is no file name, a source that does not exist or holds no runs, two
    records of one run without `newest` or with labels that contradict each other, and a file in place that
    can't be kept as it is or be written.
    """
    if not re.fullmatch(r"\w[\w-]*", into):
        raise InputError(f"--into {into}: write a name of letters, digits, - and _, such as degrees")
    path = path_of(results_dir() / f"{into}.jsonl")
    check_writable(path.parent, f"'{path}'", "--into")
    with locked(path.parent / ".lock"):
        kept: dict[str, _Found] = {}
        for new in _records(path, _refuse) if path.exists() else ():
            if new.record.name in kept:
                raise InputError(f"{new.place}: run {new.record.name} stands there twice; keep one")
            kept[new.record.name] = new
        before, again, left_out = dict(kept), 0, []
        for source in sources:
            found = list(_source(path_of(source), left_out.append))
            if not found:
                why = f": {left_out[-1]}" if left_out else ""
                raise InputError(f"there are no runs in '{source}'{why}")
            again += len(found)
            for new in found:
                old = kept.get(new.record.name)
                kept[new.record.name] = _one_of(old, new, newest) if old else new
        try:
            records = sorted((one.record for one in kept.values()), key=_order)
            write_whole(path, "".join(as_line(record) + "\n" for record in records))
        except OSError as error:
            raise InputError(
                f"'{path}' can't be written: {error.strerror or error}; it is as it was"
            ) from None
    added = len(kept) - len(before)
    replaced = sum(kept[name].record.finished != old.record.finished for name, old in before.items())
    return Merged(path, len(kept), added, again - added - replaced, replaced, left_out)


class _Found(NamedTuple):
    """A record, and where it stands."""

    place: str
    record: RunRecord


def _one_of(old: _Found, new: _Found, newest: bool) -> _Found:
    """Which of two records of one run is kept, with the labels of both."""
    first, second = old.record, new.record
    try:
        config = first.config.labelled(second.config.labels)
    except InputError as error:
        raise InputError(f"{new.place}: {error} (the other is in {old.place})") from None
    old, new = (one._replace(record=one.record.model_copy(update={"config": config})) for one in (old, new))
    if as_line(old.record) == as_line(new.record):
        return old
    if not newest:
        raise InputError(
            f"{new.place}: run {first.name} is in {old.place}, too, with another outcome (finished "
            f"{second.finished} and {first.finished}); --newest takes the later one"
        )
    return new if second.finished > first.finished else old


def as_line(record: RunRecord) -> str:
    """A record as one line of JSON; learned arrays are rounded, and parts that it lacks are left out.

    So are fields of its config that are younger than the first version and have their default, so that a
    new field does not change the lines of older runs.
    """
    fields = json.loads(record.model_dump_json())
    for part in _LEFT_OUT:
        if not fields[part]:
            del fields[part]
    always = {*FIRST_FIELDS, *record.config.model_dump(exclude_defaults=True)}
    fields["config"] = {name: value for name, value in fields["config"].items() if name in always}
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


def _source(path: Path, complain: Callable[[str], None]) -> Iterator[_Found]:
    """The records of a file or of a folder of runs."""
    if path.is_dir():
        for file in sorted(path.iterdir()):
            if _RUN_FILE.fullmatch(file.name):
                yield from _source(file, complain)
    elif path.suffix == ".jsonl" and path.is_file():
        yield from _records(path, complain)
    elif path.suffix == ".json" and path.is_file():
        yield from _parsed([(path.name, read_bytes(path, "the record"))], complain)
    else:
        raise InputError(f"'{path}' is neither a folder of runs nor a .jsonl or .json file that exists")


def _records(path: Path, complain: Callable[[str], None]) -> Iterator[_Found]:
    """The records of a file, one at a time."""
    if not path.is_file():
        raise InputError(f"'{path}' can't be read: it is no file")
    try:
        with path.open("rb") as file:
            yield from _parsed(((f"{path.name}, line {n}", line) for n, line in enumerate(file, 1)), complain)
    except OSError as error:
        raise InputError(f"'{path}' can't be read: {error.strerror}") from None


def _parsed(texts: Iterable[tuple[str, bytes]], complain: Callable[[str], None]) -> Iterator[_Found]:
    """Each record with its place; each text that is none is complained about."""
    for place, text in texts:
        try:
            record = RunRecord.read(text.rstrip(b"\n"))
        except InputError as error:
            complain(f"{place}: {error}")
        else:
            yield _Found(place, record)


def _refuse(complaint: str) -> None:
    raise InputError(f"{complaint}; fix the file first (sparsebert results check)")
