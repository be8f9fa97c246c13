"""The commit rules of a batch (docs/model.md, 3.2)."""

from dataclasses import dataclass
from enum import IntEnum

import torch

BOUND_MINIMUM = 0.45
BOUND_FACTOR = 2.0
NO_STEP_BOUND = 0


class Rule(IntEnum):
    """The numbers in `Rules.kind`."""

    THRESHOLD = 0
    SCHEDULE = 1
    THRESHOLD_BOUND = 2
    CUMULATIVE_ERROR = 3
    FIXED = 4


@dataclass(frozen=True, slots=True)
class Rules:
    """The commit rule of each row.

    Attributes:
        kind: int64 `[R]`, a `Rule`.
        threshold: float32 `[R]`.
        steps: int64 `[R]`, the most denoise steps of a block, 0 for no bound.
        tokens_per_step: int64 `[R]`, for `Rule.FIXED`.
    """

    kind: torch.Tensor
    threshold: torch.Tensor
    steps: torch.Tensor
    tokens_per_step: torch.Tensor
