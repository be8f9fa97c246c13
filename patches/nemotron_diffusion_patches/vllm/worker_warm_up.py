"""`Worker.compile_or_warm_up_model`: let the speculator time forwards once everything is compiled and captured."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from nemotron_diffusion_patches import Description, Patch

_NAME = "compile_or_warm_up_model"
_MARK = "_nemotron_diffusion_worker_warm_up"
_WORKERS = {"vllm.v1.worker.gpu_worker": "Worker", "vllm.v1.worker.cpu_worker": "CPUWorker"}

ABOUT = Description(
    name="worker-warm-up",
    targets=tuple(f"{module}.{name}.{_NAME}" for module, name in _WORKERS.items()),
    reason="what a forward takes can be measured only between the capture of CUDA graphs and the first request",
    upstream="a speculator is asked to capture its own graphs, before the target's are there and not on a CPU",
    remove_when="a speculator is called when its worker is warm",
    process="worker",
)


def patch(warmed_up: Callable[[Any], None]) -> Patch:
    """`warmed_up(runner)` is called in every worker when it is ready for its first step."""

    def install() -> None:
        for worker in _loaded():
            if not getattr(vars(worker)[_NAME], _MARK, False):
                setattr(worker, _NAME, _followed_by(vars(worker)[_NAME], warmed_up))

    def is_applied() -> bool:
        workers = _loaded()
        return bool(workers) and all(getattr(vars(worker)[_NAME], _MARK, False) for worker in workers)

    return Patch(ABOUT, install, is_applied)


def _loaded() -> list[type]:
    """The worker classes of this process: one module is loaded for the platform's."""
    modules = ((sys.modules.get(module), name) for module, name in _WORKERS.items())
    classes = [getattr(module, name) for module, name in modules if hasattr(module, name)]
    return [one for one in classes if _NAME in vars(one)]


def _followed_by(original: Callable[..., Any], warmed_up: Callable[[Any], None]) -> Callable[..., Any]:
    def compile_or_warm_up_model(self: Any, *arguments: Any, **keywords: Any) -> Any:
        times = original(self, *arguments, **keywords)
        warmed_up(self.model_runner)
        return times

    setattr(compile_or_warm_up_model, _MARK, True)
    return compile_or_warm_up_model
