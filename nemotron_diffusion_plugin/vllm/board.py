"""Counters shared by the engine core, which writes them, and the API server, which shows them.

The scheduler statistics that vLLM sends to the API server have no room for a plugin's own numbers, so the scheduler
writes them into a small file of 64-bit counters that is named after the engine and removed with it.
"""

from __future__ import annotations

import os
import tempfile
import weakref
from pathlib import Path
from typing import Any

import numpy as np

from nemotron_diffusion_plugin.options import DecodingMode

PER_MODE = (
    "requests",
    "generated_tokens",
    "prefill_forwards",
    "draft_forwards",
    "denoise_forwards",
    "verify_forwards",
    "cycles",
    "accepted_drafts",
)
PER_ENGINE = ("causal_forwards", "bidirectional_forwards")
_SIZE = len(DecodingMode) * len(PER_MODE) + len(PER_ENGINE)
_ROW = {mode: index * len(PER_MODE) for index, mode in enumerate(DecodingMode)}


def board_path(vllm_config: Any) -> Path:
    """Where the counters of this engine (and of this data-parallel rank) lie."""
    rank = vllm_config.parallel_config.data_parallel_rank
    name = f"nemotron-diffusion-{os.getuid()}-{vllm_config.instance_id}-{rank}.counters"
    return Path(tempfile.gettempdir()) / name


def _index(name: str, mode: DecodingMode | None) -> int:
    if mode is None:
        return len(DecodingMode) * len(PER_MODE) + PER_ENGINE.index(name)
    return _ROW[mode] + PER_MODE.index(name)


class CounterBoard:
    """The writer's side; counters start at zero."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.unlink(missing_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            os.ftruncate(descriptor, _SIZE * 8)
        finally:
            os.close(descriptor)
        self._counts = np.memmap(path, dtype=np.int64, mode="r+", shape=(_SIZE,))
        self.close = weakref.finalize(self, path.unlink, missing_ok=True)
        """Removes the file, also when the process ends; a reader that has it open keeps the last values."""

    def add(self, name: str, mode: DecodingMode | None = None, amount: int = 1) -> None:
        """Raise a counter of `PER_MODE` (with its mode) or of `PER_ENGINE` (mode None)."""
        self._counts[_index(name, mode)] += amount


class BoardReader:
    """The reader's side; everything is zero until the writer has started."""

    def __init__(self, vllm_config: Any) -> None:
        self._vllm_config = vllm_config
        self._counts: np.ndarray | None = None

    def value(self, name: str, mode: DecodingMode | None = None) -> int:
        """The present value of a counter."""
        if self._counts is None:
            try:
                self._counts = np.memmap(
                    board_path(self._vllm_config), dtype=np.int64, mode="r", shape=(_SIZE,)
                )
            except (FileNotFoundError, ValueError):
                return 0
        return int(self._counts[_index(name, mode)])
