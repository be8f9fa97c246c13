"""`ModelRunner.max_shared_logits_buffer_rows`: as many rows of logits as graphs can have."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nemotron_diffusion_patches import Description
from nemotron_diffusion_patches.sglang import HookPatch, around

ABOUT = Description(
    name="logits-rows",
    targets=("sglang.srt.model_executor.model_runner.ModelRunner.max_shared_logits_buffer_rows",),
    reason="SGLang sizes the buffer for a whole block of each request of a decode step, most of which is never used",
    upstream="the method is made to be overridden, but a plugin cannot subclass the model runner",
    remove_when="a graph runner can say how many rows of logits it has",
)


def patch(is_ours: Callable[[Any], bool], rows: Callable[[Any, int], int]) -> HookPatch:
    """`is_ours(spec_algorithm)` says whether our algorithm runs; `rows` is given the runner and SGLang's number."""

    def max_shared_logits_buffer_rows(original: Callable[..., int], self: Any) -> int:
        given = original(self)
        return rows(self, given) if is_ours(self.spec_algorithm) else given

    return around(ABOUT, max_shared_logits_buffer_rows)
