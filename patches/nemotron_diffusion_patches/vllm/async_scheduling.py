"""`NgramGPUTypes`, read by `VllmConfig.__post_init__`: allow asynchronous scheduling with our speculator."""

from __future__ import annotations

from typing import Literal, get_args

from nemotron_diffusion_patches import Description, Patch

ABOUT = Description(
    name="async-scheduling",
    targets=("vllm.config.vllm.NgramGPUTypes",),
    reason="asynchronous scheduling is refused for speculators outside the tree, though ours drafts on the device",
    upstream="vLLM lists the allowed methods by name",
    remove_when="a speculator can state that it supports asynchronous scheduling, or all do",
    versions="<0.33",
)


def patch(method: str) -> Patch:
    """Adds our speculative method to those whose drafts stay on the device; no other method is touched."""

    def install() -> None:
        import vllm.config.vllm as module

        names = (*get_args(module.NgramGPUTypes), method)
        module.NgramGPUTypes = Literal[names]

    def is_applied() -> bool:
        import vllm.config.vllm as module

        return method in get_args(module.NgramGPUTypes)

    return Patch(ABOUT, install, is_applied)
