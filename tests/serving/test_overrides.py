"""What is said of classes that do not fit the engine's classes they derive from."""

from __future__ import annotations

import functools
import sys
from types import ModuleType
from typing import Any

import pytest
from typing_extensions import override

from nemotron_diffusion_plugin.serving.overrides import (
    OverrideError,
    checked_overrides,
    engine_classes,
    is_checked,
    override_problems,
)

OURS = __name__


class Engine:
    """A class of an engine."""

    __module__ = "vllm.core"
    label = "engine"

    def run(self, batch: Any, limit: int = 1) -> None: ...

    def count(self, *, rows: int, columns: int = 1) -> None: ...

    def anything(self, *arguments: Any, **keywords: Any) -> None: ...

    def some(self, first: Any, **keywords: Any) -> None: ...

    @property
    def size(self) -> int:
        return 1

    @functools.cached_property
    def kept(self) -> int:
        return 1

    @classmethod
    def build(cls, settings: Any) -> None: ...

    @staticmethod
    def name(kind: Any) -> None: ...

    def __call__(self, batch: Any) -> None: ...


class Later(Engine):
    """A class of the engine that changes a signature of its own base."""

    __module__ = "vllm.later"

    def run(self, batch: Any, limit: int = 1, extra: int = 0) -> None: ...


class Other:
    """A class of a library that is no engine."""

    __module__ = "torch.nn"

    def forward(self, inputs: Any) -> None: ...


def made(bases: Any, /, **attributes: Any) -> type:
    """A class of ours, defined here."""
    return type("Ours", bases if isinstance(bases, tuple) else (bases,), {"__module__": OURS, **attributes})


def said(bases: Any, /, **attributes: Any) -> str:
    return "; ".join(override_problems(made(bases, **attributes)))


@override
def plain(self: Any, batch: Any, limit: int = 1) -> None: ...


FITTING = {
    "the same": lambda self, batch, limit=1: None,
    "more, with a default": lambda self, batch, limit=1, more=2: None,
    "more, by name": lambda self, batch, limit=1, *, more=2: None,
    "any arguments": lambda self, *arguments, **keywords: None,
    "the rest by place": lambda self, batch, *arguments: None,
    "the rest by name": lambda self, batch, **keywords: None,
    "another default": lambda self, batch, limit=7: None,
    "a default of our own": lambda self, batch=None, limit=1: None,
}
UNFIT = {
    "one less": lambda self, batch: None,
    "another order": lambda self, limit=1, batch=None: None,
    "another name": lambda self, rows, limit=1: None,
    "no default": lambda self, batch, limit: None,
    "one more": lambda self, batch, limit=1, *, more: None,
    "by name only": lambda self, batch, *, limit=1: None,
    "nothing": lambda self: None,
}


@pytest.mark.parametrize("run", FITTING.values(), ids=FITTING)
def test_signatures_that_take_every_call(run: Any) -> None:
    assert override_problems(made(Engine, run=override(run))) == []


@pytest.mark.parametrize("run", UNFIT.values(), ids=UNFIT)
def test_signatures_that_do_not(run: Any) -> None:
    problem = said(Engine, run=override(run))
    assert problem.startswith(
        f"{OURS}.Ours.run: expected to be called as vllm.core.Engine.run(batch, limit=1), found ("
    )


def test_what_was_found_is_shown() -> None:
    assert said(Engine, run=override(lambda self, rows, *, limit=1: None)).endswith(
        "found (rows, *, limit=1)"
    )


@pytest.mark.parametrize(
    ("count", "fits"),
    [
        (lambda self, *, rows, columns=1: None, True),
        (lambda self, *, columns=1, rows: None, True),
        (lambda self, rows, columns=1: None, True),
        (lambda self, **keywords: None, True),
        (lambda self, *arguments: None, False),
        (lambda self, *, rows: None, False),
        (lambda self, *, rows, columns: None, False),
    ],
)
def test_arguments_by_name(count: Any, fits: bool) -> None:
    assert (said(Engine, count=override(count)) == "") is fits


@pytest.mark.parametrize(
    ("name", "function", "fits"),
    [
        ("anything", lambda self, batch=None: None, True),
        ("anything", lambda self, batch: None, False),
        ("some", lambda self, first, **keywords: None, True),
        ("some", lambda self, first: None, False),
        ("some", lambda self, first, *arguments: None, False),
    ],
)
def test_engines_that_take_anything(name: str, function: Any, fits: bool) -> None:
    assert (said(Engine, **{name: override(function)}) == "") is fits


def test_a_method_that_the_engine_no_longer_has() -> None:
    gone = f"{OURS}.Ours.walk: expected a method of vllm.later.Later or its bases to override, found none"
    assert said(Later, walk=override(lambda self: None)) == gone


def test_a_mark_without_any_base() -> None:
    assert "expected a method of builtins.object" in said(object, walk=override(lambda self: None))


def test_a_method_that_the_engine_has_too() -> None:
    shadow = (
        "expected no such method in the engine, found vllm.core.Engine.run; mark the override or rename ours"
    )
    assert said(Engine, run=lambda self, batch, limit=1: None) == f"{OURS}.Ours.run: {shadow}"


def test_methods_of_our_own() -> None:
    own = made(Engine, walk=lambda self, far: None, label="ours", __init__=lambda self, settings: None)
    assert override_problems(own) == []


def test_special_methods_are_checked_where_they_are_marked() -> None:
    assert said(Engine, __call__=lambda self: None) == ""
    assert "__call__(batch), found ()" in said(Engine, __call__=override(lambda self: None))


def test_an_override_of_our_own_method() -> None:
    base = made(Engine, walk=lambda self: None)
    assert said(base, walk=override(lambda self: None)) == ""
    assert said((made(Other),), forward=override(lambda self: None)) == "", (
        "that library is followed by type checkers"
    )


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("size", property(override(lambda self: 2)), ""),
        ("size", functools.cached_property(override(lambda self: 2)), ""),
        ("kept", property(override(lambda self: 2)), ""),
        ("size", override(lambda self: 2), "expected a property as vllm.core.Engine.size, found a method"),
        (
            "run",
            property(override(lambda self: 2)),
            "expected a method as vllm.core.Engine.run, found a property",
        ),
        ("size", property(lambda self: 2), "found vllm.core.Engine.size; mark the override"),
        ("build", override(classmethod(lambda cls, settings: None)), ""),
        ("build", classmethod(override(lambda cls, settings: None)), ""),
        ("build", staticmethod(override(lambda settings: None)), ""),
        ("build", override(classmethod(lambda cls: None)), "build(settings), found ()"),
        ("build", override(lambda self, settings: None), "expected a class or static method"),
        ("build", classmethod(lambda cls, settings: None), "found vllm.core.Engine.build; mark the override"),
        ("name", staticmethod(override(lambda kind: None)), ""),
        ("name", staticmethod(override(lambda: None)), "name(kind), found ()"),
        ("label", property(override(lambda self: "ours")), ""),
    ],
)
def test_other_forms_of_methods(name: str, value: Any, problem: str) -> None:
    found = said(Engine, **{name: value})
    assert problem in found
    assert bool(problem) is bool(found)


def test_the_nearest_class_of_the_engine_counts() -> None:
    assert said(Engine, run=plain) == ""
    assert "as vllm.later.Later.run(batch, limit=1, extra=0), found (batch, limit=1)" in said(
        Later, run=plain
    )


def test_what_a_mixin_overrides_depends_on_what_stands_after_it() -> None:
    mixin = made(Engine, run=plain)
    assert override_problems(mixin) == []
    assert f"{OURS}.Ours.run: expected to be called as vllm.later.Later.run" in said((mixin, Later))


def test_a_decorated_function_keeps_its_signature() -> None:
    @functools.wraps(plain)
    def wrapper(*arguments: Any, **keywords: Any) -> None: ...

    assert said(Engine, run=wrapper) == ""
    assert "extra" in said(Later, run=wrapper)


class TestDecorating:
    def test_a_class_that_fits(self) -> None:
        cls = made(Engine, run=plain)
        assert not is_checked(cls)
        assert checked_overrides(cls) is cls
        assert is_checked(cls)
        assert not is_checked(made(cls)), "the mark is not inherited"

    def test_a_class_that_does_not(self) -> None:
        cls = made(Engine, walk=override(lambda self: None), run=lambda self: None)
        with pytest.raises(OverrideError) as refused:
            checked_overrides(cls)
        assert str(refused.value) == (
            "the plugin does not fit the installed engine: "
            f"{OURS}.Ours.walk: expected a method of vllm.core.Engine or its bases to override, found none; "
            f"{OURS}.Ours.run: expected no such method in the engine, found vllm.core.Engine.run; "
            "mark the override or rename ours"
        )
        assert not is_checked(cls)


def test_the_classes_of_a_package(monkeypatch: pytest.MonkeyPatch) -> None:
    package, module = ModuleType("a_plugin"), ModuleType("a_plugin.worker")
    package.__path__ = []
    for name, bases in (("Ours", (Engine,)), ("Alone", (object,)), ("Mixin", (Other,))):
        setattr(module, name, type(name, bases, {"__module__": "a_plugin.worker"}))
    vars(module).update({"Engine": Engine, "again": vars(module)["Ours"], "number": 1})
    found = type("Info", (), {"name": "a_plugin.worker"})
    monkeypatch.setitem(sys.modules, "a_plugin", package)
    monkeypatch.setitem(sys.modules, "a_plugin.worker", module)
    monkeypatch.setattr("pkgutil.walk_packages", lambda path, prefix: [found])
    assert engine_classes("a_plugin") == [vars(module)["Ours"]]
