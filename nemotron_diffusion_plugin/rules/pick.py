"""Choosing one token per row of logits, with its confidence (docs/model.md, 3.2)."""

from collections.abc import Callable

import torch

_CHUNK_ELEMENTS = 1 << 23


def pick(
    logits: torch.Tensor,
    mask_token_id: int | None,
    temperature: torch.Tensor | None = None,
    uniform: Callable[[slice], torch.Tensor] | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the picked tokens, int64 `[N]`, and their confidences, float32 `[N]`, for logits `[N, V]`.

    The mask id is never picked, yet it stays in the denominator of the confidence, which is the un-tempered
    softmax probability of the picked token; None excludes nothing, for causal rows. Ties go to the lowest id.
    A logit that is NaN counts as -inf and makes the row's confidence NaN, as do an infinite logit and a row of
    -inf alone.

    Without `temperature` every row takes the most likely token; with `temperature` (float `[N]`) a row takes
    argmax(exp(L) / (-ln u)^T) in float64, which is the same token at T = 0. `uniform` must be given with
    `temperature`: it gives the noise u of a slice of rows, float64 `[rows, V]` in (0, 1). Works on a few rows at a
    time: no float copy of the whole buffer exists, and `logits` stays as it is.
    """
    tokens, confidences = [], []
    for rows in _chunks(logits):
        part = logits[rows]
        tokens.append(_picked(part, rows, mask_token_id, temperature, uniform))
        softmax = part.softmax(dim=1, dtype=torch.float32)
        confidences.append(softmax.gather(1, tokens[-1][:, None])[:, 0])
    return torch.cat(tokens), torch.cat(confidences)


def pick_tokens(
    logits: torch.Tensor,
    mask_token_id: int | None,
    temperature: torch.Tensor | None = None,
    uniform: Callable[[slice], torch.Tensor] | None = None,
) -> torch.Tensor:
    """Return the tokens alone that `pick` picks, int64 `[N]`; the arguments are the same."""
    parts = [_picked(logits[rows], rows, mask_token_id, temperature, uniform) for rows in _chunks(logits)]
    return torch.cat(parts)


def _picked(
    part: torch.Tensor,
    rows: slice,
    mask_token_id: int | None,
    temperature: torch.Tensor | None,
    uniform: Callable[[slice], torch.Tensor] | None,
) -> torch.Tensor:
    """The tokens of the rows of which `part` holds the logits."""
    if temperature is None:
        return _best(part, mask_token_id)
    if uniform is None:
        raise ValueError("pick: got temperatures without noise, expected `uniform` beside `temperature`")
    gumbel = -torch.log(-torch.log(uniform(rows)))
    return _best(part.double() + temperature[rows].double()[:, None] * gumbel, mask_token_id)


def _best(scores: torch.Tensor, mask_token_id: int | None) -> torch.Tensor:
    allowed = scores.nan_to_num(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf)
    if mask_token_id is not None:
        allowed[:, mask_token_id] = -torch.inf
    tokens = allowed.max(dim=1).indices
    return tokens.clamp(min=1) if mask_token_id == 0 else tokens  # a row of -inf alone


def _chunks(logits: torch.Tensor) -> list[slice]:
    rows = max(1, _CHUNK_ELEMENTS // logits.shape[1])
    return [slice(start, start + rows) for start in range(0, max(1, logits.shape[0]), rows)]
