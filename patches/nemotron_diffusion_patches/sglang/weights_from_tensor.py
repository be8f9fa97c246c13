"""`WeightUpdater.update_weights_from_tensor`: an error is an answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nemotron_diffusion_patches import Description
from nemotron_diffusion_patches.sglang import HookPatch, around

ABOUT = Description(
    name="weights-from-tensor",
    targets=(
        "sglang.srt.model_executor.model_runner_components.weight_updater.WeightUpdater.update_weights_from_tensor",
    ),
    reason="a tensor that the model does not take ends the scheduler",
    upstream="SGLang catches errors of updates over a distributed group and over IPC, not of these",
    remove_when="SGLang catches these too",
)


def patch(update: Callable[[Any, Callable[[], tuple[bool, str]]], tuple[bool, str]]) -> HookPatch:
    """`update(updater, run)` answers for SGLang, whose own update is `run()`."""

    def update_weights_from_tensor(
        original: Callable[..., tuple[bool, str]], self: Any, *arguments: Any, **keywords: Any
    ) -> tuple[bool, str]:
        return update(self, lambda: original(self, *arguments, **keywords))

    return around(ABOUT, update_weights_from_tensor)
