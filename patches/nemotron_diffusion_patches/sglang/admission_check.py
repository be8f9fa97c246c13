"""`Scheduler.validate_dllm_request`: refuse what cannot be honoured with HTTP 400."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nemotron_diffusion_patches import Description
from nemotron_diffusion_patches.sglang import HookPatch, around

ABOUT = Description(
    name="admission-check",
    targets=("sglang.srt.managers.scheduler.Scheduler.validate_dllm_request",),
    reason="a decoding option that cannot be honoured is answered with 400 instead of being ignored, also in requests "
    "that do not come through the tokenizer manager",
    upstream="SGLang asks no plugin about a request; this method sees each one and its text becomes a 400",
    remove_when="a speculative algorithm can validate requests",
)


def patch(is_ours: Callable[[Any], bool], problem: Callable[[Any], str | None]) -> HookPatch:
    """`is_ours(spec_algorithm)` says whether our algorithm runs; `problem(req)` why a request is refused, or None."""

    def validate_dllm_request(original: Callable[..., Any], self: Any, req: Any) -> str | None:
        refused = problem(req) if is_ours(self.spec_algorithm) else None
        return refused if refused is not None else original(self, req)

    return around(ABOUT, validate_dllm_request)
