"""Patches of SGLang, applied through its own hook registry when a plugin is loaded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from nemotron_diffusion_patches import Description, Patch

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


def around(about: Description, hook: Callable[..., Any]) -> HookPatch:
    """A patch of the one function that `about` names, by `hook(original, *arguments)`."""
    (target,) = about.targets

    def registered() -> bool:
        from sglang.srt.plugins.hook_registry import HookRegistry

        hooks = HookRegistry._hooks.get(target, ())
        return any(getattr(other, "__qualname__", "") == hook.__qualname__ for _, other, _ in hooks)

    def install() -> None:
        from sglang.srt.plugins.hook_registry import HookRegistry, HookType

        if not registered():
            HookRegistry.register(target, hook, HookType.AROUND)

    def is_applied() -> bool:
        from sglang.srt.plugins.hook_registry import HookRegistry

        return registered() and target in HookRegistry._patched

    return HookPatch(about, install, is_applied)
