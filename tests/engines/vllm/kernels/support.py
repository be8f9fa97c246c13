"""A random batch, and the comparison of a replacement with the interpreted kernel."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

SLOTS = 9
VOCAB = 1300
LENGTH = 96


class Batch:
    """A random batch: some requests in their prompt, some decoding with 0 to 7 drafts."""

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        requests = int(self.random.integers(1, SLOTS))
        self.slots = self.random.permutation(SLOTS)[:requests].astype(np.int32)
        self.prefill = self.random.integers(4, 40, SLOTS).astype(np.int32)
        self.computed = np.empty(SLOTS, np.int32)
        queries, logits = [], []
        for slot in range(SLOTS):
            if self.random.random() < 0.4:
                self.computed[slot] = self.random.integers(0, self.prefill[slot])
            else:
                self.computed[slot] = self.random.integers(self.prefill[slot], LENGTH - 10)
        for slot in self.slots:
            left = self.prefill[slot] - self.computed[slot]
            drafts = int(self.random.integers(0, 8))
            queries.append(int(self.random.integers(1, left + 1)) if left > 0 else drafts + 1)
            logits.append(1 if left > 0 else drafts + 1)
        self.query_start = np.concatenate([[0], np.cumsum(queries)]).astype(np.int32)
        self.cumulative = np.concatenate([[0], np.cumsum(logits)]).astype(np.int32)
        self.rows = int(self.query_start[-1])
        self.num_logits = int(self.cumulative[-1])
        self.expanded_slots = np.repeat(self.slots, logits)
        self.local = np.concatenate([np.arange(n) for n in logits]).astype(np.int32)
        self.lengths = np.zeros(SLOTS, np.int32)
        self.lengths[:requests] = self.computed[self.slots] + np.array(queries)
        self.tokens = self.random.integers(0, VOCAB, (SLOTS, LENGTH)).astype(np.int32)
        self.drafts = self.random.integers(0, VOCAB, (SLOTS, 8)).astype(np.int64)
        self.temperature = self.random.choice([0.0, 1.0, 0.7, 1.3], SLOTS).astype(np.float32)
        self.seeds = self.random.integers(-(2**62), 2**62, SLOTS)
        self.positions = self.random.integers(0, 2**20, self.num_logits)

    def logits(self, rows: int | None = None) -> torch.Tensor:
        values = self.random.normal(0, 3, (self.num_logits if rows is None else rows, VOCAB)).astype(
            np.float32
        )
        values[self.random.random(values.shape) < 0.01] = -np.inf
        values[:, 1::2][self.random.random((len(values), VOCAB // 2)) < 0.2] = 12.5  # ties
        return torch.from_numpy(values)

    def sampled(self) -> tuple[torch.Tensor, torch.Tensor]:
        counts = np.array([self.random.integers(0, n + 1) for n in np.diff(self.cumulative)], np.int32)
        tokens = self.random.integers(0, VOCAB, (len(self.slots), 8))
        return torch.from_numpy(tokens), torch.from_numpy(counts)


def kernels(name: str) -> tuple[Any, Any]:
    """Return the interpreted kernel and its replacement, both to be launched as kernel[grid](…)."""
    from triton_on_cpu.kernels import REPLACEMENTS
    from triton_on_cpu.kernels.interpreted import original
    from vllm.triton_utils.dispatcher import KernelOverride

    return original(name), KernelOverride(original(name), REPLACEMENTS[name])


def assert_same(
    monkeypatch: pytest.MonkeyPatch, name: str, call: Callable[..., Any], *arguments: Any, **options: Any
) -> None:
    """Call vLLM's launcher with each kernel on copies of the arguments; everything it wrote must agree."""
    outcomes = []
    module, _, attribute = name.rpartition(".")
    for kernel in kernels(name):
        monkeypatch.setattr(importlib.import_module(module), attribute, kernel)
        copies = [copy(argument) for argument in arguments]
        result = call(*copies, **{key: copy(value) for key, value in options.items()})
        outcomes.append([*tensors(result), *(value for item in copies for value in tensors(item))])
    for interpreted, replaced in zip(*outcomes, strict=True):
        assert interpreted.dtype == replaced.dtype
        np.testing.assert_array_equal(interpreted.numpy(), replaced.numpy())


def copy(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value.copy())
    return value.clone() if isinstance(value, torch.Tensor) else value


def tensors(value: Any) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    return [item for item in value if isinstance(item, torch.Tensor)] if isinstance(value, tuple) else []
