"""`GPUModelRunner.execute_model`: let the block lengths that the scheduler has chosen reach the speculator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nemotron_diffusion_patches import Patch
from nemotron_diffusion_patches.vllm import SUPPORTED

_MARK = "_nemotron_diffusion_block_lengths"
LENGTHS_ATTRIBUTE = "nemotron_diffusion_block_lengths"


def patch(take_lengths: Callable[[Any, dict[str, int]], None]) -> Patch:
    """`take_lengths(runner, lengths)` gets what is attached to a step's `SchedulerOutput`, if anything is."""

    def install() -> None:
        from vllm.v1.worker.gpu.model_runner import GPUModelRunner

        original = GPUModelRunner.execute_model

        def execute_model(self: Any, scheduler_output: Any, *arguments: Any, **keywords: Any) -> Any:
            lengths = getattr(scheduler_output, LENGTHS_ATTRIBUTE, None)
            if lengths is not None:
                take_lengths(self, lengths)
            return original(self, scheduler_output, *arguments, **keywords)

        GPUModelRunner.execute_model = execute_model
        setattr(GPUModelRunner, _MARK, True)

    def is_applied() -> bool:
        from vllm.v1.worker.gpu.model_runner import GPUModelRunner

        return bool(getattr(GPUModelRunner, _MARK, False))

    return Patch(
        name="block-lengths",
        target="vllm.v1.worker.gpu.model_runner.GPUModelRunner.execute_model",
        reason="a draft must have as many rows as the scheduler has chosen for each request, no more",
        upstream="SchedulerOutput has one number of drafts for the whole batch, and a speculator does not see it",
        supported=SUPPORTED,
        remove_when="the number of drafts of each request is passed to the speculator",
        install=install,
        is_applied=is_applied,
    )
