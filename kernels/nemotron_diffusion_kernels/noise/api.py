"""What the noise of a row is a function of."""

from typing import NamedTuple

import torch

from ..checks import check_rows_contiguous, check_tensor

ACCEPTANCE = -1
"""In place of a token id: the noise that decides on a draft; no token id draws it."""


class RowNoise(NamedTuple):
    """What the noise of N rows of logits follows from, each int64 `[N]`.

    Token id t of a row sees `uniform(seed, position, step, t)`, in (0, 1), whatever the rows beside it and
    whichever shard of the vocabulary t lies in. It is bit-equal to the plugin's `decoding.noise.uniform`.

    Attributes:
        seeds: the request's seed.
        positions: the absolute position the row picks for.
        steps: the denoise step, or any number that tells apart what is drawn twice at one position.
    """

    seeds: torch.Tensor
    positions: torch.Tensor
    steps: torch.Tensor


def check_row_noise(operator: str, noise: RowNoise, rows: int, device: torch.device) -> None:
    """Check shapes, dtypes and devices.

    Raises:
        ValueError: with the operator, the argument, what it got and what it expected.
    """
    for name, tensor in noise._asdict().items():
        check_tensor(operator, f"noise.{name}", tensor, (rows,), (torch.int64,), device)
        check_rows_contiguous(operator, f"noise.{name}", tensor)
