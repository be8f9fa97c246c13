"""Lets the interpreter take integer masks, as Triton's compiler does.

vLLM's grammar bitmask kernel loads and stores under an int32 mask. Triton 3.9's interpreter rejects it with
"mask has unsupported dtype". Not needed once the interpreter converts masks itself.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

_MARK = "_accepts_integer_masks"


def accept_integer_masks() -> None:
    """Convert every mask to bool before the interpreter sees it. Idempotent."""
    from triton.runtime.interpreter import InterpreterBuilder

    if getattr(InterpreterBuilder, _MARK, False):
        return
    InterpreterBuilder.create_masked_load = _with_bool_mask(InterpreterBuilder.create_masked_load, position=1)
    InterpreterBuilder.create_masked_store = _with_bool_mask(
        InterpreterBuilder.create_masked_store, position=2
    )
    setattr(InterpreterBuilder, _MARK, True)


def _with_bool_mask(method: Callable[..., Any], position: int) -> Callable[..., Any]:
    @functools.wraps(method)
    def wrapper(self: Any, *args: Any) -> Any:
        mask = args[position]
        if mask is not None and mask.data.dtype != bool:
            mask.data = mask.data.astype(bool)
        return method(self, *args)

    return wrapper
