"""A grammar small enough to check by hand."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np


class Automaton:
    """Allows after each state some tokens, each of which leads to a state; a state without tokens has ended.

    A `rules.constrain.DraftGrammar` that counts the masks it has made.
    """

    def __init__(self, vocab_size: int, edges: dict[int, dict[int, int]], start: int = 0) -> None:
        self.vocab_size, self.edges, self.state = vocab_size, edges, start
        self.masks = 0

    def follow(self, tokens: Sequence[int]) -> int:
        for count, token in enumerate(tokens):
            if token not in self.edges.get(self.state, {}):
                return count
            self.state = self.edges[self.state][token]
        return len(tokens)

    def allowed(self) -> np.ndarray | None:
        self.masks += 1
        tokens = self.edges.get(self.state)
        return None if not tokens else mask_of(self.vocab_size, tokens)


def mask_of(vocab_size: int, tokens: Iterable[int]) -> np.ndarray:
    """The bits of some tokens, int32 `[ceil(vocab_size / 32)]`."""
    words = np.zeros(-(-vocab_size // 32), dtype=np.uint32)
    for token in tokens:
        words[token // 32] |= np.uint32(1 << (token % 32))
    return words.view(np.int32)
