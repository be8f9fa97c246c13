"""Lets asynchronous scheduling, the default on a GPU, be tested on a CPU.

vLLM's CPU platform switches it off. With VLLM_CPU_ASYNC_SCHEDULING=1 the engine keeps what it decided before.
"""

from __future__ import annotations

import os
from typing import Any

VARIABLE = "VLLM_CPU_ASYNC_SCHEDULING"
_MARK = "_keeps_async_scheduling"


def keep_async_scheduling() -> None:
    """Undo the CPU platform's choice where the variable is 1. Idempotent."""
    if os.environ.get(VARIABLE) != "1":
        return
    from vllm.platforms.cpu import CpuPlatform

    if getattr(CpuPlatform, _MARK, False):
        return
    original = CpuPlatform.check_and_update_config.__func__

    def check_and_update_config(cls: Any, vllm_config: Any) -> None:
        decided = vllm_config.scheduler_config.async_scheduling
        original(cls, vllm_config)
        vllm_config.scheduler_config.async_scheduling = decided

    CpuPlatform.check_and_update_config = classmethod(check_and_update_config)
    setattr(CpuPlatform, _MARK, True)
