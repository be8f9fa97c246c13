"""`GPUModelRunner.execute_model`: let what the scheduler has planned for the drafts reach the speculator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nemotron_diffusion_patches import Description, Patch
from nemotron_diffusion_patches.vllm import around

PLAN_ATTRIBUTE = "nemotron_diffusion_plan"

ABOUT = Description(
    name="draft-plan",
    targets=("vllm.v1.worker.gpu.model_runner.GPUModelRunner.execute_model",),
    reason="a draft must have as many rows as the scheduler has chosen for each request, and tokens that the "
    "request's grammar allows",
    upstream="SchedulerOutput has one number of drafts for the whole batch and no grammars, and a speculator does "
    "not see it",
    remove_when="the number of drafts and the grammar of each request are passed to the speculator",
    process="worker",
)


def patch(take_plan: Callable[[Any, Any | None], None]) -> Patch:
    """`take_plan(runner, plan)` gets what is attached to a step's `SchedulerOutput`, None where nothing is."""

    def execute_model(
        original: Callable[..., Any], self: Any, scheduler_output: Any, *arguments: Any, **keywords: Any
    ) -> Any:
        take_plan(self, getattr(scheduler_output, PLAN_ATTRIBUTE, None))
        return original(self, scheduler_output, *arguments, **keywords)

    return around(ABOUT, execute_model)
