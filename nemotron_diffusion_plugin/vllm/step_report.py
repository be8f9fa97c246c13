"""What the worker tells the scheduler with each step's output."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class StepReport:
    """The denoising done since the last report.

    Attributes:
        denoise_steps: request id -> denoise steps of a block that was finished.
        denoising: ids of the requests whose block still holds masks.
        bidirectional_forwards: forwards of the whole batch.
    """

    denoise_steps: dict[str, int] = field(default_factory=dict)
    denoising: frozenset[str] = frozenset()
    bidirectional_forwards: int = 0
