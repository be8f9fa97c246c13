"""The token after the accepted drafts in Triton: a draw in tiles of one row per request, then what is emitted."""

# mypy: allow-untyped-defs, allow-incomplete-defs
# Triton reads the annotations of its kernels

import torch
import triton
import triton.language as tl

from ..accept.api import PAD, Accepted
from ..noise.triton import gumbel, noise_key
from .normalizers import NO_ID, numbers, power

_TILE = 2048
_PAD = tl.constexpr(PAD)


@triton.jit(do_not_specialize=["excluded"])
def _draw_kernel(
    drafts,
    num_drafts,
    lengths,
    verify_logits,
    verify_first_rows,
    temperature,
    draft_logits,
    draft_first_rows,
    draft_temperature,
    seeds,
    steps,
    accepted,
    norms,
    scores,  # float64 [R, tiles, 2]: the best of max(p - q, 0), the best of p
    ids,  # int32 [R, tiles, 2]
    drafts_stride,
    verify_stride,
    draft_stride,
    vocabulary,
    excluded,
    DRAFTS: tl.constexpr,
    DRAWN: tl.constexpr,
    TILE: tl.constexpr,
):
    request = tl.program_id(0).to(tl.int64)
    tile = tl.program_id(1)
    count = tl.minimum(tl.load(num_drafts + request).to(tl.int32), DRAFTS)
    degree = tl.load(temperature + request)
    if (count < 0) | (degree == 0):
        return
    last = tl.load(accepted + request)
    token = tile * TILE + tl.arange(0, TILE)
    row = tl.load(verify_first_rows + request).to(tl.int64) + last
    value = numbers(verify_logits, row, verify_stride, token, vocabulary, -1)
    position = tl.load(lengths + request).to(tl.int64) + 1 + last
    noise = gumbel(
        noise_key(tl.load(seeds + request), position, tl.load(steps + request)), token.to(tl.int64)
    )

    plain = value.to(tl.float64) + degree.to(tl.float64) * noise
    score = plain
    if last < count:
        rejected = tl.load(drafts + request * drafts_stride + last)
        score = tl.where(token == rejected, float("-inf"), plain)
        if DRAWN:
            draft_degree = tl.load(draft_temperature + request)
            if draft_degree > 0:
                row = tl.load(draft_first_rows + request).to(tl.int64) + last
                drawn = numbers(draft_logits, row, draft_stride, token, vocabulary, excluded)
                norm = norms + request * 4
                p = power(value, tl.load(norm), degree) / tl.load(norm + 1)
                q = power(drawn, tl.load(norm + 2), draft_degree) / tl.load(norm + 3)
                rest = (p - q).to(tl.float64)
                is_rest = rest > 0
                score = tl.where(is_rest, tl.log(tl.where(is_rest, rest, 1.0)) + noise, float("-inf"))
    is_token = token < vocabulary
    slot = (request * tl.num_programs(1) + tile) * 2
    best = tl.max(tl.where(is_token, score, float("-inf")), 0)
    tl.store(scores + slot, best)
    tl.store(ids + slot, tl.min(tl.where(is_token & (score == best), token, NO_ID), 0))
    best = tl.max(tl.where(is_token, plain, float("-inf")), 0)
    tl.store(scores + slot + 1, best)
    tl.store(ids + slot + 1, tl.min(tl.where(is_token & (plain == best), token, NO_ID), 0))


@triton.jit(do_not_specialize=["num_tiles"])
def _emit_kernel(
    drafts,
    num_drafts,
    lengths,
    temperature,
    accepted,
    likeliest,
    scores,
    ids,
    emitted,  # int64 [R, DRAFTS + 1]
    seeds,  # int64 [R], the next ones
    new_lengths,
    drafts_stride,
    num_tiles,
    DRAFTS: tl.constexpr,
    COLUMNS: tl.constexpr,
    TILES: tl.constexpr,
):
    request = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, COLUMNS)
    is_active = tl.load(num_drafts + request) >= 0
    is_drawn = is_active & (tl.load(temperature + request) != 0)
    last = tl.load(accepted + request)
    length = tl.load(lengths + request).to(tl.int64)

    tile = tl.arange(0, TILES)
    is_tile = tile < tl.where(is_drawn, num_tiles, 0)
    slot = (request * num_tiles + tile) * 2
    score = tl.load(scores + slot, mask=is_tile, other=float("-inf"))
    plain = tl.load(scores + slot + 1, mask=is_tile, other=float("-inf"))
    best = tl.max(score, 0)
    token = tl.min(tl.where(score == best, tl.load(ids + slot, mask=is_tile, other=NO_ID), NO_ID), 0)
    if best == float("-inf"):
        plain_id = tl.load(ids + slot + 1, mask=is_tile, other=NO_ID)
        token = tl.min(tl.where(plain == tl.max(plain, 0), plain_id, NO_ID), 0)
    chosen = tl.where(is_drawn, token, tl.load(likeliest + request, mask=is_active, other=_PAD)).to(tl.int64)

    draft = tl.load(drafts + request * drafts_stride + column, mask=column < DRAFTS, other=_PAD).to(tl.int64)
    token_at = tl.where(column == last, chosen, draft)
    is_emitted = is_active & (column <= last)
    tl.store(
        emitted + request * (DRAFTS + 1) + column,
        tl.where(is_emitted, token_at, _PAD),
        mask=column < DRAFTS + 1,
    )
    tl.store(seeds + request, tl.where(is_active, chosen, _PAD))
    tl.store(new_lengths + request, tl.where(is_active, length + last + 1, length))


def draw(
    drafts: torch.Tensor,
    num_drafts: torch.Tensor,
    lengths: torch.Tensor,
    verify: tuple[torch.Tensor, torch.Tensor],
    temperature: torch.Tensor,
    draft: tuple[torch.Tensor | None, torch.Tensor | None],
    draft_temperature: torch.Tensor,
    seeds: torch.Tensor,
    steps: torch.Tensor,
    accepted: torch.Tensor,
    likeliest: torch.Tensor,
    norms: torch.Tensor,
    excluded: int,
) -> Accepted:
    """Return what is emitted once it is known how many drafts are accepted."""
    rows, width = drafts.shape
    vocabulary = verify[0].shape[1]
    tiles = triton.cdiv(vocabulary, _TILE)
    scores = drafts.new_empty((rows, tiles, 2), dtype=torch.float64)
    ids = drafts.new_empty((rows, tiles, 2), dtype=torch.int32)
    _draw_kernel[(rows, tiles)](
        drafts,
        num_drafts,
        lengths,
        *verify,
        temperature,
        *draft,
        draft_temperature,
        seeds,
        steps,
        accepted,
        norms,
        scores,
        ids,
        drafts.stride(0),
        verify[0].stride(0),
        0 if draft[0] is None else draft[0].stride(0),
        vocabulary,
        excluded,
        DRAFTS=width,
        DRAWN=draft[0] is not None,
        TILE=_TILE,
        num_warps=8,
    )
    emitted = drafts.new_empty((rows, width + 1), dtype=torch.int64)
    next_seeds, new_lengths = (drafts.new_empty(rows, dtype=torch.int64) for _ in range(2))
    _emit_kernel[(rows,)](
        drafts,
        num_drafts,
        lengths,
        temperature,
        accepted,
        likeliest,
        scores,
        ids,
        emitted,
        next_seeds,
        new_lengths,
        drafts.stride(0),
        tiles,
        DRAFTS=width,
        COLUMNS=triton.next_power_of_2(width + 1),
        TILES=triton.next_power_of_2(tiles),
        num_warps=1,
    )
    return Accepted(accepted, emitted, next_seeds, new_lengths)
