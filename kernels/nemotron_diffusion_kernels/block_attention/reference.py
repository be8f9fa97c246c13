"""Paged block attention in plain torch, one request at a time."""

import torch

from .structure import ONE_BLOCK, Form, Structure


def block_attention_reference(
    query: torch.Tensor,
    key_pages: torch.Tensor,
    value_pages: torch.Tensor,
    page_table: torch.Tensor,
    query_start_loc: torch.Tensor,
    seq_lens: torch.Tensor,
    is_causal: torch.Tensor,
    scale: float,
    key_scale: float = 1.0,
    value_scale: float = 1.0,
    structure: Structure = ONE_BLOCK,
    compute_dtype: torch.dtype = torch.float32,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return the attention of every query row, `[N, query heads, head_dim]` in the dtype of `query`.

    Request r has the n = query_start_loc[r + 1] - query_start_loc[r] rows from query_start_loc[r] on and
    s = seq_lens[r] tokens in the cache, the n new ones last. Token t lies in page page_table[r, t // page_size] at
    t % page_size. Query i stands at position p = s - n + i and sees the keys

        V_i = {j : 0 <= j <= p}   where is_causal[r]
        V_i = {j : 0 <= j < s}    elsewhere, for one block,

    and else the cached tokens with the new ones that the `structure` lets query i see.

    For query head h, which reads KV head g = h // (query heads / KV heads),

        a_ij = scale * key_scale * q_ih . k_jg          j in V_i
        o_ih = value_scale * sum_j exp(a_ij) v_jg / sum_j exp(a_ij),

    and o_ih = 0 where V_i is empty. Keys outside V_i are never multiplied, so they may hold anything. Sums run in
    `compute_dtype`. Rows of no request keep what `out` holds, zero without `out`.
    """
    result = torch.zeros_like(query) if out is None else out
    page_size, kv_heads = key_pages.shape[1:3]
    group = query.shape[1] // kv_heads
    for request in range(seq_lens.shape[0]):
        first, last = int(query_start_loc[request]), int(query_start_loc[request + 1])
        length = int(seq_lens[request])
        if first == last:
            continue
        token = torch.arange(length, device=query.device)
        page = page_table[request].long()[token // page_size]
        keys = key_pages[page, token % page_size].to(compute_dtype)  # [S, Hkv, D]
        values = value_pages[page, token % page_size].to(compute_dtype)
        keys, values = (part.repeat_interleave(group, dim=1) for part in (keys, values))
        rows = query[first:last].to(compute_dtype)  # [n, Hq, D]
        position = torch.arange(length - (last - first), length, device=query.device)
        is_visible = token[None] <= position[:, None]  # [n, S]
        if not bool(is_causal[request]):
            is_visible = _visible(token - (length - (last - first)), last - first, structure)
        scores = torch.einsum("qhd,khd->hqk", rows, keys) * (scale * key_scale)
        scores = scores.masked_fill(~is_visible, -torch.inf)
        weights = scores.softmax(dim=-1).masked_fill(~is_visible, 0.0)
        attended = torch.einsum("hqk,khd->qhd", weights, values) * value_scale
        result[first:last] = attended.to(query.dtype)
    return result


def _visible(key: torch.Tensor, queries: int, structure: Structure) -> torch.Tensor:
    """Return who sees whom, bool `[queries, keys]`; `key` counts from the first new token, cached ones below 0."""
    index = torch.arange(queries, device=key.device)[:, None]
    key = key[None]
    if structure.form == Form.ONE_BLOCK:
        return torch.ones_like(index >= key)
    if structure.form == Form.BLOCK_CAUSAL:
        return (key < 0) | (index // structure.block_size >= key // structure.block_size)
    size = structure.block_size + 1
    is_earlier_draft = (key % size == 0) & (key // size <= index // size)
    is_own_group = (index % size != 0) & (key // size == index // size)
    return (key < 0) | is_earlier_draft | is_own_group
