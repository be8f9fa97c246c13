"""Acceptance in Triton: one program per row."""

import torch
import triton
import triton.language as tl


@triton.jit
def _accept_kernel(
    drafts,
    verified,
    num_drafts,
    accepted,
    drafts_stride,
    verified_stride,
    DRAFTS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, COLUMNS)
    is_draft = (column < DRAFTS) & (column < tl.load(num_drafts + row))
    pick = tl.load(verified + row * verified_stride + column, mask=is_draft, other=0).to(tl.int64)
    draft = tl.load(drafts + row * drafts_stride + column, mask=is_draft, other=0).to(tl.int64)
    agrees = is_draft & (pick == draft)
    tl.store(accepted + row, tl.min(tl.where(agrees, COLUMNS, column), 0).to(tl.int64))


def accept_triton(drafts: torch.Tensor, verified: torch.Tensor, num_drafts: torch.Tensor) -> torch.Tensor:
    """Return how many drafts are accepted; the arguments are those of `accept`, checked there."""
    rows, width = drafts.shape
    accepted = drafts.new_empty(rows, dtype=torch.int64)
    if rows:
        _accept_kernel[(rows,)](
            drafts,
            verified,
            num_drafts,
            accepted,
            drafts.stride(0),
            verified.stride(0),
            DRAFTS=width,
            COLUMNS=triton.next_power_of_2(width + 1),
            num_warps=1,
        )
    return accepted
