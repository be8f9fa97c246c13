"""`Worker.update_weights` and `Worker.finish_weight_update`: a transfer that fails leaves a model with weights."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from nemotron_diffusion_patches import Description, Patch
from nemotron_diffusion_patches.vllm import around

ABOUT = Description(
    name="weight-transfer",
    targets=tuple(
        f"vllm.v1.worker.gpu_worker.Worker.{name}" for name in ("update_weights", "finish_weight_update")
    ),
    reason="a transfer of weights that fails half way leaves a model without weights, of which every later step dies",
    upstream="vLLM closes the update without putting the old weights back",
    remove_when="vLLM puts the old weights back when an update fails",
    process="worker",
)


def patch(keeping: Callable[[Any], AbstractContextManager[None]]) -> Patch:
    """`keeping(worker)` is entered around each of the two calls."""

    def call(original: Callable[..., None], self: Any, *arguments: Any, **keywords: Any) -> None:
        with keeping(self):
            original(self, *arguments, **keywords)

    return around(ABOUT, call)
