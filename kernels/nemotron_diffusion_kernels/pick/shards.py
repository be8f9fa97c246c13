"""Picking over a vocabulary whose ids lie on several devices: each picks from its own, then the picks merge."""

import torch

from ..backends import resolve
from ..checks import check_tensor
from .api import Picked, Sampling, check_logits

NO_ID = 2**31 - 1
FIELDS = 8
_SCORE, _ID, _VALUE, _SECOND_SCORE, _SECOND_ID, _SECOND_VALUE, _HIGHEST, _TOTAL = range(FIELDS)
_NAME = "pick_shard"


def pick_shard(
    logits: torch.Tensor,
    mask_token_id: int | None,
    vocab_start: int,
    *,
    with_second: bool = False,
    sampling: Sampling | None = None,
    backend: str | None = None,
) -> torch.Tensor:
    """Return what `merge_shards` must know of one shard of the logits, float64 `[N, 8]`.

    It is one tensor, so that one all-gather carries it; ids are exact in float64. Per row: the best score, its id
    and its logit, the same of the second best, the highest logit h (the mask id's too) and the sum of exp(L - h).
    A score is the logit, or the drawn row's L - T ln(-ln u); its noise follows from the id in the whole vocabulary.
    A shard without ids to pick from has scores -inf and the id 2^31 - 1; a sum over logits of -inf is 0.

    Args:
        logits: float32, bfloat16 or float16 `[N, V / shards]`, any stride between rows: leave padding out by a
            slice. No columns at all are allowed.
        mask_token_id: in the whole vocabulary, or None when no id is excluded.
        vocab_start: the id of the first column.
        with_second: also prepare the second best token; else its fields say nothing.
        sampling: as in `pick`, the same on all shards.
        backend: "torch", "triton", or None for Triton on a GPU and torch elsewhere.

    Raises:
        ValueError: a shape, dtype or id does not fit.
        RuntimeError: the backend asked for cannot run here.
    """
    check_logits(_NAME, logits, sampling)
    if mask_token_id is not None and mask_token_id < 0:
        raise ValueError(f"{_NAME}: mask_token_id is {mask_token_id}, expected at least 0 or None")
    if vocab_start < 0 or vocab_start + logits.shape[1] > NO_ID:
        raise ValueError(
            f"{_NAME}: vocab_start is {vocab_start} for {logits.shape[1]} columns, expected ids from 0 to {NO_ID - 1}"
        )
    if resolve(_NAME, backend, logits.device) == "torch":
        from .reference import pick_shard_reference

        return pick_shard_reference(logits, mask_token_id, vocab_start, with_second, sampling)
    from .triton import pick_shard_triton

    return pick_shard_triton(logits, mask_token_id, vocab_start, with_second, sampling)


def merge_shards(partials: torch.Tensor, *, with_second: bool = False) -> Picked:
    """Return what `pick` returns for the whole rows, from the gathered partials `[S, N, 8]` of all shards.

    The tokens are exactly those of `pick`, ties to the lowest id, in any order of the shards; the confidences are
    summed in another order and agree to float32's rounding. All shards together must have an id to pick (two with
    `with_second`); a row without becomes 2^31 - 1. Plain torch, nothing is read on the host.

    Raises:
        ValueError: the partials do not have this shape or dtype.
    """
    check_tensor(
        "merge_shards", "partials", partials, (None, None, FIELDS), (torch.float64,), partials.device
    )
    if partials.shape[0] == 0:
        raise ValueError("merge_shards: got no shards, expected at least one")
    fields = partials.unbind(dim=2)
    highest, totals = fields[_HIGHEST], fields[_TOTAL]
    peak = highest.amax(dim=0)
    shift = peak.masked_fill(peak == -torch.inf, 0.0)
    weights = torch.exp(highest - shift).masked_fill(highest == -torch.inf, 1.0)
    normalizer = (totals * weights).sum(dim=0)

    best = (fields[_SCORE], fields[_ID], fields[_VALUE])
    token, value = _winner(*best)
    results = [token.long(), (torch.exp(value - shift) / normalizer).float()]
    if with_second:
        is_winner = best[1] == token
        second = (fields[_SECOND_SCORE], fields[_SECOND_ID], fields[_SECOND_VALUE])
        rivals = (torch.where(is_winner, *pair) for pair in zip(second, best, strict=True))
        token, value = _winner(*rivals)
        results += [token.long(), (torch.exp(value - shift) / normalizer).float()]
    return Picked(*results)


def _winner(
    scores: torch.Tensor, ids: torch.Tensor, values: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    token = ids.masked_fill(scores != scores.amax(dim=0), NO_ID).amin(dim=0)
    return token, values.masked_fill(ids != token, -torch.inf).amax(dim=0)
