"""`Req.update_finish_state`: a step without a token does not look through the whole output for its end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nemotron_diffusion_patches import Description
from nemotron_diffusion_patches.sglang import HookPatch, around

ABOUT = Description(
    name="finish-check",
    targets=("sglang.srt.managers.schedule_batch.Req.update_finish_state",),
    reason="for a request that waits for its block SGLang would search all of its output for the end, at every step "
    "(2 ms at 16000 tokens)",
    upstream="`output_ids[-new_accepted_len:]` is the whole output at 0",
    remove_when="a step may leave out a request",
)


def patch() -> HookPatch:
    """Skips the search where there is no new token and nothing else that ends the request."""

    def update_finish_state(original: Callable[..., Any], self: Any, new_accepted_len: int = 1) -> Any:
        if new_accepted_len == 0 and not self.to_finish:
            return None
        return original(self, new_accepted_len)

    return around(ABOUT, update_finish_state)
