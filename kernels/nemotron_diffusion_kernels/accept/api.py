"""The acceptance of drafts by a verify forward: arguments, checks, choice of backend."""

from typing import NamedTuple

import torch

from ..backends import resolve
from ..checks import INTEGERS, check_rows_contiguous, check_tensor

MAX_DRAFTS = 1024
PAD = -1
_NAME = "accept"


class Accepted(NamedTuple):
    """What a verify forward accepted.

    Attributes:
        accepted: int64 `[R]`, how many drafts.
        emitted: int64 `[R, K + 1]`, the accepted drafts and one bonus or correction, then -1.
        seeds: int64 `[R]`, the next block's seed: the last emitted token; -1 in idle rows.
        lengths: int64 `[R]`, tokens whose keys and values stay.
    """

    accepted: torch.Tensor
    emitted: torch.Tensor
    seeds: torch.Tensor
    lengths: torch.Tensor


def accept(
    drafts: torch.Tensor,
    verified: torch.Tensor,
    num_drafts: torch.Tensor,
    lengths: torch.Tensor,
    *,
    backend: str | None = None,
) -> Accepted:
    """Accept the longest prefix of the drafts that the causal picks agree with (docs/model.md, 3.3).

    A row with c cached tokens before its block keeps c + accepted + 1 of them: the seed and the accepted drafts.
    A row with `num_drafts` 0 emits the pick after its seed; a row with -1 is idle: it accepts and emits nothing
    and keeps its length. One launch, nothing is read on the host, a row does not depend on other rows.

    Args:
        drafts: int32 or int64 `[R, K]`, the drafts after the seed, K 0 to 1024.
        verified: int32 or int64 `[R, K + 1]`, the causal pick of every row of the block; pick i follows draft
            i - 1.
        num_drafts: int32 or int64 `[R]`, how many of the K drafts a row has; more than K counts as K.
        lengths: int32 or int64 `[R]`, tokens cached before the block.
        backend: "torch", "triton", or None for Triton on a GPU and torch elsewhere.

    Raises:
        ValueError: a shape, dtype or device does not fit.
        RuntimeError: the backend asked for cannot run here.
    """
    device = drafts.device
    check_tensor(_NAME, "drafts", drafts, (None, None), INTEGERS, device)
    rows, width = drafts.shape
    if width > MAX_DRAFTS:
        raise ValueError(f"{_NAME}: {width} drafts a row, expected at most {MAX_DRAFTS}")
    check_tensor(_NAME, "verified", verified, (rows, width + 1), INTEGERS, device)
    check_tensor(_NAME, "num_drafts", num_drafts, (rows,), INTEGERS, device)
    check_tensor(_NAME, "lengths", lengths, (rows,), INTEGERS, device)
    arguments = {"drafts": drafts, "verified": verified, "num_drafts": num_drafts, "lengths": lengths}
    for name, tensor in arguments.items():
        check_rows_contiguous(_NAME, name, tensor)
    if resolve(_NAME, backend, device) == "torch":
        from .reference import accept_reference

        return accept_reference(drafts, verified, num_drafts, lengths)
    from .triton import accept_triton

    return accept_triton(drafts, verified, num_drafts, lengths)
