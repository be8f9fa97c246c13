"""Drafts that a grammar allows: each the most likely one of those that may come behind the drafts before it.

Masking drafts changes no answer: a draft is a proposal, and the verify forward decides by the grammar anyway. It keeps
acceptance from collapsing where the grammar forces the model off its way. All positions of a block are drafted by one
forward, so the logits of a draft do not depend on what was chosen before it; what the grammar allows does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import torch

_WORD = 32


class DraftGrammar(Protocol):
    """What may come behind an answer and some drafts of it."""

    def follow(self, tokens: Sequence[int]) -> int:
        """Go on behind the leading tokens that may come, and return how many those are."""

    def allowed(self) -> np.ndarray | None:
        """What may come next, a bit for each token of the vocabulary: int32 `[ceil(V / 32)]`; None behind the end."""


Likeliest = Callable[[int, np.ndarray], int]
"""Gives the most likely token at a place among the drafts of those that a mask allows."""


def constrain(drafts: Sequence[int], likeliest: Likeliest, grammar: DraftGrammar) -> tuple[list[int], bool]:
    """Return the drafts with those replaced that the grammar forbids, and whether more may be drafted behind them.

    Masks are made for forbidden drafts only. Drafts behind the end of an answer stay as they are, as do those from a
    place on where the grammar takes nothing; they will be rejected. The grammar is left behind the last one it allows.
    """
    chosen, place = list(drafts), 0
    while True:
        place += grammar.follow(chosen[place:])
        if place == len(chosen):
            return chosen, True
        mask = grammar.allowed()
        token = None if mask is None else likeliest(place, mask)
        if token is None or token == chosen[place]:
            return chosen, False
        chosen[place] = token


def likeliest_allowed(logits: torch.Tensor, mask: np.ndarray, mask_token_id: int) -> int:
    """Return the most likely token of logits `[V]` that a grammar's mask, int32 `[ceil(V / 32)]`, allows.

    The mask id is never returned for another. Waits for the device.
    """
    words = torch.from_numpy(mask).to(logits.device, non_blocking=True)
    bits = (words[:, None] >> torch.arange(_WORD, dtype=torch.int32, device=logits.device)) & 1
    forbidden = bits.flatten()[: len(logits)] == 0
    forbidden[mask_token_id] = True
    return int(logits.masked_fill(forbidden, -torch.inf).argmax())
