"""Requests over a paged cache as vLLM describes them to a backend, and what attention over them is."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from vllm.v1.attention.backend import CommonAttentionMetadata

from nemotron_diffusion_plugin.vllm.attention.backend import BlockAttentionImpl
from nemotron_diffusion_plugin.vllm.attention.metadata import BlockMetadata, BlockMetadataBuilder

HEADS, KV_HEADS, SIZE, PAGE, BLOCK = 4, 2, 32, 16, 8
LONGEST = 160
LAYOUTS = {"HND": (0, 1, 2, 3), "NHD": (0, 2, 1, 3)}
"""Physical orders of `[pages, KV heads, page, 2 * SIZE]`."""


def config(max_model_len: int = LONGEST, captured: int = 0, drafts: int | None = BLOCK - 1) -> Any:
    """What the builder reads of vLLM's configuration."""
    model_config = SimpleNamespace(
        get_num_attention_heads=lambda parallel_config: HEADS,
        dtype=torch.float32,
        max_model_len=max_model_len,
    )
    speculative = (
        None if drafts is None else SimpleNamespace(num_speculative_tokens=drafts, parallel_drafting=False)
    )
    return SimpleNamespace(
        model_config=model_config,
        parallel_config=None,
        speculative_config=speculative,
        use_v2_model_runner=True,
        scheduler_config=SimpleNamespace(max_num_seqs=16),
        compilation_config=SimpleNamespace(static_forward_context={}, max_cudagraph_capture_size=captured),
    )


SPEC = SimpleNamespace(num_kv_heads=KV_HEADS, head_size=SIZE, block_size=PAGE)


def builder(device: str = "cpu", **changes: Any) -> BlockMetadataBuilder:
    return BlockMetadataBuilder(SPEC, [], config(**changes), torch.device(device))


@dataclass
class Batch:
    """Requests of `before` cached tokens and `rows` new ones; `causal` for all or one by one.

    Their pages lie in random order, and everything else in the cache is NaN.
    """

    before: list[int]
    rows: list[int]
    causal: bool | list[bool] = True
    layout: str = "HND"
    kv_cache_dtype: str = "auto"
    scales: tuple[float, float] = (1.0, 1.0)
    seed: int = 0

    def __post_init__(self) -> None:
        random = torch.Generator().manual_seed(self.seed)
        self.lengths = [sum(pair) for pair in zip(self.before, self.rows, strict=True)]
        each = LONGEST // PAGE
        count = each * len(self.rows)
        self.table = torch.randperm(count, generator=random).view(-1, each).int()
        order = LAYOUTS[self.layout]
        shape = (count, KV_HEADS, PAGE, 2 * SIZE)
        dtype = torch.float32 if self.kv_cache_dtype == "auto" else torch.float8_e4m3fn
        empty = torch.full([shape[axis] for axis in order], torch.nan).to(dtype)
        self.cache = empty.permute([order.index(axis) for axis in range(4)])
        self.keys, self.values = (
            [torch.randn(length, KV_HEADS, SIZE, generator=random) for length in self.lengths]
            for _ in range(2)
        )
        self.query = torch.randn(sum(self.rows), HEADS, SIZE, generator=random)
        halves = self.cache.transpose(1, 2).split(SIZE, dim=-1)
        for request, length in enumerate(self.lengths):
            place = torch.arange(length)
            pages = self.table[request, place // PAGE].long()
            for half, parts, scale in zip(halves, (self.keys, self.values), self.scales, strict=True):
                half[pages, place % PAGE] = (parts[request] / scale).to(dtype)

    @property
    def flags(self) -> list[bool]:
        return self.causal if isinstance(self.causal, list) else [self.causal] * len(self.rows)

    def described(self, device: str = "cpu", padding: int = 0) -> CommonAttentionMetadata:
        """The batch with `padding` empty requests and rows behind it, as a graph has them."""
        starts = torch.tensor([0, *self.rows, *[0] * padding]).cumsum(0).int()
        table = torch.cat([self.table, self.table.new_zeros(padding, self.table.shape[1])])
        return CommonAttentionMetadata(
            query_start_loc=starts.to(device),
            query_start_loc_cpu=starts,
            seq_lens=torch.tensor([*self.lengths, *[0] * padding]).int().to(device),
            num_reqs=len(self.rows) + padding,
            num_actual_tokens=sum(self.rows) + padding,
            max_query_len=max(self.rows),
            max_seq_len=max(self.lengths) + 3,
            block_table_tensor=table.to(device),
            slot_mapping=torch.zeros(0).to(device),
            causal=torch.tensor(self.causal).to(device) if isinstance(self.causal, list) else self.causal,
        )

    def attend(self, metadata: BlockMetadata | None = None) -> Tensor:
        """What a layer makes of the queries, `[T, HEADS, SIZE]`; NaN where nothing was written."""
        impl = BlockAttentionImpl(
            HEADS, SIZE, SIZE**-0.5, KV_HEADS, None, None, self.kv_cache_dtype, attn_type="decoder"
        )
        layer = SimpleNamespace(_k_scale_float=self.scales[0], _v_scale_float=self.scales[1])
        metadata = metadata or builder().build(0, self.described())
        query = torch.cat([self.query, torch.full((2, HEADS, SIZE), torch.nan)])
        output = torch.full_like(query, torch.nan)
        assert impl.forward(layer, query, query, query, self.cache, metadata, output) is output
        assert output[len(self.query) :].isnan().all(), "rows past the last are nobody's"
        return output[: len(self.query)]

    def expected(self) -> Tensor:
        outputs, first = [], 0
        for keys, values, before, rows, is_causal in zip(
            self.keys, self.values, self.before, self.rows, self.flags, strict=True
        ):
            query = self.query[first : first + rows].double()
            seen = [part.double().repeat_interleave(HEADS // KV_HEADS, 1) for part in (keys, values)]
            scores = torch.einsum("qhd,khd->hqk", query, seen[0]) * SIZE**-0.5
            if is_causal:
                later = torch.arange(before + rows) > torch.arange(before, before + rows)[:, None]
                scores = scores.masked_fill(later, -torch.inf)
            outputs.append(torch.einsum("hqk,khd->qhd", scores.softmax(-1), seen[1]))
            first += rows
        return torch.cat(outputs).float()
