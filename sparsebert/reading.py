"""The one reader of paths, files, JSON and YAML that people write: what is wrong ends in one sentence.

>>> plain_yaml("{train_size: 0500, plan: neighbour(2) @ late}", "the grid")
{'train_size': 500, 'plan': 'neighbour(2) @ late'}
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from sparsebert.errors import InputError, first_mistake, shown

Model = TypeVar("Model", bound=BaseModel)

MOST_BYTES = 2**26  # of a file that is read whole, unless its reader says otherwise
DEEPEST = 32  # lists and mappings inside one another in YAML
MOST_VALUES = 1_000_000  # in YAML, those that aliases repeat counted each time


def path_of(given: str | Path) -> Path:
    """A path with `~` expanded, which the system can look up; there need not be anything.

    Raises `InputError` if it is empty, names an unknown user, holds a NUL, is too long, runs in circles
    through links or through a folder that may not be searched.
    """
    if not str(given):
        raise InputError("the path is empty; write one (is a variable unset?)")
    try:
        path = Path(given).expanduser()
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        pass
    except (OSError, RuntimeError, ValueError) as error:  # no such user, a NUL, half of a character, ...
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"'{shown(Path(given))}' is no usable path: {reason}; write another") from None
    return path


def read_bytes(given: str | Path, what: str, instead: str = "", most: int = MOST_BYTES) -> bytes:
    """What a file holds; `what` is what it is called in a refusal, `instead` what to give in its place.

    Raises `InputError` if it is missing, a folder, no regular file (it is then not opened, since a pipe
    would block), may not be read or has more than `most` bytes.
    """
    path = path_of(given)
    try:
        status = path.stat()
        if not path.is_file():
            kind = "a folder" if path.is_dir() else "a pipe, socket or device"
            raise _unreadable(path, what, f"it is {kind} and not a file", instead)
        if status.st_size > most:
            raise _unreadable(path, what, f"it has {status.st_size:,} bytes, and {most:,} may be", instead)
        return path.read_bytes()
    except OSError as error:
        raise _unreadable(path, what, error.strerror, instead) from None


def read_text(given: str | Path, what: str, instead: str = "", most: int = MOST_BYTES) -> str:
    """The text of a file in UTF-8, without a byte order mark; raises what `read_bytes` does."""
    try:
        return read_bytes(given, what, instead, most).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        reason = f"it is not in UTF-8 (byte {error.start})"
        raise _unreadable(given, what, reason, instead or "save it as UTF-8") from None


def read_model(given: str | Path, model: type[Model], what: str, instead: str = "") -> Model:
    """A JSON file as a pydantic model; raises what `read_bytes` does, and `InputError` for other content."""
    try:
        return model.model_validate_json(read_bytes(given, what, instead))
    except ValidationError as error:
        raise _unreadable(given, what, first_mistake(error), instead) from None


def read_yaml(given: str | Path, what: str = "the file") -> Any:
    """Plain data from a file of YAML; raises what `read_bytes` and `plain_yaml` do."""
    return plain_yaml(read_text(given, what), shown(Path(given)))


def plain_yaml(text: str, place: str) -> Any:
    """Plain data from YAML 1.2 (its core schema): lists, mappings, texts, numbers, booleans and null.

    0500 is 500, and 1:30, yes and 2024-02-30 are texts. The keys of mappings are texts, as written. `place`
    is what the text is called in a refusal. Raises `InputError` for what is not YAML, a key that stands
    twice, tags, more than one document, numbers of thousands of digits, and what is nested too deeply or
    repeats too much by aliases.
    """
    import yaml  # the core does without: only grids, parameters and the book are YAML

    last_line, known = text.rstrip("\n").count("\n"), {}

    def wrong(mark: Any, what: str) -> InputError:
        line = f", line {min(mark.line, last_line) + 1}" if mark else ""
        return InputError(f"{place}{line}: {shown(what, 200)}")

    def data(node: Any, depth: int = 0) -> tuple[Any, int]:
        """What a node stands for, and how many values that has, counting those that aliases repeat."""
        if node in known:
            return known[node]
        if depth > DEEPEST:
            raise wrong(node.start_mark, f"nested too deeply, more than {DEEPEST} times")
        if node.id == "scalar":
            try:
                return node.value if node.style else _plain_scalar(node.value), 1
            except ValueError:
                raise wrong(node.start_mark, f"a number of {len(node.value):,} digits") from None
        if node.id == "sequence":
            items = [data(item, depth + 1) for item in node.value]
            value: Any = [item for item, _ in items]
        else:
            value, items = {}, []
            for key, item in node.value:
                if key.id != "scalar":
                    raise wrong(key.start_mark, "a field's name has to be a word")
                if key.value in value:
                    raise wrong(key.start_mark, f"'{shown(key.value)}' stands twice; join the two")
                items.append(data(item, depth + 1))
                value[key.value] = items[-1][0]
            if "<<" in value:  # fields of other mappings, over which its own go
                others = value.pop("<<")
                others = others if isinstance(others, list) else [others]
                if not all(isinstance(other, dict) for other in others):
                    raise wrong(node.start_mark, "'<<' takes in fields; give it a mapping, such as *name")
                value = {name: one for other in reversed([value, *others]) for name, one in other.items()}
        known[node] = value, 1 + sum(size for _, size in items)
        if known[node][1] > MOST_VALUES:
            raise wrong(node.start_mark, f"more than {MOST_VALUES:,} values, counting repeated ones")
        return known[node]

    class Untagged(yaml.BaseLoader):  # the one in C dies of depth
        def compose_node(self, parent: Any, index: Any) -> Any:
            event = self.peek_event()
            if tag := getattr(event, "tag", None):
                raise wrong(event.start_mark, f"the tag '{shown(tag)}'; write plain data")
            return super().compose_node(parent, index)

    try:
        node = yaml.compose(text, Loader=Untagged)
        return data(node)[0] if node else None
    except yaml.MarkedYAMLError as error:
        said = " ".join(filter(None, (error.context, error.problem)))
        raise wrong(error.problem_mark, said or "not YAML") from None
    except RecursionError:
        raise wrong(None, f"nested too deeply, more than {DEEPEST} times") from None
    except (yaml.YAMLError, UnicodeError):
        raise wrong(None, "a character that YAML does not allow") from None


def _plain_scalar(text: str) -> Any:
    """The value of a scalar without quotes, in the core schema; `ValueError` for too many digits."""
    if text in ("", "~", "null", "Null", "NULL"):
        return None
    if text in ("true", "True", "TRUE", "false", "False", "FALSE"):
        return text.lower() == "true"
    if re.fullmatch(r"[-+]?[0-9]+|(0o)[0-7]+|(0x)[0-9a-fA-F]+", text):
        return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))
    if re.fullmatch(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", text):
        return float(text)
    if re.fullmatch(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", text):
        return float(text.replace(".", ""))
    return text


def wrong_line(path: Path, line: object, what: str) -> InputError:
    """The refusal of a line of a file."""
    return InputError(f"{shown(path)}, line {line}: {what}")


def _unreadable(given: str | Path, what: str, reason: str, instead: str) -> InputError:
    return InputError(
        f"{what} '{shown(Path(given))}' cannot be read: {reason}" + (f"; {instead}" if instead else "")
    )
