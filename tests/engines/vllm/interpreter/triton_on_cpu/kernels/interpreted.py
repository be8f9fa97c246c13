"""Keeps the kernels that were replaced, for the cases a replacement does not cover."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Iterable
from typing import Any

_originals: dict[str, Any] = {}


def remember(names: Iterable[str]) -> None:
    """Look up the kernels called `names` ("module.kernel") before they are replaced.

    Raises:
        AttributeError: this version of vLLM has no such kernel.
    """
    for name in names:
        module, _, attribute = name.rpartition(".")
        _originals.setdefault(name, getattr(importlib.import_module(module), attribute))


def original(name: str) -> Any:
    """Return the Triton kernel called `name`, to be launched as `original(name)[grid](*arguments)`."""
    if name not in _originals:
        remember([name])
    return _originals[name]


def covers(
    name: str,
    case: Callable[[tuple[Any, ...], dict[str, Any]], bool],
    grid: Callable[[tuple[Any, ...]], tuple[int, ...]],
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Decorate a replacement that covers only some cases; the kernel `name` itself does the others.

    `case(arguments, options)` says whether a launch is covered; `grid(arguments)` gives the kernel's launch
    grid, which vLLM does not pass on.
    """

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(function)
        def launch(*arguments: Any, **options: Any) -> None:
            if case(arguments, options):
                function(*arguments, **options)
            else:
                original(name)[grid(arguments)](*arguments, **options)

        return launch

    return decorate
