"""`GPUModelRunner.sample_tokens`: let the speculator's report travel with the step's output to the scheduler."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nemotron_diffusion_patches import Description, Patch

_MARK = "_nemotron_diffusion_step_report"
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

    def install() -> None:
        from vllm.v1.worker.gpu.model_runner import GPUModelRunner

        original = GPUModelRunner.sample_tokens

        def sample_tokens(self: Any, *arguments: Any, **keywords: Any) -> Any:
            output = original(self, *arguments, **keywords)
            report = take_report(self)
            if report is not None and output is not None:
                setattr(getattr(output, "model_runner_output", output), REPORT_ATTRIBUTE, report)
            return output

        GPUModelRunner.sample_tokens = sample_tokens
        setattr(GPUModelRunner, _MARK, True)

    def is_applied() -> bool:
        from vllm.v1.worker.gpu.model_runner import GPUModelRunner

        return bool(getattr(GPUModelRunner, _MARK, False))

    return Patch(ABOUT, install, is_applied)
