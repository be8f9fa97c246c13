"""`Req.reset_for_retract`: a diffusion request resumes at the border of its block."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nemotron_diffusion_patches import Description
from nemotron_diffusion_patches.sglang import HookPatch, around

ABOUT = Description(
    name="retraction",
    targets=("sglang.srt.managers.schedule_batch.Req.reset_for_retract",),
    reason="the prefill of a retracted request emits a causal token, which would shift every later block",
    upstream="SGLang prefills prompt and output and samples the next token in the same forward",
    remove_when="a worker can say what the prefill of a resumed request emits",
)


def patch(give_back_seed: Callable[[Any], None]) -> HookPatch:
    """`give_back_seed(req)` is called before a request is reset; it does nothing for requests that are not ours."""

    def reset_for_retract(original: Callable[..., Any], self: Any, *arguments: Any, **keywords: Any) -> Any:
        give_back_seed(self)
        return original(self, *arguments, **keywords)

    return around(ABOUT, reset_for_retract)
