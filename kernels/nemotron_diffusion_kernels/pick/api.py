"""A token from a row of logits with its confidence: arguments and checks."""

import torch

from ..backends import check_triton
from ..checks import FLOATS, check_tensor

TEMPERATURES = (torch.float32, torch.float64)
_NAME = "pick"


def pick(
    logits: torch.Tensor,
    mask_token_id: int | None,
    temperature: torch.Tensor | None = None,
    noise: tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a token of every row of logits, int64 `[N]`, and its confidence, float32 `[N]` (docs/model.md, 3.2).

    The rule is the plugin's `rules.pick.pick`, for logits that are NaN or infinite too: the most likely token, or with
    `temperature` and `noise` the draw argmax(exp(L) / (-ln u)^T) in float64; ties go to the lowest id. The mask id is
    never picked, yet it stays in the denominator of the confidence, the un-tempered softmax probability of the picked
    token. A row's result does not depend on other rows.

    Reads the logits once and makes no copy of them; two launches, nothing is read on the host.

    Args:
        logits: float32, bfloat16 or float16 `[N, V]`, any stride between rows; not changed.
        mask_token_id: 0 to V - 1, or None when no id is excluded.
        temperature: float32 or float64 `[N]`; 0 takes the most likely token.
        noise: seed, position and step of each row, int64 `[N]` each; u is what the plugin's
            `rules.noise.uniform` makes of them, bit for bit.

    Raises:
        ValueError: a shape, dtype or id does not fit, the vocabulary has no id to pick, or only one of `temperature`
            and `noise` is given.
        RuntimeError: the kernel cannot run here.
    """
    _check(logits, mask_token_id, temperature, noise)
    from .triton import pick_triton

    confidence = logits.new_empty(len(logits), dtype=torch.float32)
    return pick_triton(logits, mask_token_id, temperature, noise, confidence), confidence


def pick_tokens(
    logits: torch.Tensor,
    mask_token_id: int | None,
    temperature: torch.Tensor | None = None,
    noise: tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None = None,
) -> torch.Tensor:
    """Return the tokens alone that `pick` picks, int64 `[N]`, with the same arguments and errors."""
    _check(logits, mask_token_id, temperature, noise)
    from .triton import pick_triton

    return pick_triton(logits, mask_token_id, temperature, noise, None)


def _check(
    logits: torch.Tensor,
    mask_token_id: int | None,
    temperature: torch.Tensor | None,
    noise: tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None,
) -> None:
    device = logits.device
    check_tensor(_NAME, "logits", logits, (None, None), FLOATS, device)
    rows, vocabulary = logits.shape
    if mask_token_id is not None and not 0 <= mask_token_id < vocabulary:
        raise ValueError(f"{_NAME}: mask_token_id is {mask_token_id}, expected 0 to {vocabulary - 1} or None")
    if vocabulary - (mask_token_id is not None) < 1:
        raise ValueError(f"{_NAME}: 0 ids to pick from, expected at least 1")
    if (temperature is None) != (noise is None):
        raise ValueError(f"{_NAME}: got one of temperature and noise, expected both or none")
    if temperature is not None and noise is not None:
        check_tensor(_NAME, "temperature", temperature, (rows,), TEMPERATURES, device)
        for name, part in zip(("seed", "position", "step"), noise, strict=True):
            check_tensor(_NAME, f"noise: {name}", part, (rows,), (torch.int64,), device)
    check_triton(_NAME, device.type)
