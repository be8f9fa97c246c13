"""Picking in plain torch."""

import torch

from ..noise.reference import gumbel_reference, uniform_reference
from .api import Picked, Sampling
from .shards import NO_ID


def pick_reference(
    logits: torch.Tensor,
    mask_token_id: int | None,
    with_second: bool = False,
    sampling: Sampling | None = None,
    compute_dtype: torch.dtype = torch.float32,
) -> Picked:
    """Return what each row of logits L `[N, V]` picks. With m the mask id, and the scores S = L, or drawn,
    S_i = L_i - T ln(-ln u_i) in float64,

        x = argmax_{i != m} S_i            (the lowest id among equals)
        p = exp(L_x - log sum_i exp(L_i))  (the sum runs over m too)
        y = argmax_{i != m, i != x} S_i    and its p likewise,

    in `compute_dtype`, which the confidences have too. A normalizer that is not finite makes p NaN.
    """
    values = logits.to(compute_dtype)
    normalizer = values.logsumexp(dim=1)
    normalizer = normalizer.masked_fill(normalizer.isinf(), torch.nan)
    results = []
    for tokens, _, value in _ranked(values, mask_token_id, 0, 2 if with_second else 1, sampling):
        results += [tokens, torch.exp(value - normalizer)]
    return Picked(*results)


def pick_shard_reference(
    logits: torch.Tensor,
    mask_token_id: int | None,
    vocab_start: int,
    with_second: bool = False,
    sampling: Sampling | None = None,
) -> torch.Tensor:
    """Return a shard's fields as `pick_shard` describes them, in float64."""
    values = logits.double()
    if values.shape[1] == 0:
        values = values.new_full((values.shape[0], 1), -torch.inf)
        mask_token_id = vocab_start
    numbers = values.masked_fill(values.isnan(), -torch.inf)
    highest = numbers.amax(dim=1)
    shift = highest.masked_fill(highest == -torch.inf, 0.0)
    totals = torch.exp(values - shift[:, None]).sum(dim=1)
    fields = []
    for tokens, score, value in _ranked(
        values, mask_token_id, vocab_start, 2 if with_second else 1, sampling
    ):
        fields += [score, tokens, value]
    if not with_second:
        fields += fields
    return torch.stack([field.double() for field in [*fields, highest, totals]], dim=1)


def _ranked(
    values: torch.Tensor, mask_token_id: int | None, vocab_start: int, count: int, sampling: Sampling | None
) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """The best ids of the columns, their scores and their values, `count` times."""
    numbers = values.masked_fill(values.isnan(), -torch.inf)
    ids = torch.arange(vocab_start, vocab_start + values.shape[1], device=values.device)
    scores = numbers
    if sampling is not None:
        seeds, positions, steps = (part[:, None] for part in sampling.noise)
        gumbel = gumbel_reference(uniform_reference(seeds, positions, steps, ids[None]))
        scores = numbers.double() + sampling.temperature.double()[:, None] * gumbel
    left = torch.ones_like(scores, dtype=torch.bool)
    if mask_token_id is not None:
        left[:, ids == mask_token_id] = False
    ranked = []
    for _ in range(count):
        best = scores.masked_fill(~left, -torch.inf).amax(dim=1, keepdim=True)
        tokens = torch.where((scores == best) & left, ids, NO_ID).amin(dim=1, keepdim=True)
        is_best = ids == tokens
        ranked.append((tokens[:, 0], best[:, 0], numbers.masked_fill(~is_best, -torch.inf).amax(dim=1)))
        left = left & ~is_best
    return ranked
