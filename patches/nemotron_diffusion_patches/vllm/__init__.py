"""Patches of vLLM."""

from __future__ import annotations

import functools
import pkgutil
from collections.abc import Callable, Iterator
from typing import Any

from nemotron_diffusion_patches import Description, Patch

SUPPORTED = ">=0.32,<0.34"
"""The versions of vLLM that the patches and the plugin are written for; `pyproject.toml` asks for the same."""


def around(about: Description, hook: Callable[..., Any]) -> Patch:
    """A patch of each function that `about` names, by `hook(original, *arguments)`."""
    mark = f"_nemotron_diffusion_{about.name.replace('-', '_')}"

    def places() -> Iterator[tuple[Any, str]]:
        for target in about.targets:
            owner, _, name = target.rpartition(".")
            yield pkgutil.resolve_name(owner), name

    def is_wrapped(owner: Any, name: str) -> bool:
        return hasattr(getattr(owner, name), mark)

    def install() -> None:
        for owner, name in places():
            if not is_wrapped(owner, name):
                setattr(owner, name, _wrapped(getattr(owner, name), hook, mark))

    return Patch(about, install, lambda: all(is_wrapped(*place) for place in places()))


def _wrapped(original: Callable[..., Any], hook: Callable[..., Any], mark: str) -> Callable[..., Any]:
    @functools.wraps(original)
    def call(*arguments: Any, **keywords: Any) -> Any:
        return hook(original, *arguments, **keywords)

    setattr(call, mark, True)
    return call
