"""What a user imports says what it takes and gives, what it raises, and which chapter explains it."""

import ast
import inspect
import re
import textwrap
from pathlib import Path

import pytest

import sparsebert

CHAPTERS = {path.stem[:2] for path in (Path(sparsebert.__file__).parent.parent / "notebooks").glob("*.ipynb")}
PUBLIC = {
    name: item
    for name in sparsebert.__all__
    if name != "InputError"
    and (inspect.isclass(item := getattr(sparsebert, name)) or inspect.isfunction(item))
}
BARE_TENSOR = re.compile(r"(?<!\[)\bTensor\b(?!,)")


def _methods(item):
    """A function itself, or the public methods that a class defines."""
    if inspect.isfunction(item):
        return {item.__name__: item}
    own = {name: value for name, value in vars(item).items() if not name.startswith("_")}
    return {
        name: getattr(value, "fget", value)
        for name, value in own.items()
        if inspect.isfunction(getattr(value, "fget", value))
    }


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_name_is_documented_and_names_its_chapter(name):
    text = inspect.getdoc(PUBLIC[name]) or ""
    named = re.findall(r"[Cc]hapters? ((?:\d\d(?:, | and )?)+)", text)
    numbers = set(re.findall(r"\d\d", " ".join(named)))
    assert numbers, f"{name}: its docstring names no chapter"
    assert numbers <= CHAPTERS, f"{name}: there is no chapter {numbers - CHAPTERS}"


@pytest.mark.parametrize("name", PUBLIC)
def test_tensors_in_public_signatures_have_shapes(name):
    for method, function in _methods(PUBLIC[name]).items():
        hints = [str(text) for text in getattr(function, "__annotations__", {}).values()]
        assert not [hint for hint in hints if BARE_TENSOR.search(hint)], f"{name}.{method}"


@pytest.mark.parametrize("name", PUBLIC)
def test_errors_that_are_raised_are_documented(name):
    for method, function in _methods(PUBLIC[name]).items():
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
        raised = {
            node.exc.func.id
            for node in ast.walk(tree)
            if isinstance(node, ast.Raise)
            and isinstance(node.exc, ast.Call)
            and isinstance(node.exc.func, ast.Name)
        }
        raised = {"InputError" if kind == "unknown_name" else kind for kind in raised}
        said = (inspect.getdoc(function) or "") + (inspect.getdoc(PUBLIC[name]) or "")
        assert all(kind in said for kind in raised), f"{name}.{method}: {raised} are not in its docstring"
