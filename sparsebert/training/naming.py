"""The schema of records: how runs are named, and how records of earlier versions are read.

A run's name is a hash of the schema's version and of the fields that differ from their defaults. So a new
field whose default means what was done before changes no name. Whoever changes a default, or what a config
computes, raises `SCHEMA` and adds a step to `_STEPS` that brings records of the version before to the new
one; a change to one method of learning degrees raises the `revision` of that method instead.
"""

from __future__ import annotations

import hashlib
import json
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


# ---- version 1: all fields are hashed ------------------------------------------------------------

FIRST_FIELDS = (
    *("task", "encoder", "plan", "train_size", "eval_size", "epochs", "batch_size", "learning_rate"),
    *("max_length", "seed", "precision", "kernel", "degrees"),
)
_FIRST_DEGREES = (
    *("method", "sharing", "target_density", "price", "max_distance", "open_ended", "harden", "weights"),
    *("soft_share", "rate", "weight_rate"),
)


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
    return moved | {"schema_version": 2, "revision": _first_revision(config)}


_STEPS = {1: _from_first}
