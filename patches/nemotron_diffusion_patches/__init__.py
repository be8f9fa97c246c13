"""Changes to engine functions for which the engines offer no hook: one file per patched function.

A patch says why it exists, which upstream change makes it unnecessary and when to remove it; it is applied once,
however often `apply` is called, and does nothing for models other than ours. `docs/patches.md` is the inventory.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Patch:
    """One patched engine function.

    `install` performs the change and is called only while `is_applied()` is False, so it need not be idempotent.
    """

    name: str
    target: str
    reason: str
    upstream: str
    supported: str
    remove_when: str
    install: Callable[[], None]
    is_applied: Callable[[], bool]

    def apply(self) -> None:
        """Install the patch unless it is installed already; raises RuntimeError if it does not take effect."""
        if self.is_applied():
            return
        self.install()
        if not self.is_applied():
            raise RuntimeError(f"patch {self.name} of {self.target} did not take effect")
