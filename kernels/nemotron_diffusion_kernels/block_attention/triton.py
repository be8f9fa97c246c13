"""Paged block attention in Triton: a kernel over splits of the cache and one that merges them.

A program of the first kernel owns `rows` packed rows of one KV head (row = query * group + head of the group) and
one split of the cache, so keys and values are read once per KV head however many query heads and queries there
are. It leaves the unnormalised sum, the maximum and the sum of the weights; the second kernel merges the splits
of a row, 16 at a time from the first on. A split that a row does not see adds exact zeros to either sum.
"""

import torch
import triton
import triton.language as tl

from ..backends import is_interpreted
from .tiling import Tiling, next_power_of_two

_LOG2_E = 1.4426950408889634
_MERGED = 16  # splits merged at a time; part of a row's order of sums like the tiling


@triton.jit(do_not_specialize=["num_rows", "max_seq_length"])
def _split_kernel(
    query,
    key_pages,
    value_pages,
    page_table,
    query_start_loc,
    seq_lens,
    is_causal,
    partial_sum,  # float32 [splits, N, query heads, head_dim]
    partial_stats,  # float32 [splits, N, query heads, 2]: maximum, sum of weights
    num_rows,
    max_seq_length,
    scale_log2,
    query_token_stride,
    query_head_stride,
    key_page_stride,
    key_token_stride,
    key_head_stride,
    value_page_stride,
    value_token_stride,
    value_head_stride,
    page_table_stride,
    PAGE_SIZE: tl.constexpr,
    GROUP: tl.constexpr,
    HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    DIM: tl.constexpr,
    ROWS: tl.constexpr,
    KEYS: tl.constexpr,
    SPLIT: tl.constexpr,
    ROW_TILES: tl.constexpr,
    MAX_QUERY: tl.constexpr,
    STAGES: tl.constexpr,
    WIDEN: tl.constexpr,
):
    split = tl.program_id(0) // ROW_TILES
    row_tile = tl.program_id(0) % ROW_TILES
    kv_head = tl.program_id(1)
    request = tl.program_id(2)
    first = tl.load(query_start_loc + request).to(tl.int64)
    query_length = (tl.load(query_start_loc + request + 1).to(tl.int64) - first).to(tl.int32)
    seq_length = tl.load(seq_lens + request).to(tl.int32)
    start = split * SPLIT
    end = tl.minimum(tl.minimum(start + SPLIT, seq_length), max_seq_length)
    if (start >= end) | (row_tile * ROWS >= query_length * GROUP):
        return

    row = row_tile * ROWS + tl.arange(0, ROWS)
    index = row // GROUP
    head = kv_head * GROUP + row % GROUP
    is_row = (index < query_length) & (index < MAX_QUERY)
    causal = tl.load(is_causal + request) != 0
    cached = seq_length - query_length
    visible_end = cached + tl.where(causal, index + 1, query_length)  # [ROWS]
    end = tl.minimum(end, tl.max(tl.where(is_row, visible_end, 0), 0))

    dim = tl.arange(0, DIM)
    is_dim = dim < HEAD_DIM
    token = first + index
    rows = tl.load(
        query + token[:, None] * query_token_stride + head[:, None] * query_head_stride + dim[None, :],
        mask=is_row[:, None] & is_dim[None, :],
        other=0.0,
    )
    if WIDEN:
        rows = rows.to(tl.float32)

    highest = tl.full([ROWS], float("-inf"), dtype=tl.float32)
    total = tl.zeros([ROWS], dtype=tl.float32)
    summed = tl.zeros([ROWS, DIM], dtype=tl.float32)
    pages = page_table + request.to(tl.int64) * page_table_stride
    key_head = key_pages + kv_head.to(tl.int64) * key_head_stride
    value_head = value_pages + kv_head.to(tl.int64) * value_head_stride
    for tile in tl.range(start, end, KEYS, num_stages=STAGES):
        key = tile + tl.arange(0, KEYS)
        is_key = key < end
        if PAGE_SIZE % KEYS == 0:
            page = tl.load(pages + tile // PAGE_SIZE).to(tl.int64)
            key_start = key_head + page * key_page_stride
            value_start = value_head + page * value_page_stride
            slot = (tile % PAGE_SIZE + tl.arange(0, KEYS)).to(tl.int64)
            key_token = slot * key_token_stride
            value_token = slot * value_token_stride
        else:
            page = tl.load(pages + key // PAGE_SIZE, mask=is_key, other=0).to(tl.int64)
            slot = (key % PAGE_SIZE).to(tl.int64)
            key_start = key_head
            value_start = value_head
            key_token = page * key_page_stride + slot * key_token_stride
            value_token = page * value_page_stride + slot * value_token_stride
        keys = tl.load(
            key_start + key_token[None, :] + dim[:, None],
            mask=is_key[None, :] & is_dim[:, None],
            other=0.0,
        ).to(rows.dtype)
        scores = tl.dot(rows, keys, input_precision="ieee") * scale_log2
        is_visible = is_key[None, :] & (key[None, :] < visible_end[:, None])
        scores = tl.where(is_visible, scores, float("-inf"))

        higher = tl.maximum(highest, tl.max(scores, 1))
        reference = tl.where(higher == float("-inf"), 0.0, higher)  # a row that has seen no key yet
        weights = tl.exp2(scores - reference[:, None])
        decay = tl.exp2(highest - reference)
        values = tl.load(
            value_start + value_token[:, None] + dim[None, :],
            mask=is_key[:, None] & is_dim[None, :],
            other=0.0,
        ).to(rows.dtype)
        total = total * decay + tl.sum(weights, 1)
        weights = weights.to(query.dtype.element_ty).to(rows.dtype)
        summed = tl.dot(weights, values, summed * decay[:, None], input_precision="ieee")
        highest = higher

    slot = (num_rows.to(tl.int64) * split + token) * HEADS + head
    tl.store(partial_stats + slot * 2, highest, mask=is_row)
    tl.store(partial_stats + slot * 2 + 1, total, mask=is_row)
    tl.store(
        partial_sum + slot[:, None] * HEAD_DIM + dim[None, :],
        summed,
        mask=is_row[:, None] & is_dim[None, :],
    )


@triton.jit(do_not_specialize=["num_rows", "num_splits"])
def _merge_kernel(
    partial_sum,
    partial_stats,
    query_start_loc,
    seq_lens,
    out,
    num_rows,
    num_splits,
    value_scale,
    out_token_stride,
    out_head_stride,
    HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    DIM: tl.constexpr,
    SPLIT: tl.constexpr,
    MERGED: tl.constexpr,
):
    index = tl.program_id(0)
    head = tl.program_id(1)
    request = tl.program_id(2)
    first = tl.load(query_start_loc + request).to(tl.int64)
    query_length = (tl.load(query_start_loc + request + 1).to(tl.int64) - first).to(tl.int32)
    if index >= query_length:
        return
    seq_length = tl.load(seq_lens + request).to(tl.int32)
    splits = tl.minimum((seq_length + SPLIT - 1) // SPLIT, num_splits)
    token = first + index
    dim = tl.arange(0, DIM)
    is_dim = dim < HEAD_DIM

    highest = tl.full([1], float("-inf"), dtype=tl.float32)
    total = tl.zeros([1], dtype=tl.float32)
    summed = tl.zeros([DIM], dtype=tl.float32)
    for start in range(0, splits, MERGED):
        split = start + tl.arange(0, MERGED)
        is_split = split < splits
        slot = (num_rows.to(tl.int64) * split + token) * HEADS + head
        peak = tl.load(partial_stats + slot * 2, mask=is_split, other=float("-inf"))
        weight_sum = tl.load(partial_stats + slot * 2 + 1, mask=is_split, other=0.0)
        part = tl.load(
            partial_sum + slot[:, None] * HEAD_DIM + dim[None, :],
            mask=is_split[:, None] & is_dim[None, :],
            other=0.0,
        )
        higher = tl.maximum(highest, tl.max(peak, 0))
        reference = tl.where(higher == float("-inf"), 0.0, higher)
        weight = tl.exp2(peak - reference)
        decay = tl.exp2(highest - reference)
        total = total * decay + tl.sum(weight * weight_sum, 0)
        summed = summed * decay + tl.sum(weight[:, None] * part, 0)
        highest = higher
    result = summed * (value_scale / tl.where(total == 0.0, 1.0, total))
    tl.store(
        out + token * out_token_stride + head * out_head_stride + dim,
        result.to(out.dtype.element_ty),
        mask=is_dim,
    )


def block_attention_triton(
    query: torch.Tensor,
    key_pages: torch.Tensor,
    value_pages: torch.Tensor,
    page_table: torch.Tensor,
    query_start_loc: torch.Tensor,
    seq_lens: torch.Tensor,
    is_causal: torch.Tensor,
    out: torch.Tensor,
    max_query_length: int,
    max_seq_length: int,
    scale: float,
    key_scale: float,
    value_scale: float,
    tiling: Tiling,
) -> torch.Tensor:
    """Write `out` and return it; the arguments are those of `block_attention`, checked there."""
    num_rows, heads, head_dim = query.shape
    requests, kv_heads = seq_lens.shape[0], key_pages.shape[2]
    if num_rows == 0 or requests == 0:
        return out
    group = heads // kv_heads
    splits = -(-max_seq_length // tiling.split_length)
    row_tiles = -(-max_query_length * group // tiling.rows)
    dim = next_power_of_two(head_dim)
    partial_sum = query.new_empty((splits, num_rows, heads, head_dim), dtype=torch.float32)
    partial_stats = query.new_empty((splits, num_rows, heads, 2), dtype=torch.float32)
    if splits:
        _split_kernel[(splits * row_tiles, kv_heads, requests)](
            query,
            key_pages,
            value_pages,
            page_table,
            query_start_loc,
            seq_lens,
            is_causal,
            partial_sum,
            partial_stats,
            num_rows,
            max_seq_length,
            scale * key_scale * _LOG2_E,
            *query.stride()[:2],
            *key_pages.stride()[:3],
            *value_pages.stride()[:3],
            page_table.stride(0),
            PAGE_SIZE=key_pages.shape[1],
            GROUP=group,
            HEADS=heads,
            HEAD_DIM=head_dim,
            DIM=dim,
            ROWS=tiling.rows,
            KEYS=tiling.keys,
            SPLIT=tiling.split_length,
            ROW_TILES=row_tiles,
            MAX_QUERY=max_query_length,
            STAGES=tiling.stages,
            WIDEN=is_interpreted() and query.dtype == torch.bfloat16,
            num_warps=tiling.warps,
        )
    _merge_kernel[(max_query_length, heads, requests)](
        partial_sum,
        partial_stats,
        query_start_loc,
        seq_lens,
        out,
        num_rows,
        splits,
        value_scale,
        *out.stride()[:2],
        HEADS=heads,
        HEAD_DIM=head_dim,
        DIM=dim,
        SPLIT=tiling.split_length,
        MERGED=_MERGED,
    )
    return out
