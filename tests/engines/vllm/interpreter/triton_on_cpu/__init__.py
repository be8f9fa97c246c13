"""Runs vLLM's Triton kernels on a machine without a GPU.

Model runner V2 of vLLM is written in Triton. With TRITON_INTERPRET=1 Triton executes its kernels in a NumPy
interpreter, but vLLM switches Triton off when no backend for the platform is installed. This package is such
a backend (`backend`). As a vLLM plugin it also mends the interpreter (`masks`), takes an attention
backend of a plugin (`attention`), replaces the kernels that
every step launches by plain functions (`kernels`) and can keep asynchronous scheduling on (`scheduling`).

It must be importable only where TRITON_INTERPRET=1 is set, because vLLM would otherwise try to compile with
it. It therefore is not installed: `tests/engines/vllm/launch.py` puts its folder on PYTHONPATH.
"""

from __future__ import annotations

import gc
import os

__all__ = ["register"]


def register() -> None:
    """vLLM plugin entry point: mend the interpreter and register the CPU kernels.

    Does nothing without TRITON_INTERPRET=1.
    """
    if os.environ.get("TRITON_INTERPRET") != "1":
        return
    from triton_on_cpu import attention, kernels, masks, scheduling

    masks.accept_integer_masks()
    scheduling.keep_async_scheduling()
    attention.take_custom_backend()
    kernels.register()
    gc.freeze()  # vLLM's eight full collections during start-up take seconds over the modules imported so far
