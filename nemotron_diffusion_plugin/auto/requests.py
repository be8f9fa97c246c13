"""The policy of a server over an engine's own request objects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nemotron_diffusion_plugin.auto.arithmetic import DEFAULT_GPU, arithmetic_costs, known_gpu
from nemotron_diffusion_plugin.auto.choice import Engine, Others
from nemotron_diffusion_plugin.auto.estimate import AcceptanceEstimate
from nemotron_diffusion_plugin.auto.policy import BlockPolicy, Candidate
from nemotron_diffusion_plugin.costs import ForwardCosts
from nemotron_diffusion_plugin.options import DecodingMode
from nemotron_diffusion_plugin.settings import MEASURED, TABLE, ServerSettings

_ESTIMATE = "_nemotron_diffusion_estimate"


@dataclass(frozen=True)
class Drafting:
    """A request of the batch: the engine's object, its mode, the longest block it may draft, its cached tokens.

    `has_grammar` says whether a grammar masks its rows.
    """

    request: Any
    mode: DecodingMode
    longest: int
    kv: int
    has_grammar: bool = False


def make_policy(
    settings: ServerSettings, hf_config: Any, device_name: str, tensor_parallel: int, engine: Engine
) -> BlockPolicy:
    """The policy of a server: by its table of costs, or by arithmetic until costs are measured."""
    arithmetic = arithmetic_costs(hf_config, device_name, tensor_parallel)
    costs = (settings.forward_costs or arithmetic).completed_by(arithmetic)
    return BlockPolicy(costs, settings.auto_blocks, engine)


def describe(settings: ServerSettings, device_name: str) -> str:
    """One line for the log: what auto chooses from, and by which costs."""
    blocks = ", ".join(map(str, reversed(settings.auto_blocks)))
    if settings.cost_source == TABLE:
        source = "the given table"
    elif settings.cost_source == MEASURED:
        source = "what forwards take here, measured at start"
    elif known_gpu(device_name) in device_name.lower():
        source = f"arithmetic for the {known_gpu(device_name).upper()}"
    else:
        source = (
            f"arithmetic for the {DEFAULT_GPU.upper()}, as '{device_name}' is not known; give forward_costs"
        )
    return f"auto chooses blocks of {blocks} or AR by {source}"


class AutoBlocks:
    """Chooses for an engine's own request objects, on which it keeps what each request has accepted."""

    def __init__(self, policy: BlockPolicy) -> None:
        self.policy = policy

    def adopt(self, costs: ForwardCosts) -> None:
        """Choose by these costs from now on; what they leave open stays as it was."""
        self.policy.costs = costs.completed_by(self.policy.costs)

    def choose(self, requests: Sequence[Drafting], others: Sequence[Drafting]) -> list[int]:
        """Return the block length of each of the `requests` in auto for its next cycle, beside the `others`."""
        if not requests:
            return []
        candidates = [
            Candidate(self._estimate(one.request), one.longest, one.kv, one.has_grammar) for one in requests
        ]
        return self.policy.decide(candidates, others_of(others, self.policy))

    def observe(self, request: Any, drafts: int, accepted: int) -> None:
        """Take in a verify forward that accepted the first `accepted` of a request's `drafts`."""
        if drafts > 0:
            self._estimate(request).observe(drafts, accepted)

    def _estimate(self, request: Any) -> AcceptanceEstimate:
        estimate: AcceptanceEstimate | None = getattr(request, _ESTIMATE, None)
        if estimate is None:
            estimate = self.policy.estimate()
            setattr(request, _ESTIMATE, estimate)
        return estimate


def others_of(others: Sequence[Drafting], policy: BlockPolicy) -> Others:
    """What requests with a mode of their own add to a step.

    A diffusion request counts as one that denoises beside the drafts and gives a token a step.
    """
    expected = policy.estimate()
    verified = [one for one in others if one.mode is not DecodingMode.DIFFUSION]
    drafted = [one for one in others if one.longest > 1]
    lengths = np.array([min(one.longest, policy.longest) for one in verified], dtype=np.int64)
    return Others(
        verify_rows=sum(one.longest for one in verified),
        draft_rows=sum(one.longest for one in drafted),
        verify_kv=sum(one.kv for one in verified),
        draft_kv=sum(one.kv for one in drafted),
        tokens=float(expected.tokens(lengths).sum()) + len(others) - len(verified),
        verify_lengths=frozenset(one.longest for one in verified),
        draft_lengths=frozenset(one.longest for one in drafted),
        masks=sum(one.longest for one in verified if one.has_grammar),
    )
