"""How many tokens a cycle of a request gives, estimated from the cycles it has had."""

from __future__ import annotations

import numpy as np

MEMORY = 0.9
"""What a cycle's evidence is worth one cycle later."""

IDLE_MEMORY = 0.99
"""What it is worth after a step in which nothing was drafted."""

_RESTS_AT_ONCE = 8
"""Steps without a draft that are counted together: they change little, and all of a curve must be computed anew."""

_OWN_WEIGHT = 30.0
_POSITION_WEIGHT = 3.0
_POOL_MEMORY = 0.999
_POOL_WEIGHT = 30.0
PUBLISHED_ACCEPTANCE = 1.0 - 1.0 / 6.82
"""The chance of a draft to be accepted at which long blocks give the published acceptance length of 6.82 tokens."""


class AcceptancePool:
    """What all requests of a server have accepted: where the estimate of a new request starts."""

    def __init__(self) -> None:
        self._tried = self._passed = 0.0

    @property
    def rate(self) -> float:
        """The share of drafts that were accepted of those that were reached."""
        return (self._passed + _POOL_WEIGHT * PUBLISHED_ACCEPTANCE) / (self._tried + _POOL_WEIGHT)

    def observe(self, drafts: int, accepted: int) -> None:
        """Take in a cycle."""
        self._passed = self._passed * _POOL_MEMORY + accepted
        self._tried = self._tried * _POOL_MEMORY + min(accepted + 1, drafts)


class AcceptanceEstimate:
    """The chance of each draft of a block to be accepted once all before it were.

    Exponentially weighted counts by position. A position that was seldom reached leans on the request's own share over
    all positions, and that on the server's.
    """

    def __init__(self, most_drafts: int, pool: AcceptancePool) -> None:
        self._pool = pool
        self._tried = np.zeros(most_drafts)
        self._passed = np.zeros(most_drafts)
        self._tokens: np.ndarray | None = None
        self._rests = 0
        self.probing = False

    @property
    def evidence(self) -> float:
        """How many drafts the estimate rests on, faded ones in part."""
        return float(self._tried.sum()) * IDLE_MEMORY**self._rests

    def observe(self, drafts: int, accepted: int) -> None:
        """Take in a cycle that verified `drafts` drafts and accepted the first `accepted` of them.

        A probe that went well (half of its drafts) outweighs the history that made it necessary.
        """
        self._pool.observe(drafts, accepted)
        kept = 0.0 if self.probing and 2 * accepted >= drafts else MEMORY * IDLE_MEMORY**self._rests
        self._rests = 0
        self._tried *= kept
        self._passed *= kept
        self._tried[: min(accepted + 1, drafts)] += 1.0
        self._passed[:accepted] += 1.0
        self.probing = False
        self._tokens = None

    def rest(self) -> None:
        """Take in a step without a draft: what was seen before it counts less, as the text has moved on."""
        self._rests += 1
        if self._rests >= _RESTS_AT_ONCE:
            self._tried *= IDLE_MEMORY**self._rests
            self._passed *= IDLE_MEMORY**self._rests
            self._rests = 0
            self._tokens = None

    def tokens(self, lengths: np.ndarray) -> np.ndarray:
        """Return the expected tokens of a cycle for each block length of int `lengths`, 1.0 for a block of 1."""
        if self._tokens is None:
            own = (self._passed.sum() + _OWN_WEIGHT * self._pool.rate) / (self._tried.sum() + _OWN_WEIGHT)
            rate = (self._passed + _POSITION_WEIGHT * own) / (self._tried + _POSITION_WEIGHT)
            self._tokens = 1.0 + np.concatenate([[0.0], np.cumprod(rate).cumsum()])
        return self._tokens[lengths - 1]
