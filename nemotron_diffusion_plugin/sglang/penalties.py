"""Frequency, presence and repetition penalties, exact also among drafts.

SGLang adds up penalties once per engine step and one token at a time; with several tokens a step, and with the overlap
schedule's lag, its sums are late. Here the tokens of each request are counted where they are accepted, and a draft
counts for the rows behind it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

NEUTRAL = {"frequency_penalty": 0.0, "presence_penalty": 0.0, "repetition_penalty": 1.0}


def has_penalties(params: Any) -> bool:
    """Whether a request's sampling parameters ask for a penalty."""
    return any(getattr(params, name) != neutral for name, neutral in NEUTRAL.items())


class OutputCounts:
    """How often each slot's request has emitted each token; the table is made for the first request that needs it."""

    def __init__(self, slots: int, vocab_size: int, device: torch.device) -> None:
        self.active = np.zeros(slots, dtype=bool)
        self._weights = np.zeros((slots, len(NEUTRAL)), dtype=np.float32)
        self._shape = (slots, vocab_size)
        self._device = device
        self._counts: torch.Tensor | None = None

    def take(self, slot: int, params: Any, emitted: Sequence[int]) -> None:
        """Take over a slot for a request that has emitted some tokens already."""
        self.active[slot] = has_penalties(params)
        if not self.active[slot]:
            return
        self._weights[slot] = [getattr(params, name) for name in NEUTRAL]
        if self._counts is None:
            self._counts = torch.zeros(self._shape, dtype=torch.int32, device=self._device)
        ids = torch.tensor(list(emitted), dtype=torch.int64, device=self._device)
        self._counts[slot] = torch.bincount(ids, minlength=self._shape[1]).to(torch.int32)

    def add(self, slots: np.ndarray, tokens: torch.Tensor, lengths: torch.Tensor) -> None:
        """Count the first `lengths` (int64 `[R]`) of the tokens int64 `[R, W]` that each slot emits."""
        rows = np.flatnonzero(self.active[slots])
        if not len(rows) or self._counts is None:
            return
        index = torch.from_numpy(slots[rows]).to(self._device)
        picked = torch.from_numpy(rows).to(self._device)
        column = torch.arange(tokens.shape[1], device=self._device)
        real = (column < lengths[picked, None]).to(torch.int32)
        self._counts.index_put_((index[:, None].expand_as(real), tokens[picked]), real, accumulate=True)

    def apply(self, slot: int, logits: torch.Tensor, chain: torch.Tensor) -> None:
        """Penalise a request's causal logits `[W, V]` in place; `chain` int64 `[W]` are its seed and drafts."""
        assert self._counts is not None
        width = len(chain)
        before = torch.tril(torch.ones(width, width, dtype=torch.bool, device=logits.device))
        before[:, 0] = False  # the seed is counted already
        row, column = before.nonzero(as_tuple=True)
        counts = self._counts[slot].repeat(width, 1)
        counts.index_put_((row, chain[column]), torch.ones_like(row, dtype=torch.int32), accumulate=True)
        frequency, presence, repetition = self._weights[slot].tolist()
        seen = counts > 0
        logits -= frequency * counts + presence * seen
        scaled = torch.where(logits < 0, logits * repetition, logits / repetition)
        logits.copy_(torch.where(seen, scaled, logits))
