"""What engine core and worker tell each other with each step: the plan of its drafts, and what was denoised."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from nemotron_diffusion_plugin.costs import ForwardCosts

if TYPE_CHECKING:
    import numpy as np
    import torch

    from nemotron_diffusion_plugin.vllm.grammar import RequestGrammar, VllmDraftWalk


@dataclass
class DraftPlan:
    """What a step's `SchedulerOutput` carries for the speculator.

    Attributes:
        lengths: the block length, by request id, of each request in auto that drafts after the step.
        grammars: the grammars, by request id, that drafts are to keep to. They do not leave the scheduler's process: a
            worker in another one (tensor parallelism) gets none and drafts freely.
    """

    lengths: dict[str, int] = field(default_factory=dict)
    grammars: dict[str, RequestGrammar] = field(default_factory=dict)

    def walks(
        self, rows: np.ndarray, request_ids: Sequence[str], output: Any | None, num_sampled: torch.Tensor
    ) -> Mapping[int, VllmDraftWalk]:
        """The grammars of the batch rows `rows` (host) that draft, by row.

        They stand after what the step has sampled: its sampler's `output`, `num_sampled` int `[R]` tokens of each row.
        """
        from nemotron_diffusion_plugin.vllm.grammar import SampledTokens

        constrained = [row for row in rows.tolist() if request_ids[row] in self.grammars]
        if not constrained or output is None:
            return {}
        sampled = SampledTokens(output.sampled_token_ids, num_sampled)
        return {row: self.grammars[request_ids[row]].after(sampled, row) for row in constrained}

    def __getstate__(self) -> dict[str, Any]:
        return {"lengths": self.lengths, "grammars": {}}


@dataclass
class DenoiseReport:
    """The denoising done since the last report.

    Attributes:
        denoise_steps: request id and denoise steps of each block that was finished; a step may finish one before its
            verify forward and the next one after it.
        denoising: ids of the requests whose block still holds masks.
        bidirectional_forwards: forwards of the whole batch.
        forward_costs: what was measured at start, in the first report.
    """

    denoise_steps: list[tuple[str, int]] = field(default_factory=list)
    denoising: frozenset[str] = frozenset()
    bidirectional_forwards: int = 0
    forward_costs: ForwardCosts | None = None
