"""Drafts of requests with a grammar, chosen while the logits of their forward exist."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import numpy as np
import torch

from nemotron_diffusion_plugin.core import BlockRows
from nemotron_diffusion_plugin.rules.constrain import DraftGrammar, Likeliest, constrain, likeliest_allowed


class DraftWalk(ABC):
    """An engine's grammar on its way over drafts: a `rules.constrain.DraftGrammar` that can go back."""

    _advanced = 0

    def follow(self, tokens: Sequence[int]) -> int:
        """Move on over the leading tokens that may come, and return how many those are."""
        count = self.advance(tokens)
        self._advanced += count
        return count

    def rewind(self) -> None:
        """Go back to where the walk began."""
        if self._advanced:
            self.roll_back(self._advanced)
            self._advanced = 0

    @abstractmethod
    def advance(self, tokens: Sequence[int]) -> int:
        """Move the engine's grammar over the leading tokens that it takes, and return how many those are."""

    @abstractmethod
    def roll_back(self, count: int) -> None:
        """Take the last `count` tokens back."""

    @abstractmethod
    def allowed(self) -> np.ndarray | None:
        """What may come next, int32 `[ceil(V / 32)]`, valid until the next call; None after the end."""


class ConstrainedDrafts:
    """A `serving.picking.LogitsObserver` that replaces picks by what grammars allow; the host waits for the picks."""

    def __init__(
        self, slots: np.ndarray, blocks: BlockRows, walks: Mapping[int, DraftGrammar], mask_token_id: int
    ) -> None:
        """`slots` (host `[R]`) are the request slots of the forward's blocks, `walks` the grammars of some of them."""
        self._mask_token_id = mask_token_id
        # The seed's row, the first of a block, drafts nothing.
        self._open = {
            int(slot): (int(blocks.offsets[place]) + 1, int(blocks.offsets[place + 1]))
            for place, slot in enumerate(slots)
            if int(slot) in walks
        }
        self._walks = walks

    def see(self, first: int, logits: torch.Tensor, tokens: torch.Tensor) -> None:
        """Replace, in place, the tokens of drafts that their grammar forbids."""
        parts = {
            slot: slice(max(begin - first, 0), min(end - first, len(tokens)))
            for slot, (begin, end) in self._open.items()
            if begin - first < len(tokens) and end > first
        }
        if not parts:
            return
        picked = tokens.cpu()
        drafts = [picked[rows].tolist() for rows in parts.values()]
        grammars = [self._walks[slot] for slot in parts]
        begins = [rows.start for rows in parts.values()]
        goes_on = constrain(drafts, self._likeliest(logits, begins), grammars)
        for slot, rows, chosen, more in zip(parts, parts.values(), drafts, goes_on, strict=True):
            if chosen != picked[rows].tolist():
                tokens[rows] = torch.tensor(chosen, device=tokens.device)
            if not more:
                del self._open[slot]

    def _likeliest(self, logits: torch.Tensor, begins: list[int]) -> Likeliest:
        def likeliest(places: list[tuple[int, int]], masks: np.ndarray) -> list[int]:
            rows = [begins[block] + place for block, place in places]
            return likeliest_allowed(logits[rows], masks, self._mask_token_id)

        return likeliest
