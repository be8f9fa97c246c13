"""`Req.update_spec_correct_drafts_histogram`: a step in which a request emits nothing is no verify step of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nemotron_diffusion_patches import Description
from nemotron_diffusion_patches.sglang import HookPatch, around

ABOUT = Description(
    name="waiting-requests",
    targets=("sglang.srt.managers.schedule_batch.Req.update_spec_correct_drafts_histogram",),
    reason="a diffusion request whose block still holds masks emits no token; SGLang would count -1 drafts",
    upstream="every algorithm of SGLang emits at least one token per request and step",
    remove_when="a step may leave out a request",
)


def patch() -> HookPatch:
    """Takes back what SGLang has counted for a request that waits for its block, one line before the histogram."""

    def update_spec_correct_drafts_histogram(
        original: Callable[..., Any], self: Any, num_correct_drafts: int
    ) -> None:
        if num_correct_drafts >= 0:
            original(self, num_correct_drafts)
            return
        self.spec_verify_ct -= 1
        self.spec_num_correct_drafts -= num_correct_drafts

    return around(ABOUT, update_spec_correct_drafts_histogram)
