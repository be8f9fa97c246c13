"""Picking in Triton: a kernel over tiles of the vocabulary and one that merges the tiles of a row.

The noise of a drawn row is computed in registers, from splitmix64's mixing of seed, position, step and id.
"""

import torch
import triton
import triton.language as tl

_TILE = 4096
_NO_ID = tl.constexpr(2**31 - 1)
_GOLDEN = tl.constexpr(0x9E3779B97F4A7C15)  # 2^64 / golden ratio
_FIRST = tl.constexpr(0xBF58476D1CE4E5B9)
_SECOND = tl.constexpr(0x94D049BB133111EB)


@triton.jit
def _mix(value):
    value = (value ^ (value >> 30)) * _FIRST
    value = (value ^ (value >> 27)) * _SECOND
    return value ^ (value >> 31)


@triton.jit
def noise_key(seed, position, step):
    """The key of a row from three int64."""
    key = _mix(seed.to(tl.uint64, bitcast=True) + _GOLDEN)
    key = _mix(key ^ (position + 1).to(tl.uint64, bitcast=True) * _GOLDEN)
    return _mix(key ^ (step + 1).to(tl.uint64, bitcast=True) * _GOLDEN)


@triton.jit
def uniform(key, token):
    """float64 in (0, 1) for int64 token ids."""
    bits = _mix(key + (token + 1).to(tl.uint64, bitcast=True) * _GOLDEN) >> 12
    return (bits.to(tl.int64, bitcast=True).to(tl.float64) + 0.5) * (2.0**-52)


@triton.jit
def _best(score, value, token, is_candidate, DRAWN: tl.constexpr):
    """The best score, the lowest id that has it and its value; -inf and no id without candidates.

    Unless drawn, a score is the value.
    """
    best = tl.max(tl.where(is_candidate, score, float("-inf")), 0)
    best_id = tl.min(tl.where(is_candidate & (score == best), token, _NO_ID), 0)
    best_value = best
    if DRAWN:
        best_value = tl.max(tl.where(token == best_id, value, float("-inf")), 0)
    return best, best_id, best_value


@triton.jit(do_not_specialize=["mask_token_id"])
def _tile_kernel(
    logits,
    temperature,
    seeds,
    positions,
    steps,
    scores,  # float64 [N, tiles], of drawn rows only
    values,  # float32 [N, tiles]
    sums,  # float32 [N, tiles, 2]: highest value, sum of exp(value - highest)
    ids,  # int32 [N, tiles]
    row_stride,
    vocabulary,
    mask_token_id,
    TILE: tl.constexpr,
    WHOLE: tl.constexpr,  # the last tile is full too
    DRAWN: tl.constexpr,
    SURE: tl.constexpr,  # confidences are wanted
):
    tile = tl.program_id(0)
    row = tl.program_id(1).to(tl.int64)
    token = tile * TILE + tl.arange(0, TILE)
    is_candidate = token != mask_token_id
    if WHOLE:
        raw = tl.load(logits + row * row_stride + token).to(tl.float32)
    else:
        is_token = token < vocabulary
        is_candidate &= is_token
        raw = tl.load(logits + row * row_stride + token, mask=is_token, other=float("-inf")).to(tl.float32)
    value = tl.where(raw == raw, raw, float("-inf"))
    score = value
    if DRAWN:
        score = value.to(tl.float64)
        degree = tl.load(temperature + row).to(tl.float64)
        if degree > 0:
            key = noise_key(tl.load(seeds + row), tl.load(positions + row), tl.load(steps + row))
            score -= degree * tl.log(-tl.log(uniform(key, token.to(tl.int64))))
    best, best_id, best_value = _best(score, value, token, is_candidate, DRAWN)

    slot = row * tl.num_programs(0) + tile
    if SURE:
        if DRAWN:
            highest = tl.max(value, 0)
        else:
            is_here = (mask_token_id >= tile * TILE) & (mask_token_id < (tile + 1) * TILE)
            other = tl.load(logits + row * row_stride + mask_token_id, mask=is_here, other=float("-inf"))
            highest = tl.maximum(best, other.to(tl.float32))
        shift = tl.where(highest == float("-inf"), 0.0, highest)
        tl.store(sums + slot * 2, highest)
        tl.store(sums + slot * 2 + 1, tl.sum(tl.exp(raw - shift), 0))
    tl.store(ids + slot, best_id)
    tl.store(values + slot, best_value)
    if DRAWN:
        tl.store(scores + slot, best)


@triton.jit(do_not_specialize=["num_tiles"])
def _merge_kernel(
    scores,
    values,
    sums,
    ids,
    tokens,  # int64 [N]
    confidence,  # float32 [N]
    num_tiles,
    TILES: tl.constexpr,
    DRAWN: tl.constexpr,
    SURE: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    tile = tl.arange(0, TILES)
    is_tile = tile < num_tiles
    slot = row * num_tiles + tile
    value = tl.load(values + slot, mask=is_tile, other=float("-inf"))
    best_id = tl.load(ids + slot, mask=is_tile, other=_NO_ID)
    score = value
    if DRAWN:
        score = tl.load(scores + slot, mask=is_tile, other=float("-inf"))

    _, token, best_value = _best(score, value, best_id, is_tile, DRAWN)
    tl.store(tokens + row, token.to(tl.int64))
    if SURE:
        highest = tl.load(sums + slot * 2, mask=is_tile, other=float("-inf"))
        total = tl.load(sums + slot * 2 + 1, mask=is_tile, other=0.0)
        peak = tl.max(highest, 0)
        shift = tl.where(peak == float("-inf"), 0.0, peak)
        normalizer = tl.sum(total * tl.exp(highest - shift), 0)
        tl.store(confidence + row, tl.exp(best_value - shift) / normalizer)


def pick_triton(
    logits: torch.Tensor,
    mask_token_id: int | None,
    temperature: torch.Tensor | None,
    noise: tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None,
    confidence: torch.Tensor | None,
) -> torch.Tensor:
    """Return tokens and fill `confidence`, float32 `[N]`, if there is one; the other arguments were checked."""
    rows, vocabulary = logits.shape
    tokens = logits.new_empty(rows, dtype=torch.int64)
    if rows == 0:
        return tokens
    tiles, is_drawn = triton.cdiv(vocabulary, _TILE), temperature is not None
    values = logits.new_empty((rows, tiles), dtype=torch.float32)
    sums = None if confidence is None else logits.new_empty((rows, tiles, 2), dtype=torch.float32)
    ids = logits.new_empty((rows, tiles), dtype=torch.int32)
    scores = logits.new_empty((rows, tiles), dtype=torch.float64) if is_drawn else None
    _tile_kernel[(tiles, rows)](
        logits,
        temperature,
        *(noise or (None, None, None)),
        scores,
        values,
        sums,
        ids,
        logits.stride(0),
        vocabulary,
        -1 if mask_token_id is None else mask_token_id,
        TILE=_TILE,
        WHOLE=vocabulary % _TILE == 0,
        DRAWN=is_drawn,
        SURE=confidence is not None,
        num_warps=8,
    )
    _merge_kernel[(rows,)](
        scores,
        values,
        sums,
        ids,
        tokens,
        confidence,
        tiles,
        TILES=triton.next_power_of_2(tiles),
        DRAWN=is_drawn,
        SURE=confidence is not None,
        num_warps=1,
    )
    return tokens
