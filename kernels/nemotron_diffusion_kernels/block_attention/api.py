"""Attention of blocks of queries over a paged KV cache: arguments and checks."""

import torch

from ..backends import check_triton
from ..checks import FLAGS, FLOATS, INTEGERS, check_tensor
from .tiling import MAX_QUERY_LENGTH, Tiling, default_tiling

HEAD_SIZES = (32, 64, 96, 128)
_NAME = "block_attention"
_FP8 = (torch.float8_e4m3fn, torch.float8_e5m2)


def block_attention(
    query: torch.Tensor,
    key_pages: torch.Tensor,
    value_pages: torch.Tensor,
    page_table: torch.Tensor,
    query_start_loc: torch.Tensor,
    seq_lens: torch.Tensor,
    is_causal: torch.Tensor,
    *,
    max_query_length: int,
    max_seq_length: int,
    scale: float | None = None,
    key_scale: float = 1.0,
    value_scale: float = 1.0,
    out: torch.Tensor | None = None,
    tiling: Tiling | None = None,
) -> torch.Tensor:
    """Return the attention of N query rows of R requests (docs/model.md, 2), `[N, query heads, head_dim]`.

    The keys and values of the new tokens are in the pages already. A request's last `query length` tokens are
    its queries. A causal request's query sees the tokens up to its own position; another request's query sees
    all of its tokens. Both kinds may share a batch. A row that sees no key becomes zero. Rows of `out` from
    query_start_loc[R] on stay as they are.

    Nothing is read from the device on the host, and the grid depends on shapes, `max_query_length`,
    `max_seq_length` and `tiling` alone, so the call can be captured in a CUDA graph and replayed with other
    lengths within these bounds. A request without queries costs next to nothing. Longer queries or sequences
    than announced cannot be seen without reading them: their excess is left out.

    A row's bits: the cache is cut into splits of `tiling.split_length` tokens from position 0 on, every split is
    summed on its own in tiles of `tiling.keys`, and the splits are merged in a fixed order. Keys that a row does
    not see add exact zeros. So a row depends on its query, on the keys and values it sees and on the tiling, not
    on the rest of the batch, on `max_seq_length`, on the page size or on where pages lie. A causal row of a verify
    forward is bit-equal to the same row decoded alone if the queries, keys and values are bit-equal, the values
    of the block that it does not see are finite, and both calls use the same tiling: give the same `tiling`, or
    leave it to the default and give the same `max_query_length` (a capacity, such as the block size, not the
    batch's own maximum).

    Args:
        query: float32, bfloat16 or float16 `[N, query heads, head_dim]`, head_dim 32, 64, 96 or 128.
        key_pages: `[pages, page_size, KV heads, head_dim]` in the dtype of `query`, float8_e4m3fn or float8_e5m2;
            any page size; any strides but 1 in the last dimension.
        value_pages: like `key_pages`.
        page_table: int32 or int64 `[R, pages of a request]`; entries past a request's length are not read.
        query_start_loc: int32 or int64 `[R + 1]`, not decreasing, from 0.
        seq_lens: int32 or int64 `[R]`, tokens in the cache, the new ones included.
        is_causal: bool or integer `[R]`.
        max_query_length: the longest query there may be, 1 to 64.
        max_seq_length: the longest sequence there may be.
        scale: of the scores, default 1 / sqrt(head_dim).
        key_scale: what a stored key is multiplied with (fp8).
        value_scale: what a stored value is multiplied with (fp8).
        out: where to write, like `query`; a new tensor by default.
        tiling: how to cut the work, default `default_tiling(...)`.

    Raises:
        ValueError: a shape, dtype, device or bound does not fit.
        RuntimeError: the kernel cannot run here.
    """
    _check(query, key_pages, value_pages, page_table, query_start_loc, seq_lens, is_causal, out)
    if not 1 <= max_query_length <= MAX_QUERY_LENGTH:
        raise ValueError(f"{_NAME}: max_query_length is {max_query_length}, expected 1 to {MAX_QUERY_LENGTH}")
    capacity = page_table.shape[1] * key_pages.shape[1]
    if not 0 <= max_seq_length <= capacity:
        raise ValueError(
            f"{_NAME}: max_seq_length is {max_seq_length}, expected 0 to {capacity}, what the page table holds"
        )
    check_triton(_NAME, query.device.type)
    from .triton import block_attention_triton

    if tiling is None:
        group = query.shape[1] // key_pages.shape[2]
        tiling = default_tiling(max_query_length, group, query.element_size())
    return block_attention_triton(
        query,
        key_pages,
        value_pages,
        page_table,
        query_start_loc,
        seq_lens,
        is_causal,
        torch.empty_like(query) if out is None else out,
        max_query_length,
        max_seq_length,
        query.shape[2] ** -0.5 if scale is None else scale,
        key_scale,
        value_scale,
        tiling,
    )


def _check(
    query: torch.Tensor,
    key_pages: torch.Tensor,
    value_pages: torch.Tensor,
    page_table: torch.Tensor,
    query_start_loc: torch.Tensor,
    seq_lens: torch.Tensor,
    is_causal: torch.Tensor,
    out: torch.Tensor | None,
) -> None:
    device = query.device
    check_tensor(_NAME, "query", query, (None, None, None), FLOATS, device)
    heads, head_dim = query.shape[1:]
    if head_dim not in HEAD_SIZES:
        raise ValueError(f"{_NAME}: head_dim is {head_dim}, expected one of {HEAD_SIZES}")
    stored = (query.dtype, *_FP8)
    check_tensor(_NAME, "key_pages", key_pages, (None, None, None, head_dim), stored, device)
    check_tensor(_NAME, "value_pages", value_pages, key_pages.shape, (key_pages.dtype,), device)
    kv_heads = key_pages.shape[2]
    if kv_heads == 0 or heads == 0 or heads % kv_heads:
        raise ValueError(
            f"{_NAME}: {heads} query heads, expected a positive multiple of the {kv_heads} KV heads"
        )
    if key_pages.shape[1] == 0:
        raise ValueError(f"{_NAME}: the page size is 0, expected at least 1")
    requests = seq_lens.shape[0] if seq_lens.dim() else 0
    check_tensor(_NAME, "page_table", page_table, (requests, None), INTEGERS, device)
    check_tensor(_NAME, "query_start_loc", query_start_loc, (requests + 1,), INTEGERS, device)
    check_tensor(_NAME, "seq_lens", seq_lens, (requests,), INTEGERS, device)
    check_tensor(_NAME, "is_causal", is_causal, (requests,), FLAGS, device)
    if out is not None:
        check_tensor(_NAME, "out", out, query.shape, (query.dtype,), device)
