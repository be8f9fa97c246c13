"""Drafts that a grammar allows: each is the most likely token of those that may follow the drafts before it.

Masking drafts changes no answer: a draft is a proposal, and the verify forward decides by the grammar anyway. It keeps
acceptance from collapsing where the grammar forces the model off its way. One forward drafts all positions of a block,
so the logits of a draft do not depend on what was chosen before it; what the grammar allows does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import torch

MOST_REPLACED = 8
"""The most drafts of a block that are replaced: after so many that the model did not want, the next is hardly ever
accepted (`benchmarks.draft_policies`), and for each the host waits for the device once more."""

_WORD = 32


class DraftGrammar(Protocol):
    """What may follow an answer and some drafts of it."""

    def follow(self, tokens: Sequence[int]) -> int:
        """Advance past the leading tokens that are allowed, and return how many those are."""

    def allowed(self) -> np.ndarray | None:
        """What may come next, a bit for each token of the vocabulary: int32 `[ceil(V / 32)]`; None after the end."""


Likeliest = Callable[[list[tuple[int, int]], np.ndarray], list[int]]
"""Gives the most likely tokens that masks `[n, ceil(V / 32)]` allow, for n places (block, draft of it)."""


def constrain(
    blocks: Sequence[list[int]],
    likeliest: Likeliest,
    grammars: Sequence[DraftGrammar],
    most: int = MOST_REPLACED,
) -> list[bool]:
    """Replace, in place, the drafts of each block that its grammar forbids; return which blocks can continue.

    Masks are made for forbidden drafts only, and each round replaces one in every block that has one. Drafts after the
    end of an answer stay as they are, as do those from the first place where the grammar takes nothing, and those left
    once `most` were replaced; they will be rejected. A grammar is left after the last draft it allows.
    """
    places = [grammar.follow(drafts) for drafts, grammar in zip(blocks, grammars, strict=True)]
    open_blocks = [block for block, place in enumerate(places) if place < len(blocks[block])]
    for _ in range(most):
        masks = {block: mask for block in open_blocks if (mask := grammars[block].allowed()) is not None}
        if not masks:
            break
        tokens = likeliest([(block, places[block]) for block in masks], np.stack(list(masks.values())))
        open_blocks = []
        for block, token in zip(masks, tokens, strict=True):
            drafts, place = blocks[block], places[block]
            if token == drafts[place]:
                continue
            drafts[place] = token
            places[block] += grammars[block].follow(drafts[place:])
            if places[block] < len(drafts):
                open_blocks.append(block)
    return [place == len(drafts) for place, drafts in zip(places, blocks, strict=True)]


def likeliest_allowed(logits: torch.Tensor, masks: np.ndarray, mask_token_id: int) -> list[int]:
    """Return the most likely tokens of logits `[n, V]` that grammars' masks, int32 `[n, ceil(V / 32)]`, allow.

    The mask id is never returned for another. Waits for the device.
    """
    words = torch.from_numpy(masks).to(logits.device, non_blocking=True)
    bits = (words[:, :, None] >> torch.arange(_WORD, dtype=torch.int32, device=logits.device)) & 1
    forbidden = bits.flatten(1)[:, : logits.shape[1]] == 0
    forbidden[:, mask_token_id] = True
    tokens: list[int] = logits.masked_fill(forbidden, -torch.inf).argmax(1).tolist()
    return tokens
