"""How every process recognises that our speculator is in charge."""

from __future__ import annotations

from typing import Any

SPECULATIVE_METHOD = "nemotron_diffusion"
SPECULATOR_CLASS = "nemotron_diffusion_plugin.vllm.worker.speculator.BlockSpeculator"
"""Named, not imported: only a worker loads it."""


def uses_block_speculator(vllm_config: Any) -> bool:
    """Whether this engine's speculative config names our speculator (not Eagle3, n-gram or another one)."""
    speculative = vllm_config.speculative_config
    return speculative is not None and is_block_speculator(speculative)


def is_block_speculator(speculative_config: Any) -> bool:
    """Whether a speculative config names our speculator."""
    return bool(speculative_config.method == SPECULATIVE_METHOD)


def device_name() -> str:
    """What vLLM calls the device, empty where there is no GPU."""
    from vllm.platforms import current_platform

    return (current_platform.get_device_name() or "") if current_platform.is_cuda() else ""
