"""Which implementation of an operator runs."""

from __future__ import annotations

import functools
import importlib.util
import os
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch

Backend = Literal["torch", "triton"]


@functools.cache
def has_triton() -> bool:
    """Return whether Triton is installed; it is not imported for that."""
    return importlib.util.find_spec("triton") is not None


def is_interpreted() -> bool:
    """Return whether Triton kernels run in Triton's interpreter, on tensors of any device."""
    return os.environ.get("TRITON_INTERPRET", "0") not in ("", "0")


def resolve(operator: str, backend: str | None, device: torch.device) -> Backend:
    """Return the backend of a call with tensors on `device`.

    None takes Triton on a GPU where Triton is installed, and torch elsewhere. A named backend is used as it is,
    or refused; there is no silent fallback.

    Raises:
        ValueError: `backend` is no known name.
        RuntimeError: Triton was asked for and cannot run here.
    """
    if backend is None:
        return "triton" if device.type == "cuda" and has_triton() else "torch"
    if backend == "torch":
        return "torch"
    if backend != "triton":
        raise ValueError(f"{operator}: got backend {backend!r}, expected 'torch', 'triton' or None")
    if not has_triton():
        raise RuntimeError(f"{operator}: Triton is not installed; install it or use backend='torch'")
    if device.type != "cuda" and not is_interpreted():
        raise RuntimeError(
            f"{operator}: backend 'triton' needs tensors on a GPU, got {device}; use backend='torch', or set "
            "TRITON_INTERPRET=1 before Triton is imported to run the kernel in its interpreter"
        )
    return "triton"
