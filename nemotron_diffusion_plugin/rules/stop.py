"""When a block and when a request ends (docs/model.md, 3.2 and 3.3)."""

from collections.abc import Collection, Sequence
from typing import Literal

import torch

FinishReason = Literal["stop", "length"]


def ends_block(tokens: torch.Tensor, masked: torch.Tensor, is_stop: torch.Tensor) -> torch.Tensor:
    """Return which blocks need no more denoising because a stop token stands before every mask, bool `[R]`.

    Args:
        tokens: int64 `[R, B]`, for the shape.
        masked: bool `[R, B]`.
        is_stop: bool `[R, B]`, True where a token of the block would end the request.
    """
    if not tokens.shape == masked.shape == is_stop.shape:
        shapes = f"{tuple(tokens.shape)}, {tuple(masked.shape)} and {tuple(is_stop.shape)}"
        raise ValueError(f"ends_block: got shapes {shapes}, expected three equal ones")
    nothing_masked_before = masked.cumsum(dim=1) == 0
    return (is_stop & nothing_masked_before).any(dim=1)


def trim(
    tokens: Sequence[int],
    stop_token_ids: Collection[int],
    max_tokens: int,
    min_tokens: int = 0,
    emitted_before: int = 0,
) -> tuple[list[int], FinishReason | None]:
    """Return what of `tokens` the request still emits, and why it ends, None when it goes on.

    The request ends with its first stop token, which is emitted, or with its `max_tokens`-th token; a stop
    token in that last place counts as "stop". A stop token before the `min_tokens`-th token does not end it.
    `emitted_before` tokens were emitted already.
    """
    for count, token in enumerate(tokens, start=1):
        emitted = emitted_before + count
        if emitted > max_tokens:
            return list(tokens[: count - 1]), "length"
        if token in stop_token_ids and emitted >= min_tokens:
            return list(tokens[:count]), "stop"
        if emitted == max_tokens:
            return list(tokens[:count]), "length"
    return list(tokens), "length" if emitted_before >= max_tokens else None
