"""The low-rank branch in Triton: `shrink` spreads the rank over programs and `expand` the columns."""

import torch
import triton
import triton.language as tl

from ..backends import is_interpreted

_ROWS = 16
_MAX_DEPTH = 128
_TILE_BYTES = 32 << 10  # of A or B in shared memory, held several times to load ahead
_MAX_COLUMNS = 64
_RANKS = 16  # rows of A per program
_SHRINK_DEPTH = (
    512  # few programs, so each must keep many bytes on their way; products of float32 take registers for it
)


@triton.jit
def _chosen(flags, row, num_rows):
    is_row = row < num_rows
    return is_row & (tl.load(flags + row, mask=is_row, other=0) != 0)


@triton.jit
def _shrink_kernel(
    out,  # float32 [N, RANK]
    x,
    a,
    flags,
    num_rows,
    depth,
    x_stride,
    a_stride,
    RANK: tl.constexpr,
    ROWS: tl.constexpr,
    DEPTH: tl.constexpr,
    RANKS: tl.constexpr,
    WIDEN: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    is_chosen = _chosen(flags, row, num_rows)
    rank = (tl.program_id(1) * RANKS + tl.arange(0, RANKS)).to(tl.int64)
    is_rank = rank < RANK
    low = tl.zeros([ROWS, RANKS], dtype=tl.float32)
    if tl.max(is_chosen.to(tl.int32), 0) != 0:
        for start in range(0, depth, DEPTH):
            column = start + tl.arange(0, DEPTH)
            is_column = column < depth
            inputs = tl.load(
                x + row[:, None] * x_stride + column[None, :],
                mask=is_chosen[:, None] & is_column[None, :],
                other=0.0,
            )
            weights = tl.load(
                a + rank[None, :] * a_stride + column[:, None],
                mask=is_rank[None, :] & is_column[:, None],
                other=0.0,
            )
            if WIDEN:
                inputs, weights = inputs.to(tl.float32), weights.to(tl.float32)
            low = tl.dot(inputs, weights, low, input_precision="ieee")
    tl.store(
        out + row[:, None] * RANK + rank[None, :], low, mask=(row < num_rows)[:, None] & is_rank[None, :]
    )


@triton.jit
def _expand_kernel(
    y,
    low,
    b,
    flags,
    num_rows,
    width,
    y_stride,
    low_stride,
    b_stride,
    RANK: tl.constexpr,
    ROWS: tl.constexpr,
    RANKS: tl.constexpr,
    COLUMNS: tl.constexpr,
    WIDEN: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    is_chosen = _chosen(flags, row, num_rows)
    if tl.max(is_chosen.to(tl.int32), 0) == 0:
        return
    rank = tl.arange(0, RANKS).to(tl.int64)
    is_rank = rank < RANK
    small = tl.load(
        low + row[:, None] * low_stride + rank[None, :],
        mask=is_chosen[:, None] & is_rank[None, :],
        other=0.0,
    ).to(b.dtype.element_ty)
    column = (tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)).to(tl.int64)
    is_column = column < width
    weights = tl.load(
        b + column[None, :] * b_stride + rank[:, None],
        mask=is_rank[:, None] & is_column[None, :],
        other=0.0,
    )
    if WIDEN:
        small, weights = small.to(tl.float32), weights.to(tl.float32)
    place = y + row[:, None] * y_stride + column[None, :]
    is_place = is_chosen[:, None] & is_column[None, :]
    old = tl.load(place, mask=is_place, other=0.0)
    new = old.to(tl.float32) + tl.dot(small, weights, input_precision="ieee")
    tl.store(place, new.to(old.dtype), mask=is_place)


def _widens(like: torch.Tensor) -> bool:
    """Whether products need float32 operands: the interpreter has no bfloat16 product."""
    return is_interpreted() and like.dtype == torch.bfloat16


def _fitting(most: int, ranks: int, like: torch.Tensor) -> int:
    """How many columns of A, or rows of B, a tile of that many ranks has: at most `most`, a power of two."""
    return max(16, min(most, _TILE_BYTES // (ranks * like.element_size())))


def shrink_triton(x: torch.Tensor, a: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Return A x; the arguments are those of `shrink`, checked there."""
    num_rows, rank = x.shape[0], a.shape[0]
    out = x.new_empty((num_rows, rank), dtype=torch.float32)
    if num_rows == 0:
        return out
    most = _SHRINK_DEPTH if a.element_size() == 2 else _MAX_DEPTH
    _shrink_kernel[(triton.cdiv(num_rows, _ROWS), triton.cdiv(rank, _RANKS))](
        out,
        x,
        a,
        rows,
        num_rows,
        x.shape[1],
        x.stride(0),
        a.stride(0),
        RANK=rank,
        ROWS=_ROWS,
        DEPTH=_fitting(min(most, triton.next_power_of_2(x.shape[1])), _RANKS, a),
        RANKS=_RANKS,
        WIDEN=_widens(x),
        num_warps=4,
    )
    return out


def expand_triton(y: torch.Tensor, low: torch.Tensor, b: torch.Tensor, rows: torch.Tensor) -> None:
    """Change y; the arguments are those of `expand`, checked there."""
    num_rows, width = y.shape
    if num_rows == 0 or width == 0:
        return
    ranks = max(16, triton.next_power_of_2(b.shape[1]))
    columns = _fitting(_MAX_COLUMNS, ranks, b)
    _expand_kernel[(triton.cdiv(num_rows, _ROWS), triton.cdiv(width, columns))](
        y,
        low,
        b,
        rows,
        num_rows,
        width,
        y.stride(0),
        low.stride(0),
        b.stride(0),
        RANK=b.shape[1],
        ROWS=_ROWS,
        RANKS=ranks,
        COLUMNS=columns,
        WIDEN=_widens(y),
        num_warps=4,
    )
