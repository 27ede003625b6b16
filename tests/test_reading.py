"""The one reader of paths, files, JSON and YAML."""

from __future__ import annotations

import math
import os
from pathlib import Path

import pytest
from pydantic import BaseModel, field_validator

from sparsebert import errors
from sparsebert.errors import InputError, shown
from sparsebert.paths import cache_dir, check_writable, runs_dir
from sparsebert.reading import MOST_VALUES, path_of, plain_yaml, read_bytes, read_model, read_text


class Small(BaseModel):
    """A model to read."""

    number: int

    @field_validator("number")
    @classmethod
    def _of_mine(cls, number: int) -> int:
        if number < 0:
            raise ValueError("it names the file 'Sub/X.json'")
        return number


@pytest.fixture
def odd_files(tmp_path):
    """Paths that no file can be read from, by name."""
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "nowhere").symlink_to("missing")
    with open(tmp_path / "huge", "wb") as huge:
        huge.truncate(2**40)
    return {
        "No such": tmp_path / "missing",
        "a folder and not a file": tmp_path / "folder",
        "a pipe, socket or device and not": tmp_path / "pipe",
        "device and not a file": "/dev/zero",
        "symbolic links": tmp_path / "loop",
        "No such file": tmp_path / "nowhere",
        "Not a directory": tmp_path / "huge" / "file",
        "bytes": tmp_path / "huge",
        "too long": tmp_path / ("n" * 300),
        "home": "~nosuchuser/file",
        "null byte": "a\0b",
        "is empty": "",
    }


def test_what_cannot_be_read_is_refused_in_a_sentence(odd_files):
    for reason, path in odd_files.items():
        for read in (read_bytes, read_text):
            with pytest.raises(InputError) as refusal:
                read(path, "the grid", "give a file")
            message = str(refusal.value)
            assert len(message) < 500 and message.isprintable(), message
            assert reason in message, message


def test_the_first_mistake_keeps_its_capitals(tmp_path):
    for content, answer in [
        ('{"number": -1}', "number: it names the file 'Sub/X.json'; give"),
        ('{"number": "x"}', "number: input should be a valid integer"),
        ("{", "the file: invalid JSON: EOF while"),
    ]:
        (tmp_path / "X.json").write_text(content)
        with pytest.raises(InputError, match=f"'{tmp_path / 'X.json'}' cannot be read: {answer}"):
            read_model(tmp_path / "X.json", Small, "the file", "give another")


def test_a_package_that_is_missing_is_named_where_sparsebert_is_not_installed(monkeypatch):
    error = ModuleNotFoundError(name="scipy.stats")
    assert "pip install 'sparsebert[" in errors.how_to_install(error)

    def requires(name):
        raise errors.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(errors.metadata, "requires", requires)
    assert errors.how_to_install(error).endswith("scipy, which is not installed; write pip install scipy")


def test_a_path_need_not_exist_but_has_to_be_one(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert path_of("~/new/file") == tmp_path / "new" / "file"
    for given in ("~nosuchuser", "a\0b", "", "n" * 300, "\ud800" * 3):
        with pytest.raises(InputError):
            path_of(given)


def test_a_folder_that_may_not_be_searched_is_refused(tmp_path, monkeypatch):
    def denied(path, **_):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("pathlib.Path.stat", denied)
    with pytest.raises(InputError, match="Permission denied"):
        read_bytes(tmp_path / "closed" / "file", "the grid")


def test_text_is_utf_8(tmp_path):
    path = tmp_path / "text"
    path.write_bytes("\ufeffä".encode())
    assert read_text(path, "it") == "ä"
    path.write_bytes(b"abc\xff")
    with pytest.raises(InputError, match=r"UTF-8 \(byte 3\)"):
        read_text(path, "it")


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[" * 100_000, b'{"number": "x"}', b"\xff", b"1" * 5000, b'{"number": 1e999}']
)
def test_a_model_is_read_from_json(tmp_path, content):
    path = tmp_path / "small.json"
    path.write_bytes(b'{"number": 3}')
    assert read_model(path, Small, "the settings").number == 3
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"the settings '.*small.json' cannot be read: "):
        read_model(path, Small, "the settings")


@pytest.mark.parametrize(
    "text, data",
    [
        ("", None),
        ("~", None),
        ("0500", 500),
        ("-010", -10),
        ("08", 8),
        ("0o17", 15),
        ("1:30", "1:30"),
        ("190:20:30.15", "190:20:30.15"),
        ("1_000", "1_000"),
        ("0b11", "0b11"),
        ("yes", "yes"),
        ("no", "no"),
        ("true", True),
        ("'true'", "true"),
        ("1e-4", 1e-4),
        ("1.", 1.0),
        (".5", 0.5),
        ("-.inf", -math.inf),
        ("nan", "nan"),
        ("2024-02-30", "2024-02-30"),
        ("2024-02-01", "2024-02-01"),
        ("=", "="),
        ("a: &x {b: 1, c: 2}\nd: {<<: *x, c: 3}", {"a": {"b": 1, "c": 2}, "d": {"b": 1, "c": 3}}),
        ("{<<: [{a: 1}, {a: 2, b: 2}], c: 3}", {"a": 1, "b": 2, "c": 3}),
        ("{1: 2, null: 3}", {"1": 2, "null": 3}),
        ("[0100, '0100', [], {}, ~]", [100, "0100", [], {}, None]),
        ("a: &x [1, {b: 2}]\nc: [*x, *x]", {"a": [1, {"b": 2}], "c": [[1, {"b": 2}], [1, {"b": 2}]]}),
        ("a: &x 5\nb: *x", {"a": 5, "b": 5}),
        ("plan: neighbour(2) | global(cls) @ late  # a plan", {"plan": "neighbour(2) | global(cls) @ late"}),
        ("a: |\n  two\n  lines\n", {"a": "two\nlines\n"}),
        ("\ufeffa: 1", {"a": 1}),
    ],
)
def test_yaml_is_read_as_version_1_2(text, data):
    read = plain_yaml(text, "the grid")
    assert read == data and type(read) is type(data)


BOMB = "a: &a0 [1]\n" + "".join(f"b{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 12))


@pytest.mark.parametrize(
    "text, said",
    [
        ("a: 1\na: 2", "line 2: 'a' stands twice"),
        ("{a: 1, a: 2}", "stands twice"),
        ("a: !!python/object/apply:os.system [ls]", "the tag"),
        ("!!timestamp 2024-02-30", "the tag"),
        ("!own x", "the tag"),
        ("a: !!str 5", "line 1: the tag"),
        ("!!map {a: 1}", "the tag"),
        ("!!str a: 1", "the tag"),
        ("a: [1, *nothing]", "undefined alias"),
        ("&a [*a]", "deep"),
        ("a: 1\n--- \nb: 2", "line 2: expected a single document"),
        ("a: 1\nb: [1, 2\n", "line 2"),
        ("a: 1\n\tb: 2", "line 2"),
        ("a: @", "line 1: while scanning"),
        ("<<: 5", "'<<' takes in fields"),
        ("1" * 5000, "5,000 digits"),
        ("[" * 100_000, "deep"),
        ("{a: " * 1_000, "deep"),
        ("- " * 1_000, "deep"),
        ("? [a]\n: 1", "a field's name has to be a word"),
        (BOMB, "values"),
        ("a: \0", "character"),
        ("a: \ud800", "character"),
    ],
)
def test_what_is_not_plain_data_is_refused(text, said):
    with pytest.raises(InputError) as refusal:
        plain_yaml(text, "the grid")
    message = str(refusal.value)
    assert message.startswith("the grid") and said in message, message
    assert len(message) < 300 and message.isprintable()


def test_a_large_file_is_read():
    assert len(plain_yaml("plan:\n" + "- neighbour(2) | global(cls)\n" * 20_000, "it")["plan"]) == 20_000
    assert MOST_VALUES > 20_000


def test_messages_repeat_little_of_the_input():
    assert shown("plain") == "plain" and shown(5) == "5"
    assert len(shown("x" * 10**6)) < 110
    assert shown("a\x1b[31m\nb\u202e") == r"a\x1b[31m b\u202e"
    assert shown("\ud800") == r"\ud800"


def test_whether_a_folder_can_be_written_is_seen_without_a_trace(tmp_path):
    (tmp_path / "file").touch()
    check_writable(tmp_path / "new" / "deeper", "the folder", "--out")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    for folder in (tmp_path / "file", tmp_path / "file" / "deeper", Path("/proc/new")):
        with pytest.raises(InputError, match=r"the folder cannot be written: .*; give another --out"):
            check_writable(folder, "the folder", "--out")


def test_folders_named_by_the_environment_are_paths_too(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SPARSEBERT_CACHE_DIR", "~/c")
    assert cache_dir() == tmp_path / "c"
    monkeypatch.setenv("SPARSEBERT_RUNS_DIR", "~nosuchuser")
    with pytest.raises(InputError, match="is no usable path"):
        runs_dir()
