"""The policy of a server: its block lengths, and what it takes a forward to cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nemotron_diffusion_plugin.auto.choice import Engine, Others
from nemotron_diffusion_plugin.auto.costs import ForwardCosts
from nemotron_diffusion_plugin.auto.estimate import AcceptanceEstimate
from nemotron_diffusion_plugin.auto.policy import BlockPolicy, Candidate
from nemotron_diffusion_plugin.model.forward_cost import Precision, forward_cost
from nemotron_diffusion_plugin.model.hardware import GPUS
from nemotron_diffusion_plugin.model.shapes import ModelShape
from nemotron_diffusion_plugin.options import DecodingMode
from nemotron_diffusion_plugin.settings import MEASURED, TABLE, ServerSettings

_ESTIMATE = "_nemotron_diffusion_estimate"

EAGER_MS_PER_LAYER = 0.15
"""What the arithmetic takes the launches of a layer to last where a forward replays no CUDA graph. A guess."""

MASK_MS = 0.25
"""What the arithmetic takes xgrammar to need for a mask of `_MASK_VOCABULARY` tokens in a JSON schema. Measured."""

_MASK_VOCABULARY = 131072

EFFICIENCY = 0.75
"""The share of a data sheet's bandwidth and FLOP/s that the arithmetic counts on."""

DEFAULT_GPU = "h200"
_MOST_ROWS = 1 << 14


@dataclass(frozen=True)
class Drafting:
    """A request of the batch: the engine's object, its mode, the longest block it may draft, its cached tokens.

    `has_grammar` says whether a grammar masks its rows.
    """

    request: Any
    mode: DecodingMode
    block: int
    kv: int
    has_grammar: bool = False


def known_gpu(device_name: str) -> str:
    """The card whose data sheet stands for a device, `DEFAULT_GPU` for one that is not known."""
    return next((name for name in GPUS if name in device_name.lower()), DEFAULT_GPU)


def arithmetic_costs(hf_config: Any, device_name: str, tensor_parallel: int = 1) -> ForwardCosts:
    """What a forward should cost by shapes and data sheet, at `EFFICIENCY` (docs/roofline.md).

    Weights and KV count as 16 bits wide. Communication between ranks, launches and the host are not counted.
    """
    shape = _shape(hf_config)
    gpu = GPUS[known_gpu(device_name)].at(EFFICIENCY, EFFICIENCY)
    one, most = (forward_cost(shape.network, rows, 0, 1, Precision()) for rows in (1, _MOST_ROWS))
    read, compute = one.memory_time(gpu), most.compute_time(gpu) / _MOST_ROWS
    # Below the border a forward takes as long as reading the weights does, above it as long as computing the rows.
    border = max(2, round(read / compute))
    scale = 1e3 / tensor_parallel
    points = ((1, read * scale), (border, read * scale), (2 * border, 2 * read * scale))
    per_token = forward_cost(shape.network, 0, 1, 1, Precision()).kv_bytes / (gpu.bandwidth * 1e12)
    return ForwardCosts(
        points,
        points,
        per_token * scale,
        EAGER_MS_PER_LAYER * hf_config.num_hidden_layers,
        MASK_MS * hf_config.vocab_size / _MASK_VOCABULARY,
    )


def cached_token_share(hf_config: Any) -> float:
    """The bytes of a cached token's keys and values over those of the weights, both 16 bits wide."""
    network = _shape(hf_config).network
    weights = forward_cost(network, 0, 0, 1, Precision()).weight_bytes
    return forward_cost(network, 0, 1, 1, Precision()).kv_bytes / weights


def _shape(hf_config: Any) -> ModelShape:
    return ModelShape(
        "served",
        hidden=hf_config.hidden_size,
        intermediate=hf_config.intermediate_size,
        layers=hf_config.num_hidden_layers,
        heads=hf_config.num_attention_heads,
        kv_heads=hf_config.num_key_value_heads,
        head_dim=hf_config.head_dim,
        vocab=hf_config.vocab_size,
    )


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
            Candidate(self._estimate(one.request), one.block, one.kv, one.has_grammar) for one in requests
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
    drafted = [one for one in others if one.block > 1]
    blocks = np.array([min(one.block, policy.longest) for one in verified], dtype=np.int64)
    return Others(
        verify_rows=sum(one.block for one in verified),
        draft_rows=sum(one.block for one in drafted),
        verify_kv=sum(one.kv for one in verified),
        draft_kv=sum(one.kv for one in drafted),
        tokens=float(expected.tokens(blocks).sum()) + len(others) - len(verified),
        verify_widths=frozenset(one.block for one in verified),
        draft_widths=frozenset(one.block for one in drafted),
        masks=sum(one.block for one in verified if one.has_grammar),
    )
