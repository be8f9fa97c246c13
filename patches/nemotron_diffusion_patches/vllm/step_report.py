"""`GPUModelRunner.sample_tokens`: let the speculator's report travel with the step's output to the scheduler."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nemotron_diffusion_patches import Description, Patch
from nemotron_diffusion_patches.vllm import around

REPORT_ATTRIBUTE = "nemotron_diffusion_report"

ABOUT = Description(
    name="step-report",
    targets=("vllm.v1.worker.gpu.model_runner.GPUModelRunner.sample_tokens",),
    reason="the scheduler must know which blocks are still being denoised and how many forwards they took",
    upstream="a speculator has no way to add to ModelRunnerOutput",
    remove_when="speculators can return their own statistics",
    process="worker",
)


def patch(take_report: Callable[[Any], object | None]) -> Patch:
    """`take_report(runner)` returns what is to travel (picklable), or None where our speculator is not in charge."""

    def sample_tokens(original: Callable[..., Any], self: Any, *arguments: Any, **keywords: Any) -> Any:
        output = original(self, *arguments, **keywords)
        report = take_report(self)
        if report is not None and output is not None:
            setattr(getattr(output, "model_runner_output", output), REPORT_ATTRIBUTE, report)
        return output

    return around(ABOUT, sample_tokens)
