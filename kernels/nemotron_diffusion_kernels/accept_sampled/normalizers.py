"""Normalizers of the rows of ragged requests in Triton, in tiles of the vocabulary, and what all kernels share."""

# mypy: allow-untyped-defs, allow-incomplete-defs
# Triton reads the annotations of its kernels

import torch
import triton
import triton.language as tl

from .api import BlockLogits

_TILE = 4096
NO_ID = tl.constexpr(2**31 - 1)


@triton.jit
def numbers(logits, row, row_stride, token, vocabulary, excluded):
    """Logits of one row as float32; -inf for NaN, for the excluded id and past the vocabulary."""
    is_token = (token < vocabulary) & (token != excluded)
    value = tl.load(logits + row * row_stride + token, mask=is_token, other=float("-inf")).to(tl.float32)
    return tl.where(value == value, value, float("-inf"))


@triton.jit
def power(value, peak, temperature):
    """exp((value - peak) / T), with T 1 where it is 0."""
    degree = temperature.to(tl.float32)
    shift = tl.where(peak == float("-inf"), 0.0, peak)
    return tl.exp((value - shift) / tl.where(degree > 0, degree, 1.0))


@triton.jit(do_not_specialize=["excluded"])
def _sum_kernel(
    logits,
    first_rows,
    num_drafts,
    temperature,
    sums,  # float32 [R, ROWS, tiles, 2]: highest value, sum of exp((value - highest) / T)
    ids,  # int32 [R, ROWS, tiles]: the lowest id of the highest value
    row_stride,
    vocabulary,
    excluded,
    ROWS: tl.constexpr,
    EXTRA: tl.constexpr,  # rows without a draft: 1 in a verify forward
    ONLY_DRAWN: tl.constexpr,
    TILE: tl.constexpr,
):
    request = tl.program_id(0).to(tl.int64) // ROWS
    index = tl.program_id(0) % ROWS
    tile = tl.program_id(1)
    degree = tl.load(temperature + request)
    is_idle = index >= tl.load(num_drafts + request).to(tl.int32) + EXTRA
    if ONLY_DRAWN:
        is_idle |= degree == 0
    if is_idle:
        return
    token = tile * TILE + tl.arange(0, TILE)
    row = tl.load(first_rows + request).to(tl.int64) + index
    value = numbers(logits, row, row_stride, token, vocabulary, excluded)
    highest = tl.max(value, 0)
    slot = tl.program_id(0).to(tl.int64) * tl.num_programs(1) + tile
    tl.store(sums + slot * 2, highest)
    tl.store(sums + slot * 2 + 1, tl.sum(power(value, highest, degree), 0))
    tl.store(ids + slot, tl.min(tl.where(value == highest, token, NO_ID), 0))


@triton.jit
def merged(sums, slot, is_slot, temperature):
    """Highest values `[C, TILES]`, their maximum and the normalizer of each row `[C]`."""
    highest = tl.load(sums + slot * 2, mask=is_slot, other=float("-inf"))
    total = tl.load(sums + slot * 2 + 1, mask=is_slot, other=0.0)
    peak = tl.max(highest, 1)
    # a tile of -inf alone has the sum 0
    return highest, peak, tl.sum(total * power(highest, peak[:, None], temperature), 1)


def sum_rows(
    block: BlockLogits,
    num_drafts: torch.Tensor,
    width: int,
    temperature: torch.Tensor,
    excluded: int,
    *,
    has_extra: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the sums `[R, rows, tiles, 2]` and the ids `[R, rows, tiles]` of the tiles of every request's rows.

    A request has a row per draft, and with `has_extra` one more. Without, requests at temperature 0 are left out.
    """
    requests, vocabulary = num_drafts.shape[0], block.logits.shape[1]
    rows, tiles = width + has_extra, triton.cdiv(vocabulary, _TILE)
    sums = block.logits.new_empty((requests, rows, tiles, 2), dtype=torch.float32)
    ids = block.logits.new_empty((requests, rows, tiles), dtype=torch.int32)
    _sum_kernel[(requests * rows, tiles)](
        block.logits,
        block.first_rows,
        num_drafts,
        temperature,
        sums,
        ids,
        block.logits.stride(0),
        vocabulary,
        excluded,
        ROWS=rows,
        EXTRA=int(has_extra),
        ONLY_DRAWN=not has_extra,
        TILE=_TILE,
        num_warps=8,
    )
    return sums, ids
