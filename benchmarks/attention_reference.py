"""Paged block attention in plain torch: what the kernel is checked against, here and in the tests."""

import torch


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
) -> torch.Tensor:
    """Return the attention of every query row, float64 `[N, query heads, head_dim]`, zero in rows of no request.

    Request r has the n = query_start_loc[r + 1] - query_start_loc[r] rows from query_start_loc[r] on and
    s = seq_lens[r] tokens in the cache, the n new ones last. Token t lies in page page_table[r, t // page_size] at
    t % page_size. Query i stands at position p = s - n + i and sees the keys

        V_i = {j : 0 <= j <= p}   where is_causal[r]
        V_i = {j : 0 <= j < s}    elsewhere.

    For query head h, which reads KV head g = h // (query heads / KV heads),

        a_ij = scale * key_scale * q_ih . k_jg          j in V_i
        o_ih = value_scale * sum_j exp(a_ij) v_jg / sum_j exp(a_ij),

    and o_ih = 0 where V_i is empty.
    """
    result = torch.zeros_like(query, dtype=torch.float64)
    page_size, kv_heads = key_pages.shape[1:3]
    group = query.shape[1] // kv_heads
    for request, length in enumerate(seq_lens.tolist()):
        first, last = query_start_loc[request : request + 2].tolist()
        token = torch.arange(length, device=query.device)
        page = page_table[request].long()[token // page_size]
        keys, values = (
            pages[page, token % page_size].double().repeat_interleave(group, dim=1)  # [S, Hq, D]
            for pages in (key_pages, value_pages)
        )
        position = torch.arange(length - (last - first), length, device=query.device)
        is_hidden = (token[None] > position[:, None]) & (is_causal[request] != 0)  # [n, S]
        scores = torch.einsum("qhd,khd->hqk", query[first:last].double(), keys) * (scale * key_scale)
        weights = scores.masked_fill(is_hidden, -torch.inf).softmax(dim=-1).masked_fill(is_hidden, 0.0)
        result[first:last] = torch.einsum("hqk,khd->qhd", weights, values) * value_scale
    return result
