"""Picking in plain torch."""

import torch

from .api import Picked


def pick_reference(
    logits: torch.Tensor,
    mask_token_id: int | None,
    with_second: bool = False,
    compute_dtype: torch.dtype = torch.float32,
) -> Picked:
    """Return what each row of logits L `[N, V]` picks. With m the mask id,

        x = argmax_{i != m} L_i            (the lowest id among equals)
        p = exp(L_x - log sum_i exp(L_i))  (the sum runs over m too)
        y = argmax_{i != m, i != x} L_i    and its p likewise,

    in `compute_dtype`, which the confidences have too. A normalizer that is not finite makes p NaN.
    """
    scores = logits.to(compute_dtype)
    normalizer = scores.logsumexp(dim=1)
    normalizer = normalizer.masked_fill(normalizer.isinf(), torch.nan)
    candidates = scores.masked_fill(scores.isnan(), -torch.inf)
    excluded = torch.zeros_like(candidates, dtype=torch.bool)
    if mask_token_id is not None:
        excluded[:, mask_token_id] = True
    results = []
    for _ in range(2 if with_second else 1):
        best = candidates.masked_fill(excluded, -torch.inf).amax(dim=1, keepdim=True)
        tokens = ((candidates == best) & ~excluded).int().argmax(dim=1)
        results += [tokens, torch.exp(candidates.gather(1, tokens[:, None])[:, 0] - normalizer)]
        excluded[torch.arange(tokens.shape[0], device=tokens.device), tokens] = True
    return Picked(*results)
