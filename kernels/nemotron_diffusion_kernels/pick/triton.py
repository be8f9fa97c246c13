"""Picking in Triton: a kernel over tiles of the vocabulary and one that merges the tiles of a row."""

import torch
import triton
import triton.language as tl

from ..noise.triton import gumbel, noise_key
from .api import Picked, Sampling
from .shards import FIELDS, NO_ID

_TILE = 4096
_NO_ID = tl.constexpr(NO_ID)
_FIELDS = tl.constexpr(FIELDS)


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


@triton.jit(do_not_specialize=["mask_token_id", "vocab_start"])
def _tile_kernel(
    logits,
    temperature,
    seeds,
    positions,
    steps,
    scores,  # float64 [N, tiles, 2], of drawn rows only
    values,  # float32 [N, tiles, 2]
    sums,  # float32 [N, tiles, 2]: highest value, sum of exp(value - highest)
    ids,  # int32 [N, tiles, 2]
    row_stride,
    columns,
    mask_token_id,
    vocab_start,
    TILE: tl.constexpr,
    WHOLE: tl.constexpr,  # the last tile is full too
    WITH_SECOND: tl.constexpr,
    DRAWN: tl.constexpr,
):
    tile = tl.program_id(0)
    row = tl.program_id(1).to(tl.int64)
    column = tile * TILE + tl.arange(0, TILE)
    token = vocab_start + column
    is_candidate = token != mask_token_id
    if WHOLE:
        raw = tl.load(logits + row * row_stride + column).to(tl.float32)
    else:
        is_token = column < columns
        is_candidate &= is_token
        raw = tl.load(logits + row * row_stride + column, mask=is_token, other=float("-inf")).to(tl.float32)
    value = tl.where(raw == raw, raw, float("-inf"))
    score = value
    if DRAWN:
        score = value.to(tl.float64)
        degree = tl.load(temperature + row).to(tl.float64)
        if degree > 0:
            key = noise_key(tl.load(seeds + row), tl.load(positions + row), tl.load(steps + row))
            score += degree * gumbel(key, token.to(tl.int64))
    best, best_id, best_value = _best(score, value, token, is_candidate, DRAWN)

    slot = (row * tl.num_programs(0) + tile) * 2
    if DRAWN:
        highest = tl.max(value, 0)
    else:
        left_out = mask_token_id - vocab_start
        is_here = (left_out >= tile * TILE) & (left_out < tl.minimum((tile + 1) * TILE, columns))
        other = tl.load(logits + row * row_stride + left_out, mask=is_here, other=float("-inf")).to(
            tl.float32
        )
        highest = tl.maximum(best, tl.where(other == other, other, float("-inf")))
    shift = tl.where(highest == float("-inf"), 0.0, highest)
    tl.store(sums + slot, highest)
    tl.store(sums + slot + 1, tl.sum(tl.exp(raw - shift), 0))
    tl.store(ids + slot, best_id)
    tl.store(values + slot, best_value)
    if DRAWN:
        tl.store(scores + slot, best)
    if WITH_SECOND:
        best, best_id, best_value = _best(score, value, token, is_candidate & (token != best_id), DRAWN)
        tl.store(ids + slot + 1, best_id)
        tl.store(values + slot + 1, best_value)
        if DRAWN:
            tl.store(scores + slot + 1, best)


@triton.jit(do_not_specialize=["num_tiles"])
def _merge_kernel(
    scores,
    values,
    sums,
    ids,
    tokens,  # int64 [N]
    confidence,  # float32 [N]
    second_tokens,
    second_confidence,
    partials,  # float64 [N, FIELDS], of a shard instead of the four above
    num_tiles,
    TILES: tl.constexpr,
    WITH_SECOND: tl.constexpr,
    DRAWN: tl.constexpr,
    SHARD: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    tile = tl.arange(0, TILES)
    is_tile = tile < num_tiles
    slot = (row * num_tiles + tile) * 2
    highest = tl.load(sums + slot, mask=is_tile, other=float("-inf"))
    total = tl.load(sums + slot + 1, mask=is_tile, other=0.0)
    value = tl.load(values + slot, mask=is_tile, other=float("-inf"))
    best_id = tl.load(ids + slot, mask=is_tile, other=_NO_ID)
    score = value
    if DRAWN:
        score = tl.load(scores + slot, mask=is_tile, other=float("-inf"))

    peak = tl.max(highest, 0)
    shift = tl.where(peak == float("-inf"), 0.0, peak)
    # a tile of -inf alone was summed with the shift 0 and has the sum 0, whatever its weight
    normalizer = tl.sum(total * tl.where(highest == float("-inf"), 1.0, tl.exp(highest - shift)), 0)

    best, token, best_value = _best(score, value, best_id, is_tile, DRAWN)
    if SHARD:
        field = partials + row * _FIELDS
        tl.store(field, best.to(tl.float64))
        tl.store(field + 1, token.to(tl.float64))
        tl.store(field + 2, best_value.to(tl.float64))
        tl.store(field + 6, peak.to(tl.float64))
        tl.store(field + 7, normalizer.to(tl.float64))
    else:
        tl.store(tokens + row, token.to(tl.int64))
        tl.store(confidence + row, tl.exp(best_value - shift) / normalizer)
    if WITH_SECOND:
        is_winner = best_id == token
        value = tl.where(is_winner, tl.load(values + slot + 1, mask=is_tile, other=float("-inf")), value)
        rival = value
        if DRAWN:
            rival = tl.where(is_winner, tl.load(scores + slot + 1, mask=is_tile, other=float("-inf")), score)
        rival_id = tl.where(is_winner, tl.load(ids + slot + 1, mask=is_tile, other=_NO_ID), best_id)
        best, token, best_value = _best(rival, value, rival_id, is_tile, DRAWN)
        if not SHARD:
            tl.store(second_tokens + row, token.to(tl.int64))
            tl.store(second_confidence + row, tl.exp(best_value - shift) / normalizer)
    if SHARD:
        tl.store(field + 3, best.to(tl.float64))
        tl.store(field + 4, token.to(tl.float64))
        tl.store(field + 5, best_value.to(tl.float64))


def pick_triton(
    logits: torch.Tensor, mask_token_id: int | None, with_second: bool, sampling: Sampling | None
) -> Picked:
    """Return what the rows pick; the arguments are those of `pick`, checked there."""
    rows = logits.shape[0]
    tokens, second_tokens = (logits.new_empty(rows, dtype=torch.int64) for _ in range(2))
    confidence, second_confidence = (logits.new_empty(rows, dtype=torch.float32) for _ in range(2))
    outputs = (tokens, confidence, second_tokens, second_confidence, None)
    _launch(logits, mask_token_id, 0, with_second, sampling, outputs)
    return Picked(tokens, confidence, *((second_tokens, second_confidence) if with_second else ()))


def pick_shard_triton(
    logits: torch.Tensor,
    mask_token_id: int | None,
    vocab_start: int,
    with_second: bool,
    sampling: Sampling | None,
) -> torch.Tensor:
    """Return a shard's fields; the arguments are those of `pick_shard`, checked there."""
    partials = logits.new_empty((logits.shape[0], FIELDS), dtype=torch.float64)
    _launch(logits, mask_token_id, vocab_start, with_second, sampling, (None, None, None, None, partials))
    return partials


def _launch(
    logits: torch.Tensor,
    mask_token_id: int | None,
    vocab_start: int,
    with_second: bool,
    sampling: Sampling | None,
    outputs: tuple[torch.Tensor | None, ...],
) -> None:
    rows, columns = logits.shape
    if rows == 0:
        return
    tiles = max(1, triton.cdiv(columns, _TILE))
    values, sums = (logits.new_empty((rows, tiles, 2), dtype=torch.float32) for _ in range(2))
    ids = logits.new_empty((rows, tiles, 2), dtype=torch.int32)
    scores = None if sampling is None else logits.new_empty((rows, tiles, 2), dtype=torch.float64)
    drawn = (None,) * 4 if sampling is None else (sampling.temperature, *sampling.noise)
    _tile_kernel[(tiles, rows)](
        logits,
        *drawn,
        scores,
        values,
        sums,
        ids,
        logits.stride(0),
        columns,
        -1 if mask_token_id is None else mask_token_id,
        vocab_start,
        TILE=_TILE,
        WHOLE=columns > 0 and columns % _TILE == 0,
        WITH_SECOND=with_second,
        DRAWN=sampling is not None,
        num_warps=8,
    )
    _merge_kernel[(rows,)](
        scores,
        values,
        sums,
        ids,
        *outputs,
        tiles,
        TILES=triton.next_power_of_2(tiles),
        WITH_SECOND=with_second,
        DRAWN=sampling is not None,
        SHARD=outputs[-1] is not None,
        num_warps=1,
    )
