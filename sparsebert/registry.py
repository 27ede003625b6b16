"""Components by name: patterns, kernels, methods of learning degrees, architectures and tasks.

Each wing fills its registry when it is imported. Whoever adds a component of their own, from a module or a
notebook, calls `register`; worker processes get it through `external_components` and `load_components`.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import pickle
import re
from collections.abc import Iterable
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
        outside = _home(component)[0].partition(".")[0] != _PACKAGE
        if name in self and not (outside and _home(self[name]) == _home(component)):
            if self[name] is component:
                return component
            raise InputError(f"a {self.kind} named '{name}' is registered already; choose another name")
        self[name] = component
        if outside:
            self.fingerprints[name] = fingerprint or _fingerprint(component)
        return component

    def fingerprint(self, names: Iterable[str]) -> str | None:
        """A hash of the source of those of these components that are from outside; None if none is."""
        found = sorted(f"{name} {self.fingerprints[name]}" for name in set(names) & self.fingerprints.keys())
        return hashlib.sha256("\n".join(found).encode()).hexdigest() if found else None


PATTERNS = Registry("pattern", r"[A-Za-z_]\w*")
KERNELS = Registry("kernel")
METHODS = Registry("method of learning degrees")
ARCHITECTURES = Registry("architecture")
TASKS = Registry("task")
_ALL = (PATTERNS, KERNELS, METHODS, ARCHITECTURES, TASKS)


def _registry_of(kind: str) -> Registry:
    return next(registry for registry in _ALL if registry.kind == kind)


def register(component: Component) -> Component:
    """Add a component of your own: `sparsebert.register(MyPattern)`, or `@register` above its class.

    The class says what it is by its base class (`Pattern`, ...) and has a `name`. From then on the name works
    wherever the names of the package do, in worker processes too. Raises `InputError` if the name is taken.
    """
    registry = getattr(component, "registry", None)
    if not isinstance(registry, Registry):
        kinds = ", ".join(registry.kind for registry in _ALL)
        raise InputError(
            f"{_home(component)[1]} can't be registered, since it is none of: {kinds}; derive it from the "
            "base class of its kind, such as sparsebert.Pattern"
        )
    return registry.add(component)


def external_components() -> list[tuple[str | bytes, str]]:
    """What was registered outside of the package, to be sent to a worker for `load_components`.

    Each stands beside its fingerprint, as its import path or, if it was defined in a notebook or script, as
    its bytes by cloudpickle.
    """
    return [
        (_sent(registry[name]), fingerprint)
        for registry in _ALL
        for name, fingerprint in registry.fingerprints.items()
    ]


def load_components(parts: list[tuple[str | bytes, str]]) -> None:
    """Register what `external_components` listed in another process; `InputError` if it can't be imported."""
    for part, fingerprint in parts:
        component = pickle.loads(part) if isinstance(part, bytes) else _imported(part)
        component.registry.add(component, fingerprint)


def _sent(component: Any) -> str | bytes:
    module, qualname = _home(component)
    path = f"{module}:{qualname}"
    if isinstance(component, type) and module not in _MAIN and "<" not in qualname:
        return path
    import cloudpickle  # only needed by those who register components in a notebook

    return cloudpickle.dumps(component)


def _imported(path: str) -> Any:
    module, _, qualname = path.partition(":")
    try:
        found: Any = importlib.import_module(module)
        for name in qualname.split("."):
            found = getattr(found, name)
    except (ImportError, AttributeError) as error:
        raise InputError(
            f"the component '{path}' can't be imported in a worker ({error}); install its module there, or "
            "put its folder into PYTHONPATH"
        ) from None
    return found


def _home(component: Any) -> tuple[str, str]:
    """Module and name of a component's class, or of the component if it is one."""
    kind = component if isinstance(component, type) else type(component)
    return "__main__" if kind.__module__ in _MAIN else kind.__module__, kind.__qualname__


def _fingerprint(component: Any) -> str:
    """A hash of the source of a component's class and of the classes outside of the package below it."""
    kind = component if isinstance(component, type) else type(component)
    own = [c for c in kind.__mro__ if c.__module__.partition(".")[0] not in (_PACKAGE, "abc", "builtins")]
    return hashlib.sha256("\n".join(map(_source, own)).encode()).hexdigest()


def _source(kind: type) -> str:
    try:
        return inspect.getsource(kind)
    except (OSError, TypeError):  # a class of a notebook has no file, but its methods' cells are known
        parts = []
        for name, value in vars(kind).items():
            code = getattr(inspect.unwrap(getattr(value, "fget", value)), "__code__", None)
            if code is None:
                parts.append(f"{name} = {value!r}" if isinstance(value, int | float | str) else name)
            elif code.co_filename != "<string>":  # which dataclasses write
                try:
                    parts.append(inspect.getsource(code))
                except OSError:
                    parts.append(f"{name} = {code.co_code.hex()} {code.co_consts!r} {code.co_names}")
        return "\n".join(parts)
