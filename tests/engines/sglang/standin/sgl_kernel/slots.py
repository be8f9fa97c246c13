"""Bookkeeping of KV slots and input tokens. The table `req_to_token` holds a request's slots by position."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor


def _cells(rows: Tensor, start: Tensor, end: Tensor) -> tuple[Tensor, Tensor]:
    """Return row and column of the cells `[start, end)` of each row, one row after the other."""
    lengths = (end - start).to(torch.int64)
    first = lengths.cumsum(0) - lengths
    offset = torch.arange(int(lengths.sum())) - first.repeat_interleave(lengths)
    return rows.to(torch.int64).repeat_interleave(lengths), start.to(torch.int64).repeat_interleave(
        lengths
    ) + offset


def assign_req_to_token_pool_cpu(
    req_pool_indices: Tensor,
    req_to_token: Tensor,
    start_offset: Tensor,
    end_offset: Tensor,
    out_cache_loc: Tensor,
    pool_len: int,
) -> None:
    """Write the slots `out_cache_loc`, request after request, to the positions [start, end) of each request."""
    rows, columns = _cells(req_pool_indices, start_offset, end_offset)
    req_to_token[rows, columns] = out_cache_loc[: rows.numel()].to(req_to_token.dtype)


def assign_extend_cache_locs_cpu(
    req_pool_indices: Tensor,
    req_to_token: Tensor,
    start_offset: Tensor,
    end_offset: Tensor,
    out_cache_loc: Tensor,
    pool_len: int,
) -> None:
    """Read the slots of the positions [start, end) of each request into `out_cache_loc`."""
    rows, columns = _cells(req_pool_indices, start_offset, end_offset)
    out_cache_loc[: rows.numel()] = req_to_token[rows, columns].to(out_cache_loc.dtype)


def assign_draft_cache_locs_contiguous_cpu(
    req_pool_indices: Tensor,
    req_to_token: Tensor,
    seq_lens: Tensor,
    out_cache_loc: Tensor,
    pool_len: int,
    topk: int,
    num_steps: int,
) -> None:
    """Read the `topk * num_steps` slots behind each request's last token into `out_cache_loc`."""
    end = seq_lens + topk * num_steps
    assign_extend_cache_locs_cpu(req_pool_indices, req_to_token, seq_lens, end, out_cache_loc, pool_len)


def fill_bonus_tokens_cpu(
    accept_tokens: Tensor, accept_lens: Tensor, bonus_tokens: Tensor, accept_stride: int
) -> None:
    """Take the last accepted token of each request; `accept_tokens` has `accept_stride` places for each."""
    lengths = accept_lens.reshape(-1).to(torch.int64)
    last = torch.arange(lengths.numel()) * accept_stride + lengths - 1
    bonus_tokens.copy_(accept_tokens.reshape(-1)[last])


def fill_accept_out_cache_loc_cpu(
    accept_index: Tensor, out_cache_loc: Tensor, accept_out_cache_loc: Tensor
) -> None:
    """Gather the slots of the accepted rows (those of `accept_index` that are not -1) at the front."""
    rows = accept_index.reshape(-1)
    rows = rows[rows != -1].to(torch.int64)
    accept_out_cache_loc[: rows.numel()] = out_cache_loc[rows]


def copy_all_layer_kv_cache_cpu(data_ptrs: Tensor, strides: Tensor, tgt_loc: Tensor, src_loc: Tensor) -> None:
    """Copy slots `src_loc` to `tgt_loc` in every buffer, given by its address and its bytes per slot."""
    targets, sources = tgt_loc.tolist(), src_loc.tolist()
    for address, stride in zip(data_ptrs.tolist(), strides.tolist(), strict=True):
        base = address % 2**64  # addresses are kept as signed integers
        rows = [ctypes.string_at(base + slot * stride, stride) for slot in sources]
        for slot, row in zip(targets, rows, strict=True):
            ctypes.memmove(base + slot * stride, row, stride)


def rotate_input_ids_cpu(
    input_ids: Tensor,
    extend_start_loc: Tensor,
    extend_seq_lens: Tensor,
    topk_index: Tensor,
    select_index: Tensor | None = None,
) -> None:
    """Shift each request's tokens one to the left and put its new token at the end, or at `select_index`."""
    for i, (start, length) in enumerate(
        zip(extend_start_loc.tolist(), extend_seq_lens.tolist(), strict=True)
    ):
        if length > 0:
            input_ids[start : start + length - 1] = input_ids[start + 1 : start + length].clone()
            last = start + length - 1 if select_index is None else int(select_index[i])
            input_ids[last] = topk_index.reshape(-1)[i]
