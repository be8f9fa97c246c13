"""`VllmConfig.num_lookahead_tokens`: reserve KV slots for the block being drafted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nemotron_diffusion_patches import Description, Patch

_MARK = "_nemotron_diffusion_lookahead_slots"

ABOUT = Description(
    name="lookahead-slots",
    targets=("vllm.config.vllm.VllmConfig.num_lookahead_tokens",),
    reason="a draft forward writes the KV of the seed and of every mask past the scheduled tokens",
    upstream="vLLM derives the margin from the speculative methods it knows",
    remove_when="a speculator can state its own lookahead",
)


def patch(is_ours: Callable[[Any], bool]) -> Patch:
    """`is_ours(vllm_config)` says whether the engine runs our speculator."""

    def install() -> None:
        from vllm.config.vllm import VllmConfig

        original = VllmConfig.num_lookahead_tokens.fget

        def num_lookahead_tokens(self: Any) -> int:
            if is_ours(self):
                return int(self.num_speculative_tokens) + 1
            return int(original(self))

        VllmConfig.num_lookahead_tokens = property(num_lookahead_tokens)
        setattr(VllmConfig, _MARK, True)

    def is_applied() -> bool:
        from vllm.config.vllm import VllmConfig

        return bool(getattr(VllmConfig, _MARK, False))

    return Patch(ABOUT, install, is_applied)
