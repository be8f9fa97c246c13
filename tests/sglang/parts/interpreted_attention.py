"""The kernel of `nemotron_block` against plain torch; `test_attention_backend.py` runs this with TRITON_INTERPRET=1."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from sglang.srt.layers.radix_attention import AttentionType, RadixAttention
from sglang.srt.mem_cache.memory_pool import MHATokenToKVPool
from sglang.srt.model_executor.forward_batch_info import ForwardBatch, ForwardMode
from torch import Tensor

from nemotron_diffusion_plugin.sglang.attention.backend import BlockAttentionBackend, BlockMetadata
from nemotron_diffusion_plugin.sglang.spec_inputs import BlockPass
from nemotron_diffusion_plugin.sglang.worker.forward import _ragged_layout

HEADS, KV_HEADS, SIZE, LAYERS, BLOCK, ROW = 4, 2, 32, 2, 8, 96
NOWHERE = 2**30
"""A slot outside the pool, for tokens that no request has."""


@dataclass
class Batch:
    """Requests whose tokens lie in pages in random order; everything else in the pool is NaN.

    `before` tokens of each request are in the cache, `widths` are the rows of its block.
    """

    before: list[int]
    widths: list[int]
    page_size: int = 1
    dtype: torch.dtype = torch.float32
    stored: torch.dtype | None = None
    scales: tuple[float, float] | None = None
    uniform: bool = False

    def __post_init__(self) -> None:
        random_ = torch.Generator().manual_seed(len(self.before) + sum(self.before))
        self.index = torch.randperm(len(self.before), generator=random_) + 1  # row 0 is SGLang's padding
        per_request = -(-ROW // self.page_size)
        count = per_request * len(self.before)
        pages = torch.randperm(count, generator=random_).view(-1, per_request) + 1
        place = torch.arange(ROW)
        slots = pages[:, place // self.page_size] * self.page_size + place % self.page_size
        self.table = torch.full((len(self.before) + 1, ROW), NOWHERE, dtype=torch.int32)
        self.pool = MHATokenToKVPool(
            (count + 1) * self.page_size,
            self.page_size,
            self.stored or self.dtype,
            *(KV_HEADS, SIZE, LAYERS, "cpu", False),
        )
        for buffer in (*self.pool.k_buffer, *self.pool.v_buffer):
            buffer.copy_(torch.full(buffer.shape, torch.nan).to(self.pool.dtype).view(buffer.dtype))
        lengths = [sum(pair) for pair in zip(self.before, self.widths, strict=True)]
        draw = lambda *shape: torch.randn(*shape, generator=random_).to(self.dtype)  # noqa: E731
        self.keys = [draw(length, KV_HEADS, SIZE) for length in lengths]
        self.values = [draw(length, KV_HEADS, SIZE) for length in lengths]
        self.query = draw(sum(self.widths), HEADS * SIZE)
        self.layer = RadixAttention(HEADS, SIZE, SIZE**-0.5, KV_HEADS, layer_id=1)
        if self.scales is not None:
            self.layer.k_scale, self.layer.v_scale = (torch.tensor(scale) for scale in self.scales)
            self.layer.k_scale_float, self.layer.v_scale_float = self.scales
        for request, length in enumerate(lengths):
            self.table[self.index[request], :length] = slots[request, :length].int()
        self.new = torch.cat([row[b:n] for row, b, n in zip(slots, self.before, lengths, strict=True)])
        self.fill_cache()

    def fill_cache(self) -> None:
        """Write the keys and values of the tokens before the blocks."""
        for row, keys, values, before in zip(self.index, self.keys, self.values, self.before, strict=True):
            known = self.table[row, :before].long()
            parts = keys[:before].clone(), values[:before].clone()
            self.pool.set_kv_buffer(self.layer, known, *parts, self.layer.k_scale, self.layer.v_scale)

    def forward_batch(self, causal: bool) -> ForwardBatch:
        """As `BlockForward` describes a forward to SGLang."""
        before, widths = torch.tensor(self.before), torch.tensor(self.widths)
        layout = None if self.uniform else _ragged_layout(widths.numpy(), widths)
        info = BlockPass(torch.zeros(0), max(self.widths), not causal, ragged_verify_layout=layout)
        return ForwardBatch(
            forward_mode=ForwardMode.TARGET_VERIFY,
            batch_size=len(before),
            input_ids=torch.zeros(len(self.new), dtype=torch.int64),
            req_pool_indices=self.index,
            seq_lens=before,
            seq_lens_cpu=before.int(),
            seq_lens_sum=int(before.sum()),
            out_cache_loc=self.new,
            spec_info=info,
        )

    def backend(self) -> Any:
        """One that was never constructed, with what its methods read."""
        backend = object.__new__(BlockAttentionBackend)
        backend.device, backend.dcp_size = "cpu", 1
        backend.req_to_token, backend.token_to_kv_pool = self.table, self.pool
        backend.page_size, backend.max_query_length = self.page_size, BLOCK
        backend.causal = torch.ones(len(self.table), dtype=torch.bool)
        backend.bidirectional = torch.zeros(len(self.table), dtype=torch.bool)
        return backend

    def attend(self, causal: bool) -> Tensor:
        """What a layer gets for the new tokens, `[T, HEADS * SIZE]`."""
        backend, forward_batch = self.backend(), self.forward_batch(causal)
        self.layer.attn_type = AttentionType.DECODER if causal else AttentionType.ENCODER_ONLY
        keys, values = (
            torch.cat([part[b:] for part, b in zip(parts, self.before, strict=True)])
            for parts in (self.keys, self.values)
        )
        backend.init_forward_metadata(forward_batch)
        assert isinstance(backend.forward_metadata, BlockMetadata)
        return backend.forward_extend(self.query.clone(), keys, values, self.layer, forward_batch)

    def expected(self, causal: bool) -> Tensor:
        rows, first = [], 0
        for keys, values, before, width in zip(self.keys, self.values, self.before, self.widths, strict=True):
            query = self.query[first : first + width].double().view(width, HEADS, SIZE)
            seen = [part.double().repeat_interleave(HEADS // KV_HEADS, 1) for part in (keys, values)]
            scores = torch.einsum("qhd,khd->hqk", query, seen[0]) * SIZE**-0.5
            if causal:
                later = torch.arange(before + width) > torch.arange(before, before + width)[:, None]
                scores = scores.masked_fill(later, -torch.inf)
            rows.append(torch.einsum("hqk,khd->qhd", scores.softmax(-1), seen[1]).flatten(1))
            first += width
        return torch.cat(rows).to(self.dtype)


UNIFORM = Batch([0, 33, 80], [8, 8, 8], uniform=True)
RAGGED = Batch([40, 0, 7, 64], [8, 1, 5, 8])


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(
    ("batch", "page_size"),
    [(UNIFORM, 1), (UNIFORM, 32), (RAGGED, 1), (RAGGED, 4), (RAGGED, 32)],
    ids=["uniform-1", "uniform-32", "ragged-1", "ragged-4", "ragged-32"],
)
def test_as_plain_torch(batch: Batch, page_size: int, causal: bool) -> None:
    batch = replace(batch, page_size=page_size)
    torch.testing.assert_close(batch.attend(causal), batch.expected(causal), rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("causal", [True, False])
def test_half_precision(causal: bool) -> None:
    batch = replace(RAGGED, page_size=4, dtype=torch.bfloat16)
    torch.testing.assert_close(batch.attend(causal), batch.expected(causal), rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("scales", [None, (0.5, 0.25)])
def test_cached_in_8_bits(scales: tuple[float, float] | None) -> None:
    batch = replace(RAGGED, page_size=4, stored=torch.float8_e4m3fn, scales=scales)
    torch.testing.assert_close(batch.attend(False), batch.expected(False), rtol=0.1, atol=0.1)


@pytest.mark.parametrize("causal", [True, False])
def test_a_block_is_the_same_alone(causal: bool) -> None:
    """Bit for bit, whatever else is in the forward: neighbours, a longer sequence, a wider block."""
    together, first = RAGGED.attend(causal), 0
    for request, width in enumerate(RAGGED.widths):
        alone = replace(RAGGED, before=[RAGGED.before[request]], widths=[width])
        part = slice(first, first + width)
        alone.query = RAGGED.query[part]
        alone.keys, alone.values = [RAGGED.keys[request]], [RAGGED.values[request]]
        alone.fill_cache()
        assert torch.equal(alone.attend(causal), together[part])
        first += width
