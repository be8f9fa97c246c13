"""Where Triton kernels can run."""

from __future__ import annotations

import functools
import importlib.util
import os


@functools.cache
def has_triton() -> bool:
    """Return whether Triton is installed; it is not imported for that."""
    return importlib.util.find_spec("triton") is not None


def is_interpreted() -> bool:
    """Return whether Triton kernels run in Triton's interpreter, on tensors of any device."""
    return os.environ.get("TRITON_INTERPRET", "0") not in ("", "0")


def check_triton(operator: str, device_type: str) -> None:
    """Check that a kernel can run on tensors of a type of device; nothing else takes its place where it cannot.

    Raises:
        RuntimeError: Triton is not installed, or there is neither a GPU nor Triton's interpreter.
    """
    if not has_triton():
        raise RuntimeError(f"{operator}: Triton is not installed; install it")
    if device_type != "cuda" and not is_interpreted():
        raise RuntimeError(
            f"{operator}: the kernel needs tensors on a GPU, got {device_type}; set TRITON_INTERPRET=1 before Triton "
            "is imported to run it in Triton's interpreter"
        )
