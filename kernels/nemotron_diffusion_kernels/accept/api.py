"""How many drafts a verify forward accepts: arguments and checks."""

import torch

from ..backends import check_triton
from ..checks import INTEGERS, check_tensor

MAX_DRAFTS = 1024
_NAME = "accept"


def accept(drafts: torch.Tensor, verified: torch.Tensor, num_drafts: torch.Tensor) -> torch.Tensor:
    """Return how many leading drafts agree with the causal picks, int64 `[R]` (docs/model.md, 3.3).

    The rule is the plugin's `rules.accept.accept_longest_prefix`. One launch, nothing is read on the host, a row does
    not depend on other rows.

    Args:
        drafts: int32 or int64 `[R, K]`, the drafts after the seed, K 0 to 1024.
        verified: int32 or int64 `[R, K + 1]`, the causal pick of every row of the block; pick i follows draft
            i - 1.
        num_drafts: int32 or int64 `[R]`, how many of the K drafts a row has; more than K counts as K, less than 0
            as 0.

    Raises:
        ValueError: a shape, dtype or device does not fit.
        RuntimeError: the kernel cannot run here.
    """
    device = drafts.device
    check_tensor(_NAME, "drafts", drafts, (None, None), INTEGERS, device)
    rows, width = drafts.shape
    if width > MAX_DRAFTS:
        raise ValueError(f"{_NAME}: {width} drafts a row, expected at most {MAX_DRAFTS}")
    check_tensor(_NAME, "verified", verified, (rows, width + 1), INTEGERS, device)
    check_tensor(_NAME, "num_drafts", num_drafts, (rows,), INTEGERS, device)
    check_triton(_NAME, device.type)
    from .triton import accept_triton

    return accept_triton(drafts, verified, num_drafts)
