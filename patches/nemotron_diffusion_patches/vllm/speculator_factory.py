"""`spec_decode.init_speculator`: build our speculator where the config names it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from nemotron_diffusion_patches import Description, Patch

_MARK = "_nemotron_diffusion_speculator_factory"
_RUNNER = "vllm.v1.worker.gpu.model_runner"

ABOUT = Description(
    name="speculator-factory",
    targets=("vllm.v1.worker.gpu.spec_decode.init_speculator",),
    reason="runner V2 builds speculators from a closed list of methods",
    upstream="runner V2 does not load the class that method 'custom_class' names",
    remove_when="runner V2 loads the class that custom_class names",
)


def patch(is_ours: Callable[[Any], bool], make_speculator: Callable[..., object]) -> Patch:
    """`make_speculator(vllm_config, device, req_states)` builds ours where `is_ours(vllm_config)`."""

    def install() -> None:
        import vllm.v1.worker.gpu.spec_decode as module

        original = module.init_speculator

        def init_speculator(vllm_config: Any, device: Any, req_states: Any) -> object:
            if is_ours(vllm_config):
                return make_speculator(vllm_config, device, req_states)
            return original(vllm_config, device, req_states)

        module.init_speculator = init_speculator
        setattr(module, _MARK, True)
        runner = sys.modules.get(_RUNNER)
        if runner is not None:
            runner.init_speculator = init_speculator  # type: ignore[attr-defined]

    def is_applied() -> bool:
        import vllm.v1.worker.gpu.spec_decode as module

        runner = sys.modules.get(_RUNNER)
        copied = runner is None or runner.init_speculator is module.init_speculator
        return bool(getattr(module, _MARK, False)) and copied

    return Patch(ABOUT, install, is_applied)
