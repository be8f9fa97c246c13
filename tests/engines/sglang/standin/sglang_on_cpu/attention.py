"""Attention of a batch of requests over paged KV, in plain torch.

All requests of a forward are padded to one shape, and everything is computed in double precision. So a
request's result does not depend on its neighbours: padding changes sums in the last bits of a double, which
rounding to the model's precision removes.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

MOST_CELLS = 2**23  # of a padded score matrix; a batch that would need more goes request by request


@dataclass(frozen=True)
class Visibility:
    """Which keys the queries of a layer see."""

    is_causal: bool = True
    window: int = -1  # how many earlier positions, -1 for all


@dataclass
class Group:
    """Requests that are computed together, padded to M queries and N keys."""

    queries: Tensor  # [R, M] row of each query in the batch; padding repeats one
    is_query: Tensor  # [R, M] False for padding
    positions: Tensor  # [R, M] position of each query in its request
    slots: Tensor  # [R, N] KV slot of each position
    lengths: Tensor  # [R] keys of each request
    tree: Tensor | None = None  # [R, M, M] which of the last M keys a query sees; else those before itself
    _masks: dict[tuple[Visibility, int], Tensor] = field(default_factory=dict)

    def mask(self, visibility: Visibility, repeats: int) -> Tensor:
        """Return [R, 1, M * repeats, N], True where a query sees a key; each query is repeated in place."""
        key = (visibility, repeats)
        if key not in self._masks:
            seen = self._visible(visibility).repeat_interleave(repeats, 1)
            self._masks[key] = seen[:, None]
        return self._masks[key]

    def _visible(self, visibility: Visibility) -> Tensor:
        key = torch.arange(self.slots.shape[1])  # [N]
        query = self.positions[:, :, None]  # [R, M, 1]
        seen = (key < self.lengths[:, None, None]).expand(-1, query.shape[1], -1)
        if not visibility.is_causal:
            return seen
        seen = seen & (key <= query)
        if visibility.window >= 0:
            seen = seen & (key >= query - visibility.window)
        if self.tree is not None:
            width = self.tree.shape[1]
            first = (self.lengths - width)[:, None, None]
            column = (key - first).clamp(0, width - 1).expand(-1, width, -1)
            seen = torch.where(key >= first, self.tree.gather(2, column) & seen, seen)
        return seen


def plan(table: Tensor, lengths: Tensor, widths: Tensor, tree: Tensor | None = None) -> list[Group]:
    """Lay out a forward: request r has `widths[r]` queries, which are the last of its `lengths[r]` positions.

    `table` [R, ≥ N] holds the KV slot of each position; `tree` [R, M, M], for requests of one width, says which
    of the requests' own queries a query sees. Queries lie one request after the other in the batch.
    """
    if not len(lengths):
        return []
    lengths, widths = lengths.to(torch.int64), widths.to(torch.int64)
    starts = widths.cumsum(0) - widths
    cells = len(lengths) * int(widths.max()) * int(lengths.max())
    together = [slice(None)] if cells <= MOST_CELLS else [slice(r, r + 1) for r in range(len(lengths))]
    groups = []
    for part in together:
        if not int(widths[part].max()):
            continue
        offset = torch.arange(int(widths[part].max()))
        width, length, start = (each[part][:, None] for each in (widths, lengths, starts))
        position = length - width + offset
        groups.append(
            Group(
                queries=(start + torch.minimum(offset, width - 1)).clamp(0, int(widths.sum()) - 1),
                is_query=offset < width,
                positions=position,
                slots=table[part, : int(lengths[part].max())].to(torch.int64),
                lengths=lengths[part],
                tree=None if tree is None else tree[part].bool(),
            )
        )
    return groups


def attend(
    query: Tensor,
    key_buffer: Tensor,
    value_buffer: Tensor,
    groups: list[Group],
    visibility: Visibility,
    scale: float,
    logit_cap: float = 0.0,
) -> Tensor:
    """Return the attention output [T, heads, value size] of `query` [T, heads, size].

    The buffers are [slots, KV heads, size] and already hold the keys and values of the queries. Rows of `query`
    that belong to no request are zero in the result.
    """
    tokens, heads, _ = query.shape
    output = query.new_zeros(tokens, heads, value_buffer.shape[-1])
    for group in groups:
        result = _attend_group(query, key_buffer, value_buffer, group, visibility, scale, logit_cap)
        output[group.queries[group.is_query]] = result[group.is_query].to(output.dtype)
    return output


def _attend_group(
    query: Tensor,
    key_buffer: Tensor,
    value_buffer: Tensor,
    group: Group,
    visibility: Visibility,
    scale: float,
    logit_cap: float,
) -> Tensor:
    """Return [R, M, heads, value size] in double precision."""
    heads, kv_heads = query.shape[1], key_buffer.shape[1]
    repeats = heads // kv_heads
    requests, width = group.queries.shape
    rows = query[group.queries].double()  # [R, M, heads, size]
    rows = rows.view(requests, width, kv_heads, repeats, -1).transpose(
        1, 2
    )  # [R, KV heads, M, repeats, size]
    rows = rows.reshape(requests, kv_heads, width * repeats, -1)
    keys = key_buffer[group.slots].double().transpose(1, 2)  # [R, KV heads, N, size]
    values = value_buffer[group.slots].double().transpose(1, 2)
    mask = group.mask(visibility, repeats)
    if logit_cap > 0:
        scores = logit_cap * torch.tanh(rows @ keys.transpose(2, 3) * scale / logit_cap)
        result = scores.masked_fill(~mask, float("-inf")).softmax(-1) @ values
    else:
        result = scaled_dot_product_attention(rows, keys, values, attn_mask=mask, scale=scale)
    result = result.view(requests, kv_heads, width, repeats, -1).transpose(1, 2)
    return result.reshape(requests, width, heads, -1)
