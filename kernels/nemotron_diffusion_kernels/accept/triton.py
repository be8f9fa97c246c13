"""Acceptance in Triton: one program per row."""

import torch
import triton
import triton.language as tl

from .api import PAD, Accepted

_PAD = tl.constexpr(PAD)


@triton.jit
def _accept_kernel(
    drafts,
    verified,
    num_drafts,
    lengths,
    accepted,
    emitted,
    seeds,
    new_lengths,
    drafts_stride,
    verified_stride,
    DRAFTS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, COLUMNS)
    is_pick = column < DRAFTS + 1
    count = tl.load(num_drafts + row).to(tl.int64)
    is_idle = count < 0
    pick = tl.load(verified + row * verified_stride + column, mask=is_pick, other=_PAD).to(tl.int64)
    draft = tl.load(drafts + row * drafts_stride + column, mask=column < DRAFTS, other=_PAD).to(tl.int64)

    is_end = (column >= DRAFTS) | (column >= count) | (pick != draft)
    matching = tl.min(tl.where(is_end, column, COLUMNS), 0).to(tl.int64)
    seed = tl.sum(tl.where(column == matching, pick, 0), 0)
    length = tl.load(lengths + row).to(tl.int64)

    tl.store(accepted + row, matching)
    tl.store(seeds + row, tl.where(is_idle, _PAD, seed))
    tl.store(new_lengths + row, tl.where(is_idle, length, length + matching + 1))
    is_emitted = (column <= matching) & (count >= 0)
    tl.store(emitted + row * (DRAFTS + 1) + column, tl.where(is_emitted, pick, _PAD), mask=is_pick)


def accept_triton(
    drafts: torch.Tensor, verified: torch.Tensor, num_drafts: torch.Tensor, lengths: torch.Tensor
) -> Accepted:
    """Return what is accepted; the arguments are those of `accept`, checked there."""
    rows, width = drafts.shape
    emitted = drafts.new_empty((rows, width + 1), dtype=torch.int64)
    accepted, seeds, new_lengths = (drafts.new_empty(rows, dtype=torch.int64) for _ in range(3))
    if rows:
        _accept_kernel[(rows,)](
            drafts,
            verified,
            num_drafts,
            lengths,
            accepted,
            emitted,
            seeds,
            new_lengths,
            drafts.stride(0),
            verified.stride(0),
            DRAFTS=width,
            COLUMNS=triton.next_power_of_2(width + 1),
            num_warps=1,
        )
    return Accepted(accepted, emitted, seeds, new_lengths)
