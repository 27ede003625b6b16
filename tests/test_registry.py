"""Components by name, here and in other processes."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass

import pytest

from sparsebert.errors import InputError, UnknownName, shown
from sparsebert.registry import KERNELS, Registry, external_components, load_components, register


class Part:
    registry = Registry("part", r"[a-z]+")


class Mine(Part):
    name = "mine"


@pytest.fixture(autouse=True)
def empty(monkeypatch):
    monkeypatch.setattr(Part, "registry", Registry("part", r"[a-z]+"))
    monkeypatch.setattr("sparsebert.registry._ALL", (Part.registry,))


def test_a_component_is_found_by_its_name_and_a_misspelt_name_says_the_nearest():
    assert register(Mine) is Mine
    assert Part.registry["mine"] is Mine
    assert register(Mine) is Mine  # twice is once
    with pytest.raises(UnknownName, match="unknown part 'mime': did you mean 'mine'"):
        Part.registry["mime"]
    assert "mime" not in Part.registry


def test_two_components_of_one_name_are_refused_but_a_class_defined_anew_replaces_itself():
    register(Mine)
    with pytest.raises(InputError, match="'mine' is registered already"):
        register(type("Other", (Part,), {"name": "mine"}))
    again = type("Mine", (Part,), {"name": "mine", "changed": 1, "__module__": __name__})
    assert Part.registry["mine"] is Mine
    register(again)
    assert Part.registry["mine"] is again


@pytest.mark.parametrize("name", [None, "", "two words", "Ä", 3])
def test_a_name_that_no_text_can_hold_is_refused(name):
    with pytest.raises(InputError, match="needs a name"):
        register(type("Other", (Part,), {"name": name}))


def test_what_is_no_component_is_refused():
    with pytest.raises(InputError, match="derive it from the base class"):
        register(int)


def test_a_component_of_a_module_travels_by_its_import_path():
    register(Mine)
    ((part, fingerprint),) = external_components()
    assert f"{__name__}".encode() in part and len(part) < 100
    Part.registry.clear()
    load_components([(part, fingerprint)])
    assert Part.registry["mine"] is Mine
    with pytest.raises(InputError, match="can't be imported in a worker"):
        load_components([(part.replace(b"test_registry", b"lost_registry"), "")])


def test_a_component_of_a_script_travels_as_bytes_with_its_fingerprint():
    script = """
import base64, pickle, subprocess, sys
from sparsebert.registry import KERNELS, external_components, register

class Base:
    registry = KERNELS

@register
class Mine(Base):
    name = "mine"
    def say(self):
        return helper()

def helper():
    return "said"

sent = base64.b64encode(pickle.dumps(external_components())).decode()
code = '''
import base64, pickle, sys
from sparsebert.registry import KERNELS, load_components
load_components(pickle.loads(base64.b64decode(sys.argv[1])))
print(KERNELS["mine"]().say(), KERNELS.fingerprints["mine"])
'''
said = subprocess.run([sys.executable, "-c", code, sent], capture_output=True, text=True, check=True)
assert said.stdout.split() == ["said", KERNELS.fingerprints["mine"]], said
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def fingerprint_of(base: type, default: int = 2, **how) -> str:
    class Mine(base):
        first: int
        second: int = default
        name = "mine"

        def said(self) -> int:
            return self.first

    register(dataclass(Mine, **how))
    return Part.registry.fingerprints["mine"]


def test_a_fingerprint_is_of_what_a_class_says_and_not_of_what_is_written_into_it():
    """Methods that `dataclass` writes, and bases of other packages, differ between their versions."""
    plain = fingerprint_of(Part)
    assert fingerprint_of(Part, order=True, frozen=True) == plain
    assert fingerprint_of(Part, default=3) != plain

    def packaged(said: str) -> type:
        installed = type("Installed", (), {"version": said})
        return type("Base", (Part, installed), {"__module__": "sparsebert.patterns"})

    assert fingerprint_of(packaged("1.0")) == fingerprint_of(packaged("2.0"))


def test_the_package_has_nothing_from_outside():
    assert not KERNELS.fingerprints


def test_an_error_repeats_a_long_input_shortened_and_on_one_line():
    assert shown("a\nb") == "a b"
    assert len(shown("x" * 5000)) == 80
    with pytest.raises(UnknownName) as error:
        Part.registry["x" * 5000]
    assert len(str(error.value)) < 200
