"""Facts about the installed engine, as far as our code stands on them; no server is started."""

from __future__ import annotations

import ast
import contextlib
import hashlib
import importlib
import inspect
import pkgutil
import textwrap
import typing
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Any

from nemotron_diffusion_patches.inventory import descriptions
from nemotron_diffusion_plugin.serving.overrides import engine_classes
from tests.contracts import source

Facts = dict[str, dict[str, Any]]
"""By kind, then by name.

Kinds: `names` and `fields` (whether each is there), `overrides` (the chain of an engine's methods under one of ours),
`signatures` and `kernels` (parameters), `calls` (how the engine calls ours), `bodies` (a hash of each).
"""

CALLS = {
    "vllm": {"propose": "vllm.v1.worker.gpu.model_runner.GPUModelRunner"},
    "sglang": {"forward_batch_generation": "sglang.srt.managers.scheduler.Scheduler"},
}
"""Methods of ours, and the class of the engine that calls them."""


def version(engine: str) -> str:
    """The installed version, without what a build adds to it."""
    from packaging.version import Version

    module = importlib.import_module("vllm" if engine == "vllm" else "sglang.version")
    return Version(module.__version__).base_version


def gather(engine: str) -> Facts:
    """All facts about the engine that is installed here."""
    names = {name: resolve(name) is not None for name in sorted(source.imported(engine))}
    functions: dict[str, Any] = {}
    for name, is_there in names.items():
        value = resolve(name) if is_there else None
        if inspect.isfunction(value) and value.__module__.startswith(engine):
            functions[name.replace(":", ".")] = value
    for about in descriptions(engine):
        functions.update((target, found) for target in about.targets if (found := function_at(target)))
    overrides = {}
    for cls in engine_classes(f"nemotron_diffusion_plugin.{engine}"):
        for name in sorted(vars(cls)):
            chain = engine_methods(cls, name, engine)
            if chain:
                overrides[f"{cls.__module__}.{cls.__qualname__}.{name}"] = [
                    f"{owner}{parameters(function)}" for owner, function in chain
                ]
                functions.update(chain)
    chains = sorted(source.read(engine))
    functions.update((chain, method) for chain in chains if (method := method_at(chain)))
    kernels = dict(kernels_of(engine))
    functions.update((name, kernel.fn) for name, kernel in kernels.items())
    return {
        "names": names,
        "fields": {chain: walk(chain) is not None for chain in chains},
        "overrides": overrides,
        "signatures": {name: parameters(function) for name, function in sorted(functions.items())},
        "kernels": {name: list(kernel.arg_names) for name, kernel in sorted(kernels.items())},
        "calls": {name: calls(owner, name) for name, owner in CALLS[engine].items()},
        "bodies": {name: digest(function) for name, function in sorted(functions.items())},
    }


def resolve(name: str) -> Any:
    """What "module:name" or "module" stands for; None where there is nothing."""
    module, _, attribute = name.partition(":")
    try:
        found = importlib.import_module(module)
    except ImportError:
        return None
    if not attribute:
        return found
    if hasattr(found, attribute):
        return getattr(found, attribute)
    return resolve(f"{module}.{attribute}")


def function_at(target: str) -> Any:
    """The function with a dotted name, below the wrapper of a patch that is applied; None for what is none."""
    try:
        found = pkgutil.resolve_name(target)
    except (ImportError, AttributeError):
        return None
    return unwrapped(found)


def unwrapped(value: Any) -> Any:
    """The engine's function: below `property`, `classmethod`, decorators and the closures of our patches."""
    value = getattr(value, "fget", None) or getattr(value, "__func__", value)
    while inspect.isfunction(value):
        value = inspect.unwrap(value)
        inner = inspect.getclosurevars(value).nonlocals if value.__module__.startswith("nemotron") else {}
        below = inner.get("original")
        if below is None:
            return None if value.__module__.startswith("nemotron") else value
        value = getattr(below, "fget", None) or getattr(below, "__func__", below)
    return None


def engine_methods(cls: type, name: str, engine: str) -> list[tuple[str, Any]]:
    """Every class of the engine in the order of resolution that defines a method which a class of ours overrides."""
    if name.startswith("__") and name not in ("__init__", "__call__"):
        return []
    found = []
    for base in cls.__mro__[1:]:
        if base.__module__.split(".")[0] == engine and name in vars(base):
            function = unwrapped(vars(base)[name])
            if function is not None:
                found.append((f"{base.__module__}.{base.__qualname__}.{name}", function))
    return found


def parameters(function: Callable[..., Any]) -> str:
    """The parameters of a function, without annotations; `=` for a default."""
    bare = [
        parameter.replace(annotation=parameter.empty, default=parameter.default)
        for parameter in inspect.signature(function).parameters.values()
    ]
    shown = [str(p.replace(default=p.empty)) + ("=" if p.default is not p.empty else "") for p in bare]
    return f"({', '.join(shown)})"


def kernels_of(engine: str) -> Iterator[tuple[str, Any]]:
    """The engine's Triton kernels that the tests replace on a CPU, by name."""
    if engine != "vllm":
        return
    from triton_on_cpu.kernels import REPLACEMENTS
    from triton_on_cpu.kernels.interpreted import original

    for name in REPLACEMENTS:
        kernel = original(name)
        if hasattr(kernel, "arg_names"):
            yield name, kernel


def digest(function: Any) -> str:
    """A hash of what a function does: of its code without comments, docstring and layout."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and ast.get_docstring(
            node
        ):
            node.body = node.body[1:] or [ast.Pass()]
    return hashlib.sha256(ast.unparse(tree).encode()).hexdigest()[:16]


def calls(owner: str, method: str) -> list[str]:
    """How a class of the engine calls a method of ours: each call's arguments, in the order of the file."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(pkgutil.resolve_name(owner))))
    found = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == method
    ]
    return [", ".join([*map(ast.unparse, node.args), *map(ast.unparse, node.keywords)]) for node in found]


def walk(chain: str) -> tuple[Any, str] | None:
    """The class that holds the last field of "module.Class.field.field", and that field; None where one is missing.

    A field whose type is not known ends the walk: what is behind it is taken for granted.
    """
    words = chain.split(".")
    place = next(index for index, word in enumerate(words) if word[0].isupper())
    held: Any = resolve(f"{'.'.join(words[:place])}:{words[place]}")
    if held is None:
        return None
    owner, last = held, words[place]
    for word in words[place + 1 :]:
        if not isinstance(held, type) or held.__module__.split(".")[0] not in source.HOLDERS:
            break
        if word not in fields(held):
            return None
        owner, last, held = held, word, fields(held)[word]
    return owner, last


def method_at(chain: str) -> Any:
    """The method that ends a chain of fields; None where it ends in none, or is missing."""
    found = walk(chain)
    if found is None or not chain.endswith(f".{found[1]}"):
        return None
    value = inspect.getattr_static(found[0], found[1], None)
    return unwrapped(value) if inspect.isfunction(getattr(value, "fget", None) or value) else None


@cache
def fields(cls: type) -> Mapping[str, Any]:
    """The fields, methods and assigned attributes of a class, with the types that are known."""
    found: dict[str, Any] = dict.fromkeys(dir(cls), object)
    for base in reversed(cls.__mro__):
        if base.__module__ == "builtins":
            continue
        found.update(dict.fromkeys(assigned(base), object))
        found.update(dict.fromkeys(inspect.get_annotations(base), object))
    with contextlib.suppress(NameError, TypeError):  # annotations for type checkers only
        found.update({name: single(hint) for name, hint in typing.get_type_hints(cls).items()})
    return found


def assigned(cls: type) -> set[str]:
    """The attributes that the methods of a class assign on `self`."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(cls)))
    except (OSError, TypeError):
        return set()
    return {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.ctx, ast.Store)
        and isinstance(node.value, ast.Name)
        and node.value.id == "self"
    }


def single(hint: Any) -> Any:
    """The one class that a hint allows beside None; `object` where there are several."""
    options = [option for option in typing.get_args(hint) or (hint,) if option is not type(None)]
    return options[0] if len(options) == 1 else object
