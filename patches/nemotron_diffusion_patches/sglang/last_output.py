"""`Req.next_output_finishes_by_length`: a request that may emit nothing in its next step does not end with it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nemotron_diffusion_patches import Description
from nemotron_diffusion_patches.sglang import HookPatch, around

ABOUT = Description(
    name="last-output",
    targets=("sglang.srt.managers.schedule_batch.Req.next_output_finishes_by_length",),
    reason="the overlap schedule drops a request that is one token short of its limit while a step is under way; a "
    "request that waits for its block gets no token in that step and would never run again",
    upstream="every algorithm of SGLang emits at least one token per request and step",
    remove_when="a step may leave out a request",
)


def patch(may_wait: Callable[[Any], bool]) -> HookPatch:
    """`may_wait(req)` says whether a step may leave a request without a token, as one in block diffusion."""

    def next_output_finishes_by_length(original: Callable[..., Any], self: Any) -> bool:
        return bool(original(self)) and not may_wait(self)

    return around(ABOUT, next_output_finishes_by_length)
