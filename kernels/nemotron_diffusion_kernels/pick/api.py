"""A token from a row of logits with its confidence: arguments, checks, choice of backend."""

from typing import NamedTuple

import torch

from ..backends import resolve
from ..checks import FLOATS, check_rows_contiguous, check_tensor
from ..noise import RowNoise, check_row_noise

TEMPERATURES = (torch.float32, torch.float64)
_NAME = "pick"


class Picked(NamedTuple):
    """What a row picked; int64 `[N]` tokens and float32 `[N]` confidences, None where not asked for."""

    tokens: torch.Tensor
    confidence: torch.Tensor
    second_tokens: torch.Tensor | None = None
    second_confidence: torch.Tensor | None = None


class Sampling(NamedTuple):
    """How rows draw their tokens.

    Attributes:
        temperature: float32 or float64 `[N]`; 0 takes the most likely token.
        noise: of each row; the same noise draws the same token in any batch and over any shards.
    """

    temperature: torch.Tensor
    noise: RowNoise


def pick(
    logits: torch.Tensor,
    mask_token_id: int | None,
    *,
    with_second: bool = False,
    sampling: Sampling | None = None,
    backend: str | None = None,
) -> Picked:
    """Return a token of every row of logits `[N, V]` and its confidence (docs/model.md, 3.2).

    Without `sampling` it is the most likely token, with it argmax(exp(L) / (-ln u)^T) in float64: a draw from
    softmax(L / T) by the Gumbel-max trick. The mask id is never picked, yet it stays in the denominator of the
    confidence, which is the un-tempered softmax probability of the picked token. Ties go to the lowest id. The
    second best token is the best one when the first is left out too. A logit that is NaN is never picked and
    makes the row's confidences NaN, as do a row of -inf alone and an infinite logit. A row's result does not
    depend on other rows.

    The Triton backend reads the logits once and makes no copy of them; nothing is read on the host.

    Args:
        logits: float32, bfloat16 or float16 `[N, V]`, any stride between rows; not changed.
        mask_token_id: 0 to V - 1, or None when no id is excluded.
        with_second: also return the second best token and its confidence.
        sampling: how to draw; None takes the most likely token.
        backend: "torch", "triton", or None for Triton on a GPU and torch elsewhere.

    Raises:
        ValueError: a shape, dtype or id does not fit, or the vocabulary has too few ids to pick from.
        RuntimeError: the backend asked for cannot run here.
    """
    check_logits(_NAME, logits, sampling)
    vocabulary = logits.shape[1]
    if mask_token_id is not None and not 0 <= mask_token_id < vocabulary:
        raise ValueError(f"{_NAME}: mask_token_id is {mask_token_id}, expected 0 to {vocabulary - 1} or None")
    wanted = 2 if with_second else 1
    left = vocabulary - (mask_token_id is not None)
    if left < wanted:
        raise ValueError(f"{_NAME}: {left} ids to pick from, expected at least {wanted}")
    if resolve(_NAME, backend, logits.device) == "torch":
        from .reference import pick_reference

        return pick_reference(logits, mask_token_id, with_second, sampling)
    from .triton import pick_triton

    return pick_triton(logits, mask_token_id, with_second, sampling)


def check_logits(operator: str, logits: torch.Tensor, sampling: Sampling | None) -> None:
    """Check the logits and what fits them.

    Raises:
        ValueError: a shape, dtype or device does not fit.
    """
    check_tensor(operator, "logits", logits, (None, None), FLOATS, logits.device)
    check_rows_contiguous(operator, "logits", logits)
    if sampling is not None:
        rows, device = logits.shape[0], logits.device
        check_tensor(operator, "temperature", sampling.temperature, (rows,), TEMPERATURES, device)
        check_rows_contiguous(operator, "temperature", sampling.temperature)
        check_row_noise(operator, sampling.noise, rows, device)
