"""Frequency, presence and repetition penalties, exact also among drafts.

SGLang adds up penalties once per engine step and one token at a time; with several tokens a step, and with the overlap
schedule's lag, its sums are late. Here the tokens of each request are counted where they are accepted, and a draft
counts for the rows after it.
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
    """How often each slot's request has emitted each token; only requests with penalties take memory for it."""

    def __init__(self, slots: int, vocab_size: int, device: torch.device) -> None:
        self.active = np.zeros(slots, dtype=bool)
        self._weights = np.zeros((slots, len(NEUTRAL)), dtype=np.float32)
        self._vocab_size = vocab_size
        self._device = device
        self._counts: dict[int, torch.Tensor] = {}

    def take(self, slot: int, params: Any, emitted: Sequence[int]) -> None:
        """Take over a slot for a request that has emitted some tokens already."""
        self.active[slot] = has_penalties(params)
        self._counts.pop(slot, None)
        if not self.active[slot]:
            return
        self._weights[slot] = [getattr(params, name) for name in NEUTRAL]
        ids = torch.tensor(list(emitted), dtype=torch.int64, device=self._device)
        self._counts[slot] = torch.bincount(ids, minlength=self._vocab_size).to(torch.int32)

    def add(self, slots: np.ndarray, tokens: torch.Tensor, lengths: torch.Tensor) -> None:
        """Count the first `lengths` (int64 `[R]`) of the tokens int64 `[R, W]` that each slot emits."""
        column = torch.arange(tokens.shape[1], device=self._device)
        for row in np.flatnonzero(self.active[slots]):
            real = (column < lengths[row]).to(torch.int32)
            self._counts[int(slots[row])].index_put_((tokens[row],), real, accumulate=True)

    def apply(self, slot: int, logits: torch.Tensor, chain: torch.Tensor) -> None:
        """Penalise a request's causal logits `[W, V]` in place; `chain` int64 `[W]` are its seed and drafts."""
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
