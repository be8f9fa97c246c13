"""`SamplingParams._validate_spec_decode`: take `min_p` and `logit_bias` beside our speculator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nemotron_diffusion_patches import Description, Patch
from nemotron_diffusion_patches.vllm import around

ABOUT = Description(
    name="sampling-parameters",
    targets=("vllm.sampling_params.SamplingParams._validate_spec_decode",),
    reason="min_p and logit_bias are refused beside every speculator, though ours processes the rows of drafts",
    upstream="the check knows the older model runner, which did not process the rows of drafts",
    remove_when="vLLM allows min_p and logit_bias with speculative decoding",
)


def patch(is_ours: Callable[[Any], bool]) -> Patch:
    """`is_ours(speculative_config)` says whether it names our speculator; it is never asked about None."""

    def _validate_spec_decode(original: Callable[..., None], self: Any, speculative_config: Any) -> None:
        if speculative_config is None or not is_ours(speculative_config):
            original(self, speculative_config)

    return around(ABOUT, _validate_spec_decode)
