"""What the worker tells the scheduler with each step's output."""

from __future__ import annotations

from dataclasses import dataclass, field

from nemotron_diffusion_plugin.auto.costs import ForwardCosts


@dataclass
class StepReport:
    """The denoising done since the last report.

    Attributes:
        denoise_steps: request id -> denoise steps of a block that was finished.
        denoising: ids of the requests whose block still holds masks.
        bidirectional_forwards: forwards of the whole batch.
        forward_costs: what was measured at start, in the first report.
    """

    denoise_steps: dict[str, int] = field(default_factory=dict)
    denoising: frozenset[str] = frozenset()
    bidirectional_forwards: int = 0
    forward_costs: ForwardCosts | None = None
