"""`WeightUpdater.update_weights_from_disk`: check a checkpoint before the first weight is replaced."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nemotron_diffusion_patches import Description
from nemotron_diffusion_patches.sglang import HookPatch, around

ABOUT = Description(
    name="weights-from-disk",
    targets=(
        "sglang.srt.model_executor.model_runner_components.weight_updater.WeightUpdater.update_weights_from_disk",
    ),
    reason="a checkpoint that cannot be served ends the scheduler, one with a tensor missing is taken; and the drafter "
    "LoRA is not among the files that SGLang reads",
    upstream="after an error SGLang reads the new files again, meaning to go back to the old ones",
    remove_when="a model is asked before its weights are updated",
)


def patch(update: Callable[[Any, str, Callable[[], tuple[bool, str]]], tuple[bool, str]]) -> HookPatch:
    """`update(updater, path, run)` answers for SGLang, whose own update is `run()`."""

    def update_weights_from_disk(
        original: Callable[..., tuple[bool, str]],
        self: Any,
        model_path: str,
        *arguments: Any,
        **keywords: Any,
    ) -> tuple[bool, str]:
        return update(self, model_path, lambda: original(self, model_path, *arguments, **keywords))

    return around(ABOUT, update_weights_from_disk)
