"""Rejection sampling in Triton: normalizers of all rows, acceptance, a draw from one row per request.

Rows are cut into tiles of the vocabulary, so that a few rows fill the card; the next launch merges a row's tiles.
Programs of a request without work return at once.
"""

import torch
import triton
import triton.language as tl

from ..accept.api import PAD, Accepted
from ..noise import ACCEPTANCE
from ..noise.triton import noise_key, uniform
from .api import BlockLogits
from .draw import draw
from .normalizers import NO_ID, merged, power, sum_rows

_PAD = tl.constexpr(PAD)
_ACCEPTANCE = tl.constexpr(ACCEPTANCE)


@triton.jit(do_not_specialize=["num_tiles", "excluded"])
def _accept_kernel(
    drafts,
    num_drafts,
    lengths,
    verify_logits,
    verify_first_rows,
    temperature,
    verify_sums,
    verify_ids,
    draft_logits,
    draft_first_rows,
    draft_temperature,
    draft_sums,
    seeds,
    steps,
    accepted,  # int64 [R]
    likeliest,  # int32 [R], the most likely id of the row to draw from
    norms,  # float32 [R, 4], of that row: highest logit and normalizer of p, the same of q
    drafts_stride,
    verify_stride,
    draft_stride,
    vocabulary,
    excluded,
    num_tiles,
    DRAFTS: tl.constexpr,
    COLUMNS: tl.constexpr,
    TILES: tl.constexpr,
    DRAWN: tl.constexpr,  # drafts may have been drawn: there are rows of q
):
    request = tl.program_id(0).to(tl.int64)
    count = tl.minimum(tl.load(num_drafts + request).to(tl.int32), DRAFTS)
    if count < 0:
        tl.store(accepted + request, 0)
        return
    column = tl.arange(0, COLUMNS)
    tile = tl.arange(0, TILES)[None, :]
    is_draft = column < count
    degree = tl.load(temperature + request)
    draft = tl.load(drafts + request * drafts_stride + column, mask=is_draft, other=_PAD).to(tl.int64)
    is_id = (draft >= 0) & (draft < vocabulary)

    slot = (request * (DRAFTS + 1) + column[:, None]) * num_tiles + tile
    is_slot = (column[:, None] <= count) & (tile < num_tiles)
    highest, peak, normalizer = merged(verify_sums, slot, is_slot, degree)
    ids = tl.load(verify_ids + slot, mask=is_slot, other=NO_ID)
    first = tl.min(tl.where(highest == peak[:, None], ids, NO_ID), 1)
    row = tl.load(verify_first_rows + request).to(tl.int64) + column
    value = tl.load(verify_logits + row * verify_stride + draft, mask=is_id, other=float("-inf"))
    value = tl.where(value == value, value, float("-inf")).to(tl.float32)
    p = power(value, peak, degree) / normalizer

    q = tl.full([COLUMNS], 1.0, tl.float32)
    draft_peak = tl.zeros([COLUMNS], tl.float32)
    draft_normalizer = q
    if DRAWN:
        draft_degree = tl.load(draft_temperature + request)
        if draft_degree > 0:
            slot = (request * DRAFTS + column[:, None]) * num_tiles + tile
            is_slot = is_draft[:, None] & (tile < num_tiles)
            _, draft_peak, draft_normalizer = merged(draft_sums, slot, is_slot, draft_degree)
            row = tl.load(draft_first_rows + request).to(tl.int64) + column
            is_drawable = is_id & (draft != excluded)
            value = tl.load(draft_logits + row * draft_stride + draft, mask=is_drawable, other=float("-inf"))
            value = tl.where(value == value, value, float("-inf")).to(tl.float32)
            q = power(value, draft_peak, draft_degree) / draft_normalizer

    position = tl.load(lengths + request).to(tl.int64) + 1 + column
    key = noise_key(tl.load(seeds + request), position, tl.load(steps + request))
    chance = uniform(key, tl.full([COLUMNS], _ACCEPTANCE, tl.int64))
    agrees = chance * q.to(tl.float64) < p.to(tl.float64)
    if degree == 0:
        agrees = draft == first
    is_end = (column >= count) | (is_id == 0) | (agrees == 0)
    last = tl.min(tl.where(is_end, column, COLUMNS), 0)

    tl.store(accepted + request, last.to(tl.int64))
    is_last = column == last
    tl.store(likeliest + request, tl.sum(tl.where(is_last, first, 0), 0))
    tl.store(norms + request * 4, tl.sum(tl.where(is_last, peak, 0.0), 0))
    tl.store(norms + request * 4 + 1, tl.sum(tl.where(is_last, normalizer, 0.0), 0))
    tl.store(norms + request * 4 + 2, tl.sum(tl.where(is_last, draft_peak, 0.0), 0))
    tl.store(norms + request * 4 + 3, tl.sum(tl.where(is_last, draft_normalizer, 0.0), 0))


def accept_sampled_triton(
    drafts: torch.Tensor,
    num_drafts: torch.Tensor,
    lengths: torch.Tensor,
    verify: BlockLogits,
    temperature: torch.Tensor,
    seeds: torch.Tensor,
    steps: torch.Tensor,
    draft: BlockLogits | None,
    draft_temperature: torch.Tensor,
    mask_token_id: int | None,
) -> Accepted:
    """Return what is accepted; the arguments are those of `accept_sampled`, checked there."""
    rows, width = drafts.shape
    accepted = drafts.new_empty(rows, dtype=torch.int64)
    if rows == 0:
        return Accepted(accepted, drafts.new_empty((0, width + 1), dtype=torch.int64), accepted, accepted)
    excluded = -1 if mask_token_id is None else mask_token_id
    verify_sums, verify_ids = sum_rows(verify, num_drafts, width, temperature, -1, has_extra=True)
    tiles = verify_ids.shape[2]
    columns, padded_tiles = triton.next_power_of_2(width + 1), triton.next_power_of_2(tiles)
    drawn_from: tuple[torch.Tensor | None, torch.Tensor | None] = (None, None)
    draft_sums = None
    if draft is not None and width:
        draft_sums, _ = sum_rows(draft, num_drafts, width, draft_temperature, excluded, has_extra=False)
        drawn_from = tuple(draft)
    likeliest = drafts.new_empty(rows, dtype=torch.int32)
    norms = drafts.new_empty((rows, 4), dtype=torch.float32)
    _accept_kernel[(rows,)](
        drafts,
        num_drafts,
        lengths,
        *verify,
        temperature,
        verify_sums,
        verify_ids,
        *drawn_from,
        draft_temperature,
        draft_sums,
        seeds,
        steps,
        accepted,
        likeliest,
        norms,
        drafts.stride(0),
        verify.logits.stride(0),
        0 if draft is None else draft.logits.stride(0),
        verify.logits.shape[1],
        excluded,
        tiles,
        DRAFTS=width,
        COLUMNS=columns,
        TILES=padded_tiles,
        DRAWN=draft_sums is not None,
        num_warps=max(4, min(16, columns * padded_tiles // 256)),
    )
    return draw(
        drafts,
        num_drafts,
        lengths,
        verify,
        temperature,
        drawn_from,
        draft_temperature,
        seeds,
        steps,
        accepted,
        likeliest,
        norms,
        excluded,
    )
