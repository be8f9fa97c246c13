"""Picking in Triton: a kernel over tiles of the vocabulary and one that merges the tiles of a row."""

import torch
import triton
import triton.language as tl

from .api import Picked

_TILE = 4096
_STATS = 4  # best and second best value, highest value, sum of exp(value - highest)


@triton.jit(do_not_specialize=["mask_token_id"])
def _tile_kernel(
    logits,
    stats,  # float32 [N, tiles, 4]
    ids,  # int32 [N, tiles, 2]
    row_stride,
    vocabulary,
    mask_token_id,
    TILE: tl.constexpr,
    WITH_SECOND: tl.constexpr,
):
    tile = tl.program_id(0)
    row = tl.program_id(1).to(tl.int64)
    token = tile * TILE + tl.arange(0, TILE)
    is_token = token < vocabulary
    value = tl.load(logits + row * row_stride + token, mask=is_token, other=float("-inf")).to(tl.float32)
    number = tl.where(value == value, value, float("-inf"))

    highest = tl.max(number, 0)
    shift = tl.where(highest == float("-inf"), 0.0, highest)
    total = tl.sum(tl.exp(value - shift), 0)

    is_candidate = is_token & (token != mask_token_id)
    candidate = tl.where(is_candidate, number, float("-inf"))
    best = tl.max(candidate, 0)
    best_id = tl.min(tl.where(is_candidate & (candidate == best), token, vocabulary), 0)

    slot = row * tl.num_programs(0) + tile
    tl.store(stats + slot * 4, best)
    tl.store(stats + slot * 4 + 2, highest)
    tl.store(stats + slot * 4 + 3, total)
    tl.store(ids + slot * 2, best_id)
    if WITH_SECOND:
        is_other = is_candidate & (token != best_id)
        other = tl.where(is_other, number, float("-inf"))
        second = tl.max(other, 0)
        tl.store(stats + slot * 4 + 1, second)
        tl.store(ids + slot * 2 + 1, tl.min(tl.where(is_other & (other == second), token, vocabulary), 0))


@triton.jit(do_not_specialize=["num_tiles"])
def _merge_kernel(
    stats,
    ids,
    tokens,  # int64 [N]
    confidence,  # float32 [N]
    second_tokens,
    second_confidence,
    vocabulary,
    num_tiles,
    TILES: tl.constexpr,
    WITH_SECOND: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    tile = tl.arange(0, TILES)
    is_tile = tile < num_tiles
    slot = row * num_tiles + tile
    best = tl.load(stats + slot * 4, mask=is_tile, other=float("-inf"))
    highest = tl.load(stats + slot * 4 + 2, mask=is_tile, other=float("-inf"))
    total = tl.load(stats + slot * 4 + 3, mask=is_tile, other=0.0)
    best_id = tl.load(ids + slot * 2, mask=is_tile, other=vocabulary)

    peak = tl.max(highest, 0)
    shift = tl.where(peak == float("-inf"), 0.0, peak)
    # a tile of -inf alone was summed with the shift 0 and has the sum 0, whatever its weight
    normalizer = tl.sum(total * tl.where(highest == float("-inf"), 1.0, tl.exp(highest - shift)), 0)

    value = tl.max(best, 0)
    token = tl.min(tl.where(best == value, best_id, vocabulary), 0)
    tl.store(tokens + row, token.to(tl.int64))
    tl.store(confidence + row, tl.exp(value - shift) / normalizer)
    if WITH_SECOND:
        second = tl.load(stats + slot * 4 + 1, mask=is_tile, other=float("-inf"))
        second_id = tl.load(ids + slot * 2 + 1, mask=is_tile, other=vocabulary)
        is_winner = best_id == token
        rival = tl.where(is_winner, second, best)
        rival_id = tl.where(is_winner, second_id, best_id)
        value = tl.max(rival, 0)
        token = tl.min(tl.where(rival == value, rival_id, vocabulary), 0)
        tl.store(second_tokens + row, token.to(tl.int64))
        tl.store(second_confidence + row, tl.exp(value - shift) / normalizer)


def pick_triton(logits: torch.Tensor, mask_token_id: int | None, with_second: bool) -> Picked:
    """Return what the rows pick; the arguments are those of `pick`, checked there."""
    rows, vocabulary = logits.shape
    tokens, second_tokens = (logits.new_empty(rows, dtype=torch.int64) for _ in range(2))
    confidence, second_confidence = (logits.new_empty(rows, dtype=torch.float32) for _ in range(2))
    if rows:
        tiles = triton.cdiv(vocabulary, _TILE)
        stats = logits.new_empty((rows, tiles, _STATS), dtype=torch.float32)
        ids = logits.new_empty((rows, tiles, 2), dtype=torch.int32)
        mask = -1 if mask_token_id is None else mask_token_id
        _tile_kernel[(tiles, rows)](
            logits,
            stats,
            ids,
            logits.stride(0),
            vocabulary,
            mask,
            TILE=_TILE,
            WITH_SECOND=with_second,
            num_warps=8,
        )
        _merge_kernel[(rows,)](
            stats,
            ids,
            tokens,
            confidence,
            second_tokens,
            second_confidence,
            vocabulary,
            tiles,
            TILES=triton.next_power_of_2(tiles),
            WITH_SECOND=with_second,
            num_warps=1,
        )
    return Picked(tokens, confidence, *((second_tokens, second_confidence) if with_second else ()))
