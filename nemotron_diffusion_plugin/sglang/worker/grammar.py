"""Grammars over chains of drafts: what SGLang's grammar backend allows after each draft.

SGLang runs batches with a grammar without overlap, so grammars have followed every step before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch

from nemotron_diffusion_plugin.serving.constrained_drafts import DraftWalk


class SglangDraftWalk(DraftWalk):
    """The grammar of one request; it begins after the seed."""

    def __init__(self, grammar: Any, vocab_size: int) -> None:
        self._grammar = grammar
        self._mask = grammar.allocate_vocab_mask(vocab_size=vocab_size, batch_size=1, device="cpu")
        self._takes = self._try if _refuses_cleanly(grammar) else self._ask

    def advance(self, tokens: Sequence[int]) -> int:
        """See `DraftWalk.advance`."""
        for count, token in enumerate(tokens):
            if self._grammar.is_terminated() or not self._takes(token):
                return count
        return len(tokens)

    def roll_back(self, count: int) -> None:
        """See `DraftWalk.roll_back`."""
        self._grammar.rollback(count)

    def allowed(self) -> np.ndarray | None:
        """See `DraftWalk.allowed`."""
        if self._grammar.is_terminated():
            return None
        self._mask.fill_(-1)  # stays where nothing is constrained yet
        self._grammar.fill_vocab_mask(self._mask, 0)
        words: np.ndarray = self._mask[0].numpy()
        return words

    def _try(self, token: int) -> bool:
        try:
            self._grammar.accept_token(token)
        except ValueError:
            return False
        return True

    def _ask(self, token: int) -> bool:
        words = self.allowed()
        assert words is not None
        allowed = bool((int(words[token // 32]) >> token % 32) & 1)
        if allowed:
            self._grammar.accept_token(token)
        return allowed


def _refuses_cleanly(grammar: Any) -> bool:
    """Whether a refused token leaves a grammar as it was, so that no mask is needed to find out.

    So it is with xgrammar, unless tokens of a thought are forbidden too, which only masks tell.
    """
    from sglang.srt.constrained.xgrammar_backend import XGrammarGrammar

    inner = getattr(grammar, "grammar", grammar)
    return isinstance(inner, XGrammarGrammar) and not getattr(grammar, "enable_token_filter", False)


def walks_of(batch: Any, rows: Iterable[int]) -> dict[int, SglangDraftWalk]:
    """The grammars of the batch rows that have one, by row, ready to walk."""
    vocab_size = batch.sampling_info.vocab_size
    grammars = {row: batch.reqs[row].grammar for row in rows}
    return {row: SglangDraftWalk(one, vocab_size) for row, one in grammars.items() if one is not None}


Mask = Callable[[torch.Tensor], None]
"""Masks logits `[R * W, V]` in place."""


def begin_masks(batch: Any, rows: np.ndarray, chains: torch.Tensor) -> Callable[[], Mask] | None:
    """Begin to mask the verify rows of the chains int64 `[R, W]` (seed and drafts) of the batch rows `rows`.

    Called before the verify forward is launched; what it returns waits for nothing but the chains, and builds the masks
    on the host while the forward is under way. None where no request of the rows has a grammar. A draft that the
    grammar forbids is rejected, because the row before it cannot choose it.
    """
    from sglang.srt.speculative.spec_utils import GrammarTree, build_grammar_vocab_mask

    places = [place for place, row in enumerate(rows.tolist()) if batch.reqs[row].grammar is not None]
    if not places:
        return None
    reqs = [batch.reqs[int(rows[place])] for place in places]
    tree = GrammarTree.from_linear_chain(chains[places])

    def build() -> Mask:
        built = build_grammar_vocab_mask(
            reqs=reqs, tree=tree, sampling_info=batch.sampling_info, device=chains.device, barrier=None
        )
        return lambda logits: _apply(built, places, chains.shape, logits)

    return build


def _apply(built: Any, places: Sequence[int], shape: Sequence[int], logits: torch.Tensor) -> None:
    """Apply SGLang's `GrammarMask` over the chains at `places` to the logits of all chains, `shape` `[R, W]`."""
    requests, width = shape
    masks = built.vocab_mask.new_full((requests, width, built.vocab_mask.shape[-1]), -1)
    masks[list(places)] = built.vocab_mask.view(len(places), width, -1)
    built._replace(vocab_mask=masks.flatten(0, 1)).apply(logits)
