"""Tables behind C6: what degrees were learned, and which connections it is that help."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd

from sparsebert.patterns import Copies, Global, Learned, Neighbour, parts_of
from sparsebert.study.claims.rules import SEEDS, deciding, exploratory
from sparsebert.study.claims.runs import (
    CLS_ALONE,
    NUMBERS,
    Judged,
    Setting,
    described_run,
    each_once,
    frame_of,
    labels_of,
    runs_by_setting,
    score_of,
    scores_by_seed,
    setting_of,
    single_width_at,
)
from sparsebert.study.intervals import over_seeds
from sparsebert.study.results import known_plan, without_seeds
from sparsebert.training.runs import RunRecord

KINDS = {  # what the first figure of the book compares, at 5 to 10 % of the pairs; and dense attention
    CLS_ALONE: "[CLS] alone",
    "random(2)": "random keys",
    "neighbour(1)": "neighbours",
    "two heads that look at copies": "two named heads",
    "copies": "copies",
    "degrees learned for 0.1, with weights": "learned degrees",
    "dense": "dense",
}
_CHANGED = ("without weights", "other heads", "other layers")  # treatments of degrees that were learned


def chosen_degrees(records: Sequence[RunRecord]) -> pd.DataFrame:
    """What the learned degrees that C6 compares look like: a row per setting and density asked for.

    `heads` are those of all layers; `unbounded` of them keep edges to tokens at any distance, `alone` have no
    neighbours at all. Both are means over `seeds`. `by_seed` lists, for each seed in turn, layer and head of
    those that are unbounded, and `always` those that are so with every seed.
    """
    labels = labels_of(runs_by_setting(records))
    rows = []
    for record in each_once(records):
        row = described_run(record)
        if row["kind"] == "learned" and row["placement"] == "all":
            degrees = record.learning.degrees
            heads = [kept for layer in degrees.kept for kept in layer]
            wide = degrees.unbounded_heads()
            found = {"label": labels[setting_of(record)], "asked": row["asked"], "seed": row["seed"]}
            found |= {"heads": len(heads), "unbounded": len(wide), "wide": wide}
            rows.append(found | {"alone": sum(sum(kept) < 0.05 for kept in heads)})
    columns = ["label", "asked", "seed", "heads", "unbounded", "alone", "wide"]
    frame = pd.DataFrame(rows, columns=columns).sort_values("seed", kind="stable")
    grouped = frame.groupby(["label", "asked"], as_index=False)
    return grouped.agg(
        seeds=("seed", "nunique"),
        heads=("heads", "max"),
        unbounded=("unbounded", "mean"),
        alone=("alone", "mean"),
        always=("wide", lambda wide: sorted(set.intersection(*map(set, wide)))),
        by_seed=("wide", list),
    )


def open_heads(chosen: pd.DataFrame, first_two: Sequence[tuple[int, int]]) -> pd.DataFrame:
    """What `chosen_degrees` gives as people read it, at the lowest density that each task was asked for.

    `first_two` are layer and head of those that a guess is about: a column each has how many seeds leave it
    open.
    """
    lowest = chosen.sort_values("asked", kind="stable").drop_duplicates("label").sort_values("label")
    table = lowest[["label"]].rename(columns={"label": "task"})
    table["density asked for"] = lowest["asked"].map("{:g}".format)
    table["open heads, mean"] = lowest["unbounded"].map("{:.1f}".format)
    for layer, head in first_two:
        table[f"{layer}.{head} open in"] = [
            f"{sum((layer, head) in heads for heads in row['by_seed'])} of {row['seeds']} seeds"
            for row in lowest.to_dict("records")
        ]
    table["open with all seeds"] = [
        ", ".join(f"{layer}.{head}" for layer, head in always) or "–" for always in lowest["always"]
    ]
    return table.reset_index(drop=True)


def learned_before(records: Sequence[RunRecord]) -> pd.DataFrame:
    """Hard degrees in new runs that begin with them, beside the runs of the same seeds that learned them.

    A row per setting and density asked for; the columns of differences hold points by seed. Such a run is
    labelled with the `density` that its degrees were learned for and with a `treatment`: `as learned`,
    `without weights`, or `other heads` or `other layers` if they were shuffled over these
    (`book/studies/degrees_again.py`). Beside them stand degrees of the same density that were not learned but
    read off the attention.
    """
    settings = runs_by_setting(records)
    names = labels_of(settings)
    groups: dict[tuple[Setting, float], dict[str, dict[int, float]]] = {}
    for record in each_once(records):
        labels = record.config.labels
        kind, asked = labels.get("treatment"), labels.get("density", "")
        known = kind in ("as learned", *_CHANGED) and re.fullmatch(r"0?\.\d+|1", asked)
        if known and (setting := _setting_without_files(record, settings)):
            kinds = groups.setdefault((setting, float(asked)), {})
            kinds.setdefault(kind, {})[record.config.seed] = described_run(record)["score"]
    rows = []
    for (setting, asked), kinds in sorted(groups.items(), key=str):
        runs = settings[setting]
        alike = runs[(runs["placement"] == "all") & (runs["asked"] == asked)]
        learned = alike[alike["kind"] == "learned"]
        if learned.empty:
            continue
        scores = {kind: pd.Series(found) for kind, found in kinds.items()}
        before = scores.get("as learned", pd.Series(dtype=float))
        nothing = before[:0]
        read_off = scores_by_seed(alike[alike["kind"] == "read off"])
        found = single_width_at(runs, learned["density"].mean())
        single = found.points.mean(axis=1) if found else nothing
        points = {
            "from the start − learned": before - scores_by_seed(learned),
            "from the start − single width": before - single,
            **{f"{kind} − from the start": scores.get(kind, nothing) - before for kind in _CHANGED},
            "read off attention − from the start": read_off - before,
        }
        row = {"task": names[setting], "asked": asked, "seeds": len(before)}
        rows.append(row | {what: by_seed.dropna() for what, by_seed in points.items()})
    return pd.DataFrame(rows)


def taken_apart(records: Sequence[RunRecord]) -> pd.DataFrame:
    """What single changes do to degrees that were learned: a row per setting (`label`), density and change.

    `mean`, `low` and `high` are points by which hard degrees that are used from the start differ: from the
    runs that learned them, and with a change from those without. The intervals of 90 % are over seeds alone.
    """
    changes = {"hard from the start": "from the start − learned"}
    changes |= {what: f"{what} − from the start" for what in _CHANGED}
    rows = []
    for found in learned_before(records).to_dict("records"):
        for what, column in changes.items():
            if seeds := len(found[column]):
                mean = over_seeds(found[column])
                numbers = dict(zip(NUMBERS, (seeds, mean.value, *mean.interval()), strict=True))
                rows.append({"label": found["task"], "asked": found["asked"], "what": what} | numbers)
    return pd.DataFrame(rows, columns=["label", "asked", "what", *NUMBERS])


def by_connection(records: Sequence[RunRecord]) -> pd.DataFrame:
    """What connections do for a task, beside a global [CLS]: single patterns, copies, and named heads.

    In the runs with the label `treatment: named heads` some heads see everything, and the label `heads` says
    which; all others see the token itself and [CLS], or a width besides. For each setting with such runs a
    row for dense, for [CLS] alone, for each kind of them, for each pattern of one part or with copies, and
    for learned degrees, the best scores first. `density`, `score` in points and `lost` against dense, in
    points by seed, are over the `seeds` that were run dense, too; `mean`, `low` and `high` are those of the
    loss, with the interval of the rules.
    """
    settings = runs_by_setting(records)
    labels = labels_of(settings)
    found: dict[Setting, list[dict]] = {}
    for record in each_once(records):
        run = described_run(record)
        what = _connections(record, run) if run["placement"] == "all" else None
        if what and (setting := _setting_without_files(record, settings)):
            named = record.config.labels.get("heads") == what
            found.setdefault(setting, []).append(run | {"what": what, "named": named})
    rows = []
    for setting, described in sorted(found.items(), key=str):
        runs = frame_of(described)
        own = Judged(setting, labels[setting], settings[setting])
        dense = scores_by_seed(runs[runs["what"] == "dense"])
        paired = runs[runs["seed"].isin(dense.index)]
        if not paired["named"].any():
            continue
        of_dense = score_of(runs[runs["what"] == "dense"])
        for what, part in paired.groupby("what"):
            row = {"task": setting.task, "label": labels[setting], "what": what}
            row |= {**part[["density", "score"]].mean(), **own.numbers(of_dense - score_of(part))}
            rows.append(row | {"lost": (dense - scores_by_seed(part)).dropna()})
    columns = ["task", "label", "what", "density", "score", "lost", *NUMBERS]
    table = pd.DataFrame(rows, columns=columns)
    return table.sort_values(["label", "score"], ascending=[True, False], ignore_index=True)


def regained(records: Sequence[RunRecord], task: str = "glue/qnli") -> pd.DataFrame:
    """What a task loses with [CLS] alone, and how much of it is still lost with each kind of connections.

    Rows of `by_connection` for the kinds in `KINDS`, with their `kind`: [CLS] alone, then the largest loss
    first. They are of deciding runs if these have all kinds with three seeds, else of exploratory runs.
    """
    for runs in (deciding(records), exploratory(records)):
        table = by_connection([r for r in runs if r.config.task.removesuffix("+test") == task])
        table = table[table["what"].isin(KINDS)].assign(kind=table["what"].map(KINDS))
        if len(table) == len(KINDS) and (table["seeds"] >= SEEDS).all():
            break
    order = table["mean"].where(table["what"] != CLS_ALONE, math.inf).sort_values(ascending=False).index
    return table.loc[order].reset_index(drop=True)


def _connections(record: RunRecord, run: dict[str, Any]) -> str | None:
    """The kind of a run, which is described, for `by_connection`; None if it is none of those."""
    if run["kind"] == "dense":
        return "dense"
    if run["pattern"] == CLS_ALONE:
        return CLS_ALONE
    if run["kind"] == "learned":
        return f"degrees learned for {run['asked']:g}, with weights"
    plan = known_plan(without_seeds(record.config.plan))
    (pattern, _), *more = plan.steps
    parts = list(parts_of(pattern))
    if more or Global("cls") not in parts:
        return None
    parts.remove(Global("cls"))
    heads = [part for part in parts if isinstance(part, Learned) and part.path]
    others = [part for part in parts if part not in heads]
    labels = record.config.labels
    named = labels.get("treatment") == "named heads" and "heads" in labels
    if named and len(heads) == 1 and all(isinstance(part, Neighbour) for part in others):
        return " and ".join([labels["heads"], *(f"{part} in all" for part in others)])
    with_copies = not plan.files and any(isinstance(part, Copies) for part in pattern.walk())
    return " | ".join(map(str, parts)) if run["kind"] == "pattern" or with_copies else None


def _setting_without_files(record: RunRecord, settings: Iterable[Setting]) -> Setting | None:
    """The setting of a run whose data hash may hold that of files of degrees, too; None if two fit."""
    own = setting_of(record)
    alike = [one for one in settings if one._replace(data_hash="") == own._replace(data_hash="")]
    return own if own in alike else alike[0] if len(alike) == 1 else None
