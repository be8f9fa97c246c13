"""The check that a class of ours still overrides what it means to in the class of an engine.

A method marked `typing_extensions.override` must override one whose calls it takes; a method without the mark must not
have the name of an engine's, apart from special methods such as `__init__`. Type checkers cannot say so, as they follow
no imports of engines.

`checked_overrides` checks where a class is made. So every process checks the classes that it uses and imports nothing
for the check; a mismatch stops the import, and with it the server, before a request is served; and a server of another
model never imports these classes. The exception are the few that a plugin imports while it registers, in the servers
of all models: there SGLang logs whatever a plugin raises, and for vLLM, which does not, `vllm.register` does.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import pkgutil
from collections.abc import Callable
from inspect import Parameter
from types import FunctionType
from typing import Any, TypeVar

ENGINES = ("vllm", "sglang")

_CHECKED = "__overrides_checked__"
_REST = {Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD}
_POSITIONAL = {Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD}

Class = TypeVar("Class", bound=type)


class OverrideError(TypeError):
    """A class does not fit the class of the installed engine that it derives from."""


def checked_overrides(cls: Class) -> Class:
    """Decorate a class that derives from an engine's; raises `OverrideError` with what was expected and found."""
    problems = override_problems(cls)
    if problems:
        raise OverrideError(f"the plugin does not fit the installed engine: {'; '.join(problems)}")
    setattr(cls, _CHECKED, True)
    return cls


def is_checked(cls: type) -> bool:
    """Whether the class itself, not one that it derives from, has been decorated."""
    return _CHECKED in vars(cls)


def override_problems(cls: type) -> list[str]:
    """Return what is wrong with the methods of a class, and with those that it inherits from its own package.

    The latter because of mixins: what a method overrides depends on what stands after its class.
    """
    found = []
    for place, owner in enumerate(cls.__mro__):
        if _package(owner) == _package(cls):
            bases = [base for base in cls.__mro__[place + 1 :] if base is not object]
            for name, value in vars(owner).items():
                problem = _problem(name, value, bases)
                if problem is not None:
                    found.append(f"{_named(owner)}.{name}: {problem}")
    return found


def engine_classes(package: str) -> list[type]:
    """Import every module of a package and return its classes that derive from an engine's, sorted by name."""
    modules = pkgutil.walk_packages(importlib.import_module(package).__path__, f"{package}.")
    classes = {
        value
        for module in modules
        for value in vars(importlib.import_module(module.name)).values()
        if isinstance(value, type) and value.__module__.startswith(f"{package}.")
    }
    derived = (cls for cls in classes if any(map(_is_engines, cls.__mro__)))
    return sorted(derived, key=lambda cls: (cls.__module__, cls.__qualname__))


def _package(cls: type) -> str:
    return cls.__module__.partition(".")[0]


def _is_engines(cls: type) -> bool:
    return _package(cls) in ENGINES


def _problem(name: str, value: object, bases: list[type]) -> str | None:
    function = _function(value)
    if function is None:
        return None
    marked = getattr(value, "__override__", False) or getattr(function, "__override__", False)
    if not marked and name.startswith("__") and name.endswith("__"):
        return None
    engines = [base for base in bases if _is_engines(base)]
    base = next((base for base in engines if name in vars(base)), None)
    if base is None:
        if not marked or any(name in vars(other) for other in bases):
            return None
        nearest = _named((engines or bases or [object])[0])
        return f"expected a method of {nearest} or its bases to override, found none"
    theirs = f"{_named(base)}.{name}"
    if not marked:
        return f"expected no such method in the engine, found {theirs}; mark the override or rename ours"
    return _difference(value, vars(base)[name], theirs)


def _difference(value: object, other: object, theirs: str) -> str | None:
    """Return why `value` cannot stand in for `other`, None where it can or where `other` is no method."""
    if _function(other) is None:
        return None
    if _form(value) != _form(other):
        return f"expected a {_form(other)} as {theirs}, found a {_form(value)}"
    ours, expected = _parameters(value), _parameters(other)
    if _takes_every_call(ours, expected):
        return None
    return f"expected to be called as {theirs}{_shown(expected)}, found {_shown(ours)}"


def _function(value: object) -> Callable[..., Any] | None:
    if isinstance(value, classmethod | staticmethod):
        return value.__func__
    if isinstance(value, property):
        return value.fget
    if isinstance(value, functools.cached_property):
        return value.func
    return value if isinstance(value, FunctionType) else None


def _form(value: object) -> str:
    if isinstance(value, property | functools.cached_property):
        return "property"
    return "class or static method" if isinstance(value, classmethod | staticmethod) else "method"


def _parameters(value: object) -> list[Parameter]:
    """Return the parameters of a call, without `self` or `cls`."""
    function = _function(value)
    assert function is not None
    parameters = list(inspect.signature(function).parameters.values())
    return parameters if isinstance(value, staticmethod) else parameters[1:]


def _takes_every_call(ours: list[Parameter], theirs: list[Parameter]) -> bool:
    """Whether what `theirs` lists can be given to `ours`.

    Of an argument without a name in `ours` it is not known how it comes, so either of `*args` and `**kwargs` takes a
    positional one. `*args` together with `**kwargs` in `theirs` promise nothing.
    """
    rest = {parameter.kind for parameter in ours} & _REST
    their_rest = {parameter.kind for parameter in theirs} & _REST
    named = {p.name: p for p in ours if p.kind not in _REST}
    wanted = {p.name: p for p in theirs if p.kind not in _REST}
    return (
        (their_rest == _REST or their_rest <= rest)
        and all(p.default is not Parameter.empty for name, p in named.items() if name not in wanted)
        and all(_takes(named, rest, place, parameter) for place, parameter in enumerate(wanted.values()))
    )


def _takes(named: dict[str, Parameter], rest: set[Any], place: int, wanted: Parameter) -> bool:
    own, is_positional = named.get(wanted.name), wanted.kind in _POSITIONAL
    if own is None:
        return bool(rest if is_positional else rest & {Parameter.VAR_KEYWORD})
    if own.default is Parameter.empty and wanted.default is not Parameter.empty:
        return False
    return not is_positional or (own.kind in _POSITIONAL and list(named)[place] == own.name)


def _shown(parameters: list[Parameter]) -> str:
    return str(inspect.Signature([parameter.replace(annotation=Parameter.empty) for parameter in parameters]))


def _named(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"
