"""Grammars over chains of drafts: what SGLang's grammar backend allows behind each draft.

Each grammar walks over the drafts of its request once: it chooses them, and what it allows behind each masks the rows
of the verify forward. SGLang runs batches with a grammar without overlap, so grammars have taken in every step before.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from sglang.srt.constrained.base_grammar_backend import GrammarMask


class ChainGrammar:
    """The grammar of one request, walking over its drafts; a `decoding.constrain.DraftGrammar`."""

    def __init__(self, grammar: Any, masks: torch.Tensor) -> None:
        """`masks`, int32 `[W, ceil(V / 32)]` on the host, all bits set: row i becomes what may come behind i drafts."""
        self._grammar = grammar
        self._masks = masks
        self._words = masks.numpy()
        self._place = 0
        self._ended = False
        self._arrive()

    def follow(self, tokens: Sequence[int]) -> int:
        """Go on behind the leading tokens that may come, and return how many those are."""
        for count, token in enumerate(tokens):
            if self._ended or not (int(self._words[self._place, token // 32]) >> token % 32) & 1:
                return count
            self._grammar.accept_token(token)
            self._place += 1
            self._arrive()
        return len(tokens)

    def allowed(self) -> np.ndarray | None:
        """What may come next, int32 `[ceil(V / 32)]`; None behind the end."""
        return None if self._ended else self._words[self._place]

    def rewind(self) -> None:
        """Go back behind the seed."""
        if self._place:
            self._grammar.rollback(self._place)

    def _arrive(self) -> None:
        self._ended = bool(self._grammar.is_terminated())
        if not self._ended:
            self._grammar.fill_vocab_mask(self._masks, self._place)


class ChainGrammars:
    """The grammars of a decode batch."""

    def __init__(self, batch: Any, width: int) -> None:
        """`width`: the most rows a request of the batch has in the verify forward."""
        grammars = {row: req.grammar for row, req in enumerate(batch.reqs) if req.grammar is not None}
        self._any = next(iter(grammars.values()))
        size, vocab_size = len(batch.reqs), batch.sampling_info.vocab_size
        masks = self._any.allocate_vocab_mask(vocab_size=vocab_size, batch_size=size * width, device="cpu")
        self._masks = masks.view(size, width, -1)
        self.chains = {row: ChainGrammar(grammar, self._masks[row]) for row, grammar in grammars.items()}
        """The walking grammars by row of the batch."""

    def rewind(self) -> None:
        """Leave every grammar behind the seed of its request."""
        for chain in self.chains.values():
            chain.rewind()

    def mask(self, rows: torch.Tensor, width: int) -> Callable[[torch.Tensor], None]:
        """What masks logits `[R * width, V]` of the batch rows `rows` (int64 `[R]` on the device) in place."""
        masks = self._masks.to(rows.device, non_blocking=True)[rows, :width]
        return GrammarMask(self._any, masks.flatten(0, 1)).apply
