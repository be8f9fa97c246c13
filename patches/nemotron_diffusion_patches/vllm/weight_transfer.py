"""`Worker.update_weights` and `Worker.finish_weight_update`: a transfer that fails leaves a model with weights."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from nemotron_diffusion_patches import Description, Patch

_MARK = "_nemotron_diffusion_weight_transfer"
_WORKER = "vllm.v1.worker.gpu_worker.Worker"
_NAMES = ("update_weights", "finish_weight_update")

ABOUT = Description(
    name="weight-transfer",
    targets=tuple(f"{_WORKER}.{name}" for name in _NAMES),
    reason="a transfer of weights that fails half way leaves a model without weights, of which every later step dies",
    upstream="vLLM closes the update without putting the old weights back",
    remove_when="vLLM puts the old weights back when an update fails",
    process="worker",
)


def patch(keeping: Callable[[Any], AbstractContextManager[None]]) -> Patch:
    """`keeping(worker)` is entered around each of the two calls."""

    def wrapped(original: Callable[..., None]) -> Callable[..., None]:
        def call(self: Any, *arguments: Any, **keywords: Any) -> None:
            with keeping(self):
                original(self, *arguments, **keywords)

        return call

    def install() -> None:
        from vllm.v1.worker.gpu_worker import Worker

        for name in _NAMES:
            setattr(Worker, name, wrapped(getattr(Worker, name)))
        setattr(Worker, _MARK, True)

    def is_applied() -> bool:
        from vllm.v1.worker.gpu_worker import Worker

        return bool(getattr(Worker, _MARK, False))

    return Patch(ABOUT, install, is_applied)
