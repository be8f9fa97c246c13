"""Changes to engine functions for which the engines offer no hook: one file per patched function.

A patch is described by data, from which `inventory` makes the tables of `docs/patches.md`. It is applied once,
however often `apply` is called, and does nothing for models other than ours.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Description:
    """What a person must know of a patch.

    Attributes:
        name: what `nemotron-diffusion doctor` and the logs call it.
        targets: dotted names of the engine's functions that it replaces.
        reason: why it is needed.
        upstream: what the engine does, so that no hook is enough.
        remove_when: the change of the engine that makes it unnecessary.
        process: the process that applies it where it is needed; None for all, at registration.
        versions: the versions of the engine that need it, as pip writes them; empty for all that are supported.
    """

    name: str
    targets: tuple[str, ...]
    reason: str
    upstream: str
    remove_when: str
    process: str | None = None
    versions: str = ""


@dataclass(frozen=True)
class Patch:
    """One patched engine function.

    `install` performs the change and is called only while `is_applied()` is False, so it need not be idempotent.
    """

    about: Description
    install: Callable[[], None]
    is_applied: Callable[[], bool]

    @property
    def name(self) -> str:
        """The name of its description."""
        return self.about.name

    @property
    def target(self) -> str:
        """The engine's functions that it replaces, as one text."""
        return ", ".join(self.about.targets)

    @property
    def reason(self) -> str:
        """Why it is needed."""
        return self.about.reason

    def apply(self) -> None:
        """Install the patch unless it is installed already; raises RuntimeError if it does not take effect."""
        if self.is_applied():
            return
        self.install()
        if not self.is_applied():
            raise RuntimeError(f"patch {self.name} of {self.target} did not take effect")
