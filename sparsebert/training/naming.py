"""The schema of records: how runs are named, and how records of earlier versions are read.

A run's name is a hash of the schema's version and of the fields that differ from their defaults. So a new
field whose default means what was done before changes no name. Whoever changes a default, or what a config
computes, raises `SCHEMA` and adds a step to `_STEPS` that brings records of the version before to the new
one; a change to one method of learning degrees raises the `revision` of that method instead.
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any

from sparsebert.errors import InputError
from sparsebert.registry import METHODS

SCHEMA = 2

Fields = dict[str, Any]

_FIRST_REVISIONS = {"span": 1, "gates": 1}  # of methods of learning degrees, in version 1


def run_name(asked: Fields, revision: int = 0) -> str:
    """The name of the run of a config: `asked` has its fields that differ from their defaults."""
    return _hash([SCHEMA, asked, revision] if revision else [SCHEMA, asked])


def revision_of(method: str | None) -> int:
    """How often a method of learning degrees has changed what it computes."""
    return getattr(METHODS.get(method), "revision", _FIRST_REVISIONS.get(method, 0))


def former_names(config: Fields, asked: Fields) -> list[str]:
    """The names that earlier versions gave a config, the latest first; none if they couldn't ask for it."""
    new = asked.keys() - set(FIRST_FIELDS) or (asked.get("degrees") or {}).keys() - set(_FIRST_DEGREES)
    method = config["degrees"] and config["degrees"]["method"]
    if new or revision_of(method) != _FIRST_REVISIONS.get(method, 0):
        return []
    return [_first_name(config)]


def migrated(record: Any) -> Fields:
    """The plain data of a record in today's schema, without its name if that came from an earlier one.

    Raises `InputError` for a record of a later version, and for one whose name isn't that of its config.
    """
    if not isinstance(record, dict) or not isinstance(record.get("config"), dict):
        raise InputError("it is no record of a run: it has no config")
    version = record.get("schema_version", 1)
    if version == SCHEMA:
        return record
    if not isinstance(version, int) or version not in _STEPS:
        raise InputError(
            f"it was written by a newer version of sparsebert (schema {version!r:.20}, and this one reads up "
            f"to {SCHEMA}); update sparsebert"
        )
    return migrated(_STEPS[version](record))


def _hash(value: Any) -> str:
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


# ---- version 1: all fields are hashed, labels stand in the names of files -----------------------------

FIRST_FIELDS = (
    *("task", "encoder", "plan", "train_size", "eval_size", "epochs", "batch_size", "learning_rate"),
    *("max_length", "seed", "precision", "kernel", "degrees"),
)
_FIRST_DEGREES = (
    *("method", "sharing", "target_density", "price", "max_distance", "open_ended", "harden", "weights"),
    *("soft_share", "rate", "weight_rate"),
)
_DEGREES_FILE = re.compile(r'/degrees-(own|unweighted|heads|layers)-([^"]*-[\d.]+)-(\d+)\.json"')
_HEADS_FILE = re.compile(r'heads/(copies|others)(?:-\d+)?\.json"')
_TREATMENTS = {
    "own": "as learned",
    "unweighted": "without weights",
    "heads": "other heads",
    "layers": "other layers",
}
_HEADS = {"copies": "two heads that look at copies", "others": "two other heads of the same layers"}
_LEARNED_BY = {  # by seed, the runs whose degrees the files held
    "qnli-0.1": ("ec71057ba6a7b67d", "1435da6b01b7a2bd", "5aa778ef4c1fef99"),
    "reviews-0.15": ("9d6bd51c85d7eaf1", "4649d4fa80350f86", "2a704594e8880f16"),
}


def _first_revision(config: Fields) -> int:
    return _FIRST_REVISIONS.get((config["degrees"] or {}).get("method"), 0)


def _first_name(config: Fields) -> str:
    fields = {name: config[name] for name in FIRST_FIELDS if name != "kernel"}
    if config.get("kernel", "auto") != "auto":
        fields["kernel"] = config["kernel"]
    if fields["degrees"] is not None:
        fields["degrees"] = {name: fields["degrees"][name] for name in _FIRST_DEGREES}
    return _hash([1 + _first_revision(config), fields])


def _from_first(record: Fields) -> Fields:
    config = record["config"]
    try:
        name = _first_name(config)
    except (AttributeError, KeyError, TypeError):
        raise InputError("its config lacks fields") from None
    if record.get("name") != name:
        raise InputError(f"the name {record.get('name')} is not the hash of its config, {name}")
    moved = {part: value for part, value in record.items() if part != "name"}
    labels = _first_labels(str(config["plan"]))
    return moved | {
        "schema_version": 2,
        "revision": _first_revision(config),
        "config": config | ({"labels": labels} if labels else {}),
    }


def _first_labels(plan: str) -> dict[str, str]:
    """What the names of the files in a plan said of a run."""
    if heads := _HEADS_FILE.search(plan):
        return {"treatment": "named heads", "heads": _HEADS[heads[1]]}
    files = _DEGREES_FILE.findall(plan)
    if len(files) != 1:
        return {}
    ((kind, learned, seed),) = files
    labels = {"treatment": _TREATMENTS[kind], "density": learned.rpartition("-")[2]}
    runs = _LEARNED_BY.get(learned, ())
    return labels | ({"learned by": runs[int(seed)]} if int(seed) < len(runs) else {})


_STEPS = {1: _from_first}
