"""How every process recognises that our speculative algorithm is in charge."""

from __future__ import annotations

from typing import Any

ALGORITHM = "NEMOTRON_DIFFUSION"
"""The name under which `--speculative-algorithm` knows it; the architecture selects it by itself."""


def is_ours(spec_algorithm: Any) -> bool:
    """Whether an engine's speculative algorithm is ours (not Eagle3, n-gram or another one)."""
    return getattr(spec_algorithm, "name", None) == ALGORITHM
