"""Which masked positions a denoise step commits (docs/model.md, 3.2)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from nemotron_diffusion_plugin.options import CommitRule, DecodingOptions

BOUND_MINIMUM = 0.45
BOUND_FACTOR = 2.0

_KINDS = tuple(CommitRule)
_NO_BOUND = 0
_UNDEFINED, _NOT_MASKED = -1.0, -2.0  # ranks below every probability


@dataclass
class CommitRules:
    """The commit rule of each row.

    Attributes:
        kind: int64 `[R]`, the index of the `CommitRule` in its declaration.
        threshold: float32 `[R]`.
        steps: int64 `[R]`, the most denoise steps, 0 for no bound.
        tokens_per_step: int64 `[R]`, for the rule `fixed`.
    """

    kind: torch.Tensor
    threshold: torch.Tensor
    steps: torch.Tensor
    tokens_per_step: torch.Tensor

    @classmethod
    def of(cls, options: Sequence[DecodingOptions], device: torch.device | str = "cpu") -> "CommitRules":
        """Return the rules that a batch of requests asked for."""
        return cls(
            torch.tensor(
                [_KINDS.index(row.commit_rule) for row in options], dtype=torch.int64, device=device
            ),
            torch.tensor([row.threshold for row in options], dtype=torch.float32, device=device),
            torch.tensor([_step_bound(row) for row in options], dtype=torch.int64, device=device),
            torch.tensor(
                [min(row.tokens_per_step, row.block_size) for row in options],
                dtype=torch.int64,
                device=device,
            ),
        )

    def put(self, row: int, options: DecodingOptions) -> None:
        """Set the rule of one row."""
        self.kind[row] = _KINDS.index(options.commit_rule)
        self.threshold[row] = options.threshold
        self.steps[row] = _step_bound(options)
        self.tokens_per_step[row] = min(options.tokens_per_step, options.block_size)

    def at(self, index: torch.Tensor) -> "CommitRules":
        """The rules of the rows `index`, int64 `[R]`."""
        return CommitRules(
            self.kind[index], self.threshold[index], self.steps[index], self.tokens_per_step[index]
        )


def choose(
    confidence: torch.Tensor,
    masked: torch.Tensor,
    step: torch.Tensor,
    num_masks: torch.Tensor,
    rules: CommitRules,
) -> torch.Tensor:
    """Return the positions to commit, bool `[R, B]`, always among the masked ones.

    Let p_0 >= p_1 >= ... be the confidences of a row's masked positions, equal ones from the lowest position on and
    NaN after all others, and k a place in that order. With N masks at the start and T steps (N without a bound), step
    t schedules n = N // T + [t < N mod T] positions. Place k commits if k = 0, or k < n, or by the row's rule:

        threshold          p_k >= threshold
        schedule           nothing else
        threshold bound    p_k >= threshold, or p_k >= 0.45 and p_k >= 1 - 2 / (k + 2)
        cumulative error   p_0 p_1 ... p_k >= threshold
        fixed              k < tokens_per_step

    So every step commits a token, and a step bound holds. The product is computed in float64 and rounded to float32
    once: in float32 its rounding would depend on the device. A NaN reaches no threshold, nor does a product with one.
    It commits only where no other mask is left, or where the schedule or the fixed number reaches past them.

    Args:
        confidence: float32 `[R, B]`, softmax probability of the token picked at each position; what it is at
            positions without a mask does not matter.
        masked: bool `[R, B]`.
        step: int64 `[R]`, denoise steps done before.
        num_masks: int64 `[R]`, masks of the block at its start.
        rules: one rule per row.
    """
    ranked = torch.where(confidence.isnan(), _UNDEFINED, confidence).where(masked, _NOT_MASKED)
    sorted_confidence, order = ranked.sort(dim=1, descending=True, stable=True)
    rank = order.argsort(dim=1)

    def rows(values: torch.Tensor) -> torch.Tensor:
        return values[:, None]

    place = torch.arange(confidence.shape[1], device=confidence.device)[None]
    threshold = rows(rules.threshold)
    certain = sorted_confidence >= threshold
    bounded = (sorted_confidence >= BOUND_MINIMUM) & (sorted_confidence >= 1.0 - BOUND_FACTOR / (place + 2))
    product = sorted_confidence.clamp(min=0.0).double().cumprod(dim=1).float()
    by_rule = {
        CommitRule.THRESHOLD: certain,
        CommitRule.THRESHOLD_BOUND: certain | bounded,
        CommitRule.CUMULATIVE_ERROR: product >= threshold,
        CommitRule.FIXED: place < rows(rules.tokens_per_step),
    }
    taken = (place == 0) | (place < rows(scheduled_count(step, num_masks, rules)))
    for kind, selected in by_rule.items():
        taken = taken | (selected & (rows(rules.kind) == _KINDS.index(kind)))
    return taken.gather(1, rank) & masked


def _step_bound(options: DecodingOptions) -> int:
    steps = options.denoising_steps
    return _NO_BOUND if steps is None else min(steps, options.block_size)


def scheduled_count(step: torch.Tensor, num_masks: torch.Tensor, rules: CommitRules) -> torch.Tensor:
    """Return how many positions the even schedule commits in this step, int64 `[R]`.

    `num_masks` is split evenly over the steps, the remainder first; without a bound there is one step per
    mask.
    """
    steps = torch.where(rules.steps == _NO_BOUND, num_masks, rules.steps).clamp(min=1)
    return num_masks // steps + (step < num_masks % steps)
