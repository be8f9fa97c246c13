"""The policy of a running server: the best choice, step after step, with probes of what is not drafted for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nemotron_diffusion_plugin.auto.choice import Choice, Engine, Load, Others, best_choice, evaluate
from nemotron_diffusion_plugin.auto.estimate import AcceptanceEstimate, AcceptancePool
from nemotron_diffusion_plugin.costs import ForwardCosts

PROBE_SHARE = 0.02
"""The share of time that probes may cost."""

_FEW = 8


@dataclass(frozen=True)
class Candidate:
    """A request whose block length is chosen: what it accepts, its longest block, its cached tokens, a grammar."""

    estimate: AcceptanceEstimate
    longest: int
    kv: int
    has_grammar: bool = False


class BlockPolicy:
    """Chooses block lengths for one engine; the same calls give the same choices.

    A request that is not drafted for shows nothing of what it would accept now. Every step lays aside `PROBE_SHARE` of
    its expected time. Once that pays for it, a cycle of an eighth of such requests (at least 8), those that least is
    known of, is drafted, or one of all of them where that is cheaper (as CUDA graphs can make it), provided that it
    would pay if everything were accepted. So probes cost no more than their share whatever comes of them.
    """

    def __init__(self, costs: ForwardCosts, lengths: Sequence[int], engine: Engine | None = None) -> None:
        """`lengths` are the block lengths to choose from beside 1."""
        self.costs = costs
        self.lengths = np.array(sorted({1, *lengths}), dtype=np.int64)
        self.engine = engine or Engine()
        self.pool = AcceptancePool()
        self._current: int | None = None
        self._saved_ms = 0.0

    @property
    def longest(self) -> int:
        """The longest block that is ever chosen."""
        return int(self.lengths[-1])

    def estimate(self) -> AcceptanceEstimate:
        """What a new request starts with."""
        return AcceptanceEstimate(self.longest - 1, self.pool)

    def decide(self, candidates: Sequence[Candidate], others: Others | None = None) -> list[int]:
        """Return the block length of each request for its next cycle, at most its `longest`; 1 is AR."""
        if not candidates:
            return []
        load = self._load(candidates, others or Others())
        choice = best_choice(load, self.costs, self._current)
        self._current = choice.common
        choice = self._with_probes(load, choice, candidates)
        for row in np.flatnonzero(choice.places == 0):
            candidates[int(row)].estimate.rest()
        return load.rows[np.arange(len(candidates)), choice.places].tolist()

    def _load(self, candidates: Sequence[Candidate], others: Others) -> Load:
        longest = np.array([candidate.longest for candidate in candidates], dtype=np.int64)
        rows = np.minimum(self.lengths, longest[:, None])
        tokens = [candidate.estimate.tokens(row) for candidate, row in zip(candidates, rows, strict=True)]
        kv = np.array([candidate.kv for candidate in candidates], dtype=np.int64)
        grammar = np.array([candidate.has_grammar for candidate in candidates], dtype=bool)
        return Load(self.lengths, rows, np.stack(tokens), kv, grammar, others, self.engine)

    def _with_probes(self, load: Load, choice: Choice, candidates: Sequence[Candidate]) -> Choice:
        waiting = np.flatnonzero((choice.places == 0) & (load.rows[:, -1] > 1))
        if not len(waiting):
            return choice
        place = max(choice.common, 1)
        most = _drafted(load, self.costs, choice, waiting, place)
        missing = load.rows[waiting, place] - load.tokens[waiting, place]
        if (most.tokens + float(missing.sum())) / most.ms <= choice.speed:
            self._saved_ms = 0.0
            return choice
        evidence = [candidates[int(row)].estimate.evidence for row in waiting]
        few = waiting[np.argsort(evidence, kind="stable")][: max(_FEW, len(waiting) // _FEW)]
        probe = _drafted(load, self.costs, choice, few, place)
        waiting, probe = (waiting, most) if most.ms < probe.ms else (few, probe)
        self._saved_ms += PROBE_SHARE * choice.ms
        if self._saved_ms < probe.ms - choice.ms:
            return choice
        self._saved_ms = 0.0
        for row in waiting:
            candidates[int(row)].estimate.probing = True
        return probe


def _drafted(load: Load, costs: ForwardCosts, choice: Choice, rows: np.ndarray, place: int) -> Choice:
    """The choice with the requests `rows` drafted for as well, with the length at `place`."""
    places = choice.places.copy()
    places[rows] = place
    return evaluate(load, costs, places, choice.common)
