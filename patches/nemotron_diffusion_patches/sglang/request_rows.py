"""`get_req_to_token_extra_context_len`: room for what a decode step reserves, near the context limit too."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nemotron_diffusion_patches import Description
from nemotron_diffusion_patches.sglang import HookPatch, around

ABOUT = Description(
    name="request-rows",
    targets=("sglang.srt.mem_cache.allocation_sizing.get_req_to_token_extra_context_len",),
    reason="a step reserves two blocks; at page size 1 SGLang leaves room for one, and the surplus of a request "
    "near the context limit leaks KV until the scheduler stops",
    upstream="SGLang widens the rows at page size 1 for its own UNO algorithm only",
    remove_when="the rows hold get_alloc_reserve_per_decode() for every algorithm",
)


def patch(algorithm: str) -> HookPatch:
    """`algorithm` is the name under which ours is registered."""

    def get_req_to_token_extra_context_len(original: Callable[..., Any]) -> int:
        from sglang.srt.mem_cache.allocation_sizing import get_alloc_page_size, get_alloc_reserve_per_decode
        from sglang.srt.runtime_context import get_spec

        extra = int(original())
        if get_spec().speculative_algorithm != algorithm:
            return extra
        return max(extra, get_alloc_reserve_per_decode() + get_alloc_page_size() - 1)

    return around(ABOUT, get_req_to_token_extra_context_len)
