"""Lets `--attention-backend CUSTOM` be tested on a CPU, whose platform knows one backend only."""

from __future__ import annotations

from typing import Any

import torch

_MARK = "_takes_custom_backend"


def take_custom_backend() -> None:
    """Take the registered backend where the flag names it, and write its cache in plain torch. Idempotent."""
    from vllm import _custom_ops
    from vllm.logger import init_logger
    from vllm.platforms.cpu import CpuPlatform
    from vllm.v1.attention.backends.registry import AttentionBackendEnum

    if getattr(CpuPlatform, _MARK, False):
        return
    logger = init_logger("vllm.triton_on_cpu")
    original = CpuPlatform.get_attn_backend_cls.__func__

    def get_attn_backend_cls(cls: Any, selected_backend: Any, *arguments: Any, **keywords: Any) -> str:
        if selected_backend is AttentionBackendEnum.CUSTOM:
            logger.info("Using %s backend.", selected_backend)
            return str(selected_backend.get_path())
        return str(original(cls, selected_backend, *arguments, **keywords))

    CpuPlatform.get_attn_backend_cls = classmethod(get_attn_backend_cls)
    _custom_ops.reshape_and_cache_flash = reshape_and_cache_flash
    setattr(CpuPlatform, _MARK, True)


def reshape_and_cache_flash(
    key: torch.Tensor,
    value: torch.Tensor,
    key_cache: torch.Tensor,
    value_cache: torch.Tensor,
    slot_mapping: torch.Tensor,
    kv_cache_dtype: str,
    k_scale: torch.Tensor,
    v_scale: torch.Tensor,
) -> None:
    """Write `[T, KV heads, head_size]` into `[pages, page, KV heads, head_size]` where the slot is not negative."""
    if kv_cache_dtype != "auto":
        raise NotImplementedError(f"kv_cache_dtype: got {kv_cache_dtype}, expected auto on a CPU")
    rows = (slot_mapping >= 0).nonzero()[:, 0]
    slots, page = slot_mapping[rows], key_cache.shape[1]
    key_cache[slots // page, slots % page] = key[rows]
    value_cache[slots // page, slots % page] = value[rows]
