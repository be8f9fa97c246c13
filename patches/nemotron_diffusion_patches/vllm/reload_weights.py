"""`GPUModelRunner.reload_weights`: check a checkpoint before the weights make room for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nemotron_diffusion_patches import Description, Patch
from nemotron_diffusion_patches.vllm import around

ABOUT = Description(
    name="reload-weights",
    targets=("vllm.v1.worker.gpu.model_runner.GPUModelRunner.reload_weights",),
    reason="a reload that fails leaves a model without weights, of which every later step dies; and the drafter LoRA "
    "is not among the files that vLLM reads",
    upstream="vLLM takes the weights away before it reads the first new one, and puts nothing back after an error",
    remove_when="a model is asked before its weights are reloaded, and keeps them after an error",
    process="worker",
)


def patch(reload: Callable[[Any, Callable[[], None], bool, str | None], None]) -> Patch:
    """`reload(runner, run, is_from_disk, path)` calls `run()`, vLLM's own; `path` is None for the folder of before."""

    def reload_weights(
        original: Callable[..., None],
        self: Any,
        weights_iterator: Any = None,
        weights_path: str | None = None,
        is_checkpoint_format: bool = True,
    ) -> None:
        def run() -> None:
            original(self, weights_iterator, weights_path, is_checkpoint_format)

        reload(self, run, weights_iterator is None, weights_path)

    return around(ABOUT, reload_weights)
