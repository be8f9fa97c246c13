"""The attention of `cpu_ref` against one request at a time, key by key."""

from __future__ import annotations

import math

import pytest
import torch
from sglang_on_cpu.attention import MOST_CELLS, Visibility, attend, plan
from torch import Tensor

HEADS, KV_HEADS, SIZE, VALUE_SIZE, SLOTS = 4, 2, 8, 6, 300


def expected(
    query: Tensor, keys: Tensor, values: Tensor, seen: Tensor, scale: float, logit_cap: float
) -> Tensor:
    """One request: query [M, heads, size], keys and values [N, KV heads, …], seen [M, N]."""
    if not len(query):
        return query.new_empty(0, HEADS, VALUE_SIZE)
    rows = []
    for m in range(len(query)):
        for head in range(HEADS):
            group = head // (HEADS // KV_HEADS)
            scores = keys[:, group].double() @ query[m, head].double() * scale
            if logit_cap:
                scores = logit_cap * torch.tanh(scores / logit_cap)
            weights = scores.masked_fill(~seen[m], -math.inf).softmax(0)
            rows.append(weights @ values[:, group].double())
    return torch.stack(rows).view(len(query), HEADS, -1).to(query.dtype)


class Batch:
    def __init__(self, lengths: list[int], widths: list[int], dtype: torch.dtype = torch.float32) -> None:
        generator = torch.Generator().manual_seed(sum(lengths))
        self.lengths, self.widths = torch.tensor(lengths), torch.tensor(widths, dtype=torch.int32)
        self.query = torch.randn(sum(widths), HEADS, SIZE, generator=generator).to(dtype)
        self.keys = torch.randn(SLOTS, KV_HEADS, SIZE, generator=generator).to(dtype)
        self.values = torch.randn(SLOTS, KV_HEADS, VALUE_SIZE, generator=generator).to(dtype)
        self.table = torch.stack([torch.randperm(SLOTS, generator=generator) for _ in lengths]).int()

    def attend(self, visibility: Visibility, logit_cap: float = 0.0, tree: Tensor | None = None) -> Tensor:
        groups = plan(self.table, self.lengths, self.widths, tree)
        return attend(self.query, self.keys, self.values, groups, visibility, 0.3, logit_cap)

    def expected(self, visibility: Visibility, logit_cap: float = 0.0, tree: Tensor | None = None) -> Tensor:
        outputs, start = [], 0
        for request, (length, width) in enumerate(
            zip(self.lengths.tolist(), self.widths.tolist(), strict=True)
        ):
            position, key = torch.arange(length - width, length)[:, None], torch.arange(length)
            seen = torch.ones(width, length, dtype=torch.bool)
            if visibility.is_causal:
                seen = key <= position
                if visibility.window >= 0:
                    seen = seen & (position - key <= visibility.window)
                if tree is not None:
                    seen[:, length - width :] = tree[request]
            slots = self.table[request, :length].long()
            query = self.query[start : start + width]
            outputs.append(expected(query, self.keys[slots], self.values[slots], seen, 0.3, logit_cap))
            start += width
        return torch.cat(outputs)


@pytest.mark.parametrize("logit_cap", [0.0, 2.0])
@pytest.mark.parametrize(
    "visibility", [Visibility(), Visibility(False), Visibility(window=0), Visibility(window=5)], ids=str
)
@pytest.mark.parametrize(
    ("lengths", "widths"),
    [([7], [1]), ([9, 1, 40], [1, 1, 1]), ([32, 50], [32, 32]), ([5, 33, 17], [5, 32, 1]), ([4, 9], [4, 0])],
)
def test_as_key_by_key(
    lengths: list[int], widths: list[int], visibility: Visibility, logit_cap: float
) -> None:
    batch = Batch(lengths, widths)
    torch.testing.assert_close(
        batch.attend(visibility, logit_cap), batch.expected(visibility, logit_cap), rtol=1e-6, atol=1e-6
    )


def test_a_tree_replaces_the_order_of_the_drafts_only() -> None:
    batch = Batch([9, 20], [4, 4])
    branching = torch.tensor([[1, 0, 0, 0], [1, 1, 0, 0], [1, 0, 1, 0], [1, 0, 1, 1]]).bool()
    tree = torch.stack([branching, torch.ones(4, 4).tril().bool()])
    torch.testing.assert_close(batch.attend(Visibility(), tree=tree), batch.expected(Visibility(), tree=tree))
    assert torch.equal(batch.attend(Visibility(), tree=tree)[4:], batch.attend(Visibility())[4:])


@pytest.mark.parametrize("is_causal", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_request_is_the_same_alone(is_causal: bool, dtype: torch.dtype) -> None:
    lengths, widths = [3, 260, 33, 64, 1, 127], [1, 32, 32, 5, 1, 100]
    batch = Batch(lengths, widths, dtype)
    together, start = batch.attend(Visibility(is_causal)), 0
    for request, width in enumerate(widths):
        part = slice(start, start + width)
        groups = plan(
            batch.table[request : request + 1],
            batch.lengths[request : request + 1],
            batch.widths[request : request + 1],
        )
        alone = attend(batch.query[part], batch.keys, batch.values, groups, Visibility(is_causal), 0.3)
        assert torch.equal(alone, together[part])
        start += width


def test_a_batch_too_large_to_pad_goes_request_by_request(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = Batch([5, 90], [2, 40])
    padded = batch.attend(Visibility())
    monkeypatch.setattr("sglang_on_cpu.attention.MOST_CELLS", 2 * 40 * 90 - 1)
    assert len(plan(batch.table, batch.lengths, batch.widths)) == 2
    assert torch.equal(batch.attend(Visibility()), padded)
    assert MOST_CELLS > 16 * 32 * 2048


def test_rows_of_no_request_are_zero_and_no_request_is_no_group() -> None:
    batch = Batch([6], [2])
    padded = torch.cat([batch.query, torch.full_like(batch.query, math.nan)])
    groups = plan(batch.table, batch.lengths, batch.widths)
    output = attend(padded, batch.keys, batch.values, groups, Visibility(), 0.3)
    assert torch.equal(output[:2], batch.attend(Visibility()))
    assert not output[2:].any()
    assert plan(batch.table[:0], batch.lengths[:0], batch.widths[:0]) == []
