"""An engine of a checkpoint that is or is not refused."""

from __future__ import annotations

from typing import Any

from vllm import LLM

ALWAYS: dict[str, Any] = {
    "dtype": "float32",
    "enforce_eager": True,
    "max_model_len": 256,
    "max_num_seqs": 8,
    "kv_cache_memory_bytes": 64 << 20,
}


def observe(folder: str, arguments: dict[str, Any]) -> None:
    LLM(folder, **{**ALWAYS, **arguments})
