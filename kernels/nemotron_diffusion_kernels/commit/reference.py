"""The commit of a denoise step in plain torch."""

import torch

from .rules import BOUND_FACTOR, BOUND_MINIMUM, NO_STEP_BOUND, Rule, Rules


def commit_reference(
    tokens: torch.Tensor,
    masked: torch.Tensor,
    step: torch.Tensor,
    num_masks: torch.Tensor,
    picked: torch.Tensor,
    confidence: torch.Tensor,
    rules: Rules,
    stop_token_ids: torch.Tensor | None,
) -> torch.Tensor:
    """Change `tokens`, `masked` and `step` in place and return which blocks are finished, bool `[R]`.

    Let p_0 >= p_1 >= ... be the confidences of a row's masked positions, equal ones by position, and k a place in
    that order. With N masks at the start and T steps (N where there is no bound), step t schedules
    n = N // T + [t < N mod T] positions. Place k commits if

        k = 0, or T is a bound and k < n, or by the rule
        threshold          p_k >= threshold
        schedule           k < n
        threshold bound    p_k >= threshold, or p_k >= 0.45 and p_k >= 1 - 2 / (k + 2)
        cumulative error   p_0 p_1 ... p_k >= threshold    (product in float64, compared in float32)
        fixed              k < tokens_per_step.

    Finished: no mask is left, or one of `stop_token_ids` stands before the first mask.
    """
    ranked, order = torch.where(masked, confidence, -1.0).sort(dim=1, descending=True, stable=True)
    place = torch.arange(tokens.shape[1], device=tokens.device)[None]
    threshold = rules.threshold[:, None]
    bound = rules.steps != NO_STEP_BOUND
    divisor = torch.where(bound, rules.steps, num_masks).clamp(min=1)
    scheduled = place < (num_masks // divisor + (step < num_masks % divisor))[:, None]
    certain = ranked >= threshold
    by_place = (ranked >= BOUND_MINIMUM) & (ranked >= 1.0 - BOUND_FACTOR / (place + 2))
    selected = {
        Rule.THRESHOLD: certain,
        Rule.SCHEDULE: scheduled,
        Rule.THRESHOLD_BOUND: certain | by_place,
        Rule.CUMULATIVE_ERROR: ranked.double().cumprod(dim=1).float() >= threshold,
        Rule.FIXED: place < rules.tokens_per_step[:, None],
    }
    taken = (place == 0) | (scheduled & bound[:, None])
    for rule, places in selected.items():
        taken = taken | (places & (rules.kind == rule)[:, None])
    chosen = torch.zeros_like(masked).scatter(1, order, taken) & masked

    tokens.copy_(torch.where(chosen, picked, tokens))
    masked &= ~chosen
    step += chosen.any(dim=1)
    finished = ~masked.any(dim=1)
    if stop_token_ids is not None:
        is_stop = (tokens[:, :, None] == stop_token_ids[:, None]).any(dim=2)
        finished |= (is_stop & (masked.cumsum(dim=1) == 0)).any(dim=1)
    return finished
