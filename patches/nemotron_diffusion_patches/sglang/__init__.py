"""Patches of SGLang, applied through its own hook registry when a plugin is loaded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from nemotron_diffusion_patches import Patch

SUPPORTED = ">=0.5.23,<0.5.24"
"""The versions of SGLang that the patches and the plugin are written for; `pyproject.toml` asks for the same."""


@dataclass(frozen=True)
class HookPatch(Patch):
    """A patch that SGLang puts in place after all plugins have registered; it only logs what goes wrong then.

    So `apply` registers, and whether the hook is in place is asked when the model is built.
    """

    def apply(self) -> None:
        """Register the hook unless it is registered."""
        self.install()


def around(target: str, hook: Callable[..., Any], kind: str = "AROUND", **description: str) -> HookPatch:
    """A patch of the function `target` by `hook(original, *arguments)`, or as another kind of hook."""

    def install() -> None:
        from sglang.srt.plugins.hook_registry import HookRegistry, HookType

        registered = HookRegistry._hooks.get(target, ())
        if not any(getattr(other, "__qualname__", "") == hook.__qualname__ for _, other, _ in registered):
            HookRegistry.register(target, hook, HookType[kind])

    def is_applied() -> bool:
        from sglang.srt.plugins.hook_registry import HookRegistry

        registered = HookRegistry._hooks.get(target, ())
        ours = any(getattr(other, "__qualname__", "") == hook.__qualname__ for _, other, _ in registered)
        return ours and target in HookRegistry._patched

    return HookPatch(
        target=target, supported=SUPPORTED, install=install, is_applied=is_applied, **description
    )
