"""Choosing one token per row of logits, with its confidence (docs/model.md, 3.2)."""

from collections.abc import Callable

import torch

_CHUNK_ELEMENTS = 1 << 23

RowNoise = Callable[[slice], torch.Tensor]
"""Gives the uniform noise of a slice of rows, float64 `[rows, V]` in (0, 1)."""


def pick(
    logits: torch.Tensor,
    mask_token_id: int | None,
    temperature: torch.Tensor | None = None,
    uniform: RowNoise | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the picked tokens, int64 `[N]`, and their confidences, float32 `[N]`, for logits `[N, V]`.

    The mask id is never picked, yet it stays in the denominator of the confidence, which is the un-tempered
    softmax probability of the picked token; None excludes nothing, for causal rows. Ties go to the lowest id.
    Without `temperature` every row takes the most likely token; with `temperature` (float `[N]`) a row takes
    argmax(exp(L) / (-ln u)^T) in float64, which is the same token at T = 0. `uniform` must be given with
    `temperature`. Works on a few rows at a time: no float copy of the whole buffer exists, and `logits` stays
    as it is.
    """
    if temperature is None:
        tokens = _most_likely(logits, mask_token_id)
    elif uniform is None:
        raise ValueError("pick: got temperatures without noise, expected `uniform` beside `temperature`")
    else:
        tokens = torch.cat(
            [
                _sampled(logits[rows], mask_token_id, temperature[rows], uniform(rows))
                for rows in _chunks(logits)
            ]
        )
    return tokens, confidence(logits, tokens)


def confidence(logits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Return the softmax probability of int64 `tokens` `[N]` under logits `[N, V]`, float32 `[N]`."""
    chosen = logits.gather(1, tokens[:, None]).squeeze(1).float()
    normalizers = [torch.logsumexp(logits[rows].float(), dim=1) for rows in _chunks(logits)]
    return torch.exp(chosen - torch.cat(normalizers))


def _most_likely(logits: torch.Tensor, mask_token_id: int | None) -> torch.Tensor:
    if mask_token_id is None:
        return logits.argmax(dim=1)
    sides = [(0, logits[:, :mask_token_id]), (mask_token_id + 1, logits[:, mask_token_id + 1 :])]
    best = [(part.max(dim=1), offset) for offset, part in sides if part.shape[1]]
    (values, indices), offset = best[0]
    tokens = indices + offset
    for (later_values, later_indices), later_offset in best[1:]:
        tokens = torch.where(later_values > values, later_indices + later_offset, tokens)
    return tokens


def _sampled(
    logits: torch.Tensor, mask_token_id: int | None, temperature: torch.Tensor, uniform: torch.Tensor
) -> torch.Tensor:
    scores = logits.double() - temperature.double()[:, None] * torch.log(-torch.log(uniform))
    if mask_token_id is not None:
        scores[:, mask_token_id] = -torch.inf
    return scores.argmax(dim=1)


def _chunks(logits: torch.Tensor) -> list[slice]:
    rows = max(1, _CHUNK_ELEMENTS // logits.shape[1])
    return [slice(start, start + rows) for start in range(0, max(1, logits.shape[0]), rows)]
