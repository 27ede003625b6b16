"""Components by name: patterns, kernels, methods of learning degrees, architectures, tasks and reductions.

Each wing fills its registry when it is imported. Whoever adds a component of their own, from a module or a
notebook, calls `register`; worker processes get it through `external_components` and `load_components`.
"""

from __future__ import annotations

import hashlib
import inspect
import pickle
import re
from collections.abc import Iterable, Iterator
from types import CodeType
from typing import Any, TypeVar

from sparsebert.errors import InputError, unknown_name

Component = TypeVar("Component")
_PACKAGE = __name__.partition(".")[0]
_MAIN = ("__main__", "__mp_main__")  # a script is imported under the second name in a worker process


class Registry(dict[str, Any]):
    """Components of one kind by their `name`; `registry[name]` raises `UnknownName` for one that isn't there.

    `fingerprints` has the names of components from outside of the package, with a hash of their source text:
    a run that uses one differs from a run that used the component as it was before.
    """

    def __init__(self, kind: str, spelt: str = r"\S+"):
        super().__init__()
        self.kind, self.spelt = kind, spelt
        self.fingerprints: dict[str, str] = {}

    def __reduce__(self) -> tuple:
        return _registry_of, (self.kind,)  # the other process has one of its own

    def __missing__(self, name: str) -> Any:
        raise unknown_name(self.kind, name, self)

    def add(self, component: Component, fingerprint: str | None = None) -> Component:
        """Register a component under its `name`; `InputError` if the name is taken or can't be written.

        The same class defined anew, as by a notebook's cell that runs twice, replaces the earlier one.
        """
        name = getattr(component, "name", None)
        if not isinstance(name, str) or not re.fullmatch(self.spelt, name, re.ASCII):
            raise InputError(
                f'a {self.kind} needs a name that can be written in a text, such as name = "mine"; '
                f"{_home(component)[1]} has {name!r}"
            )
        if check := getattr(component, "check_component", None):
            check()
        outside = not _from_package(_origin(component))
        if name in self and not (outside and _home(self[name]) == _home(component)):
            if self[name] is component:
                return component
            raise InputError(f"a {self.kind} named '{name}' is registered already; choose another name")
        self[name] = component
        if outside:
            self.fingerprints[name] = fingerprint or _fingerprint(component)
        return component

    def packaged(self, names: Iterable[str]) -> bool:
        """Whether all of these are components of the package."""
        return set(names) <= self.keys() - self.fingerprints.keys()

    def fingerprint(self, names: Iterable[str]) -> str | None:
        """A hash of the source of those of these components that are from outside; None if none is."""
        found = sorted(f"{name} {self.fingerprints[name]}" for name in set(names) & self.fingerprints.keys())
        return hashlib.sha256("\n".join(found).encode()).hexdigest() if found else None


PATTERNS = Registry("pattern", r"[A-Za-z_]\w*")
KERNELS = Registry("kernel")
METHODS = Registry("method of learning degrees")
ARCHITECTURES = Registry("architecture")
TASKS = Registry("task")
REDUCTIONS = Registry("reduction", r"[A-Za-z_]\w*")
_ALL = (PATTERNS, KERNELS, METHODS, ARCHITECTURES, TASKS, REDUCTIONS)


def _registry_of(kind: str) -> Registry:
    return next(registry for registry in _ALL if registry.kind == kind)


def register(component: Component) -> Component:
    """Add a component of your own: `sparsebert.register(MyPattern)`, or `@register` above its class.

    The class says what it is by its base class (`Pattern`, ...) and has a `name`. From then on the name works
    wherever the names of the package do, in worker processes too. Raises `InputError` if the name is taken.
    Chapter 01 explains it.
    """
    registry = getattr(component, "registry", None)
    if not isinstance(registry, Registry):
        kinds = ", ".join(registry.kind for registry in _ALL)
        raise InputError(
            f"{_home(component)[1]} can't be registered, since it is none of: {kinds}; derive it from the "
            "base class of its kind, such as sparsebert.Pattern"
        )
    return registry.add(component)


def external_components() -> list[tuple[bytes, str]]:
    """What was registered outside of the package, to be sent to a worker for `load_components`.

    Each is bytes of cloudpickle, beside its fingerprint: the import path of what was defined in a module, and
    all of what was defined in a notebook or script.
    """
    outside = [(registry[name], found) for registry in _ALL for name, found in registry.fingerprints.items()]
    if not outside:
        return []
    from cloudpickle import dumps  # needed only by those who register components

    return [(dumps(component), fingerprint) for component, fingerprint in outside]


def load_components(parts: Iterable[tuple[bytes, str]]) -> None:
    """Register what `external_components` listed in another process; `InputError` if it can't be imported."""
    for part, fingerprint in parts:
        try:
            component = pickle.loads(part)
        except (ImportError, AttributeError) as error:
            raise InputError(
                f"a registered component can't be imported in a worker ({error}); install its module there, "
                "or put its folder into PYTHONPATH"
            ) from None
        component.registry.add(component, fingerprint)


def first_paragraph(doc: str | None) -> str:
    """What a component's documentation says first, on one line."""
    return " ".join((doc or "").partition("\n\n")[0].split())


def _from_package(origin: Any) -> bool:
    return origin.__module__.partition(".")[0] == _PACKAGE


def _home(component: Any) -> tuple[str, str]:
    """Module and name of what a component was defined by (`_origin`)."""
    origin = _origin(component)
    return "__main__" if origin.__module__ in _MAIN else origin.__module__, origin.__qualname__


def _origin(component: Any) -> Any:
    """A component's class, the component if it is one, or the function that a task reads its rows with."""
    if isinstance(component, type):
        return component
    origin = getattr(component, "read", type(component))
    return getattr(origin, "func", origin)


def _fingerprint(component: Any) -> str:
    """A hash of the source of a component's class and of the classes from outside that it derives from.

    Functions beside the class are not part of it, nor what Python, `dataclass` and other packages write into
    classes, which differs between their versions. Of a task it is that of the function that reads its rows.
    """
    kind = _origin(component)
    if not isinstance(kind, type):
        return hashlib.sha256(_source(kind).encode()).hexdigest()
    known = {c for base in kind.__mro__ if _from_package(base) for c in base.__mro__}
    own = [c for c in kind.__mro__ if c not in known]
    said = [part for each in own for name, value in _written(each) for part in (name, _source(value))]
    return hashlib.sha256("\n".join(said).encode()).hexdigest()


def _written(kind: type) -> Iterator[tuple[str, Any]]:
    """What a class itself defines: the names of its fields, its values and its methods."""
    yield "fields", tuple(getattr(kind, "__dataclass_fields__", ()))
    for name, value in vars(kind).items():
        code = _code(value)
        if not name.startswith("__") or (code and code.co_qualname == f"{kind.__qualname__}.{name}"):
            yield name, value


def _code(value: Any) -> CodeType | None:
    return getattr(inspect.unwrap(getattr(value, "fget", value)), "__code__", None)


def _source(value: Any) -> str:
    """The text of a method, as far as it is known, or of a plain value."""
    code = _code(value)
    if code is None:
        plain = isinstance(value, int | float | str | tuple | None)
        return repr(value) if plain and " at 0x" not in repr(value) else ""
    try:
        return inspect.getsource(code)
    except OSError:  # a class of `python -c`
        plain = [one for one in code.co_consts if not isinstance(one, CodeType)]
        return f"{code.co_code.hex()} {code.co_names} {plain!r}"
