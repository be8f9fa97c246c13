"""CPU functions for the Triton kernels that every step of model runner V2 launches.

Triton's interpreter takes 1 to 5 ms for each program of a kernel; the functions here take microseconds for
the whole grid. Each one takes its kernel's arguments, in the kernel's order, and leaves the same bits in the
same places (`tests/engines/vllm/kernels` compares both). What a function does not cover - sampling
with draft probabilities, context parallelism, watermarks - it hands to the kernel it replaces.

vLLM drops the launch grid on the way to a replacement, so the number of rows is read from the tensors.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

from triton_on_cpu.kernels import block_tables, drafting, inputs, logits, logprobs, sampling, verification
from triton_on_cpu.kernels.interpreted import remember

REPLACEMENTS: dict[str, Callable[..., object]] = {
    **block_tables.REPLACEMENTS,
    **drafting.REPLACEMENTS,
    **inputs.REPLACEMENTS,
    **logits.REPLACEMENTS,
    **logprobs.REPLACEMENTS,
    **sampling.REPLACEMENTS,
    **verification.REPLACEMENTS,
}

_registered = False


def register() -> None:
    """Hand all replacements to vLLM's kernel dispatcher. Idempotent."""
    global _registered
    if _registered:
        return
    from vllm.triton_utils.dispatcher import register_kernels

    remember(REPLACEMENTS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # the dispatcher looks at every name of every module
        register_kernels(REPLACEMENTS)
    _registered = True
