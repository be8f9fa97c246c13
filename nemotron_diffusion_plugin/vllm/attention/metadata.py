"""What the layers of a forward read when vLLM attends by paged block attention, and how a forward is cut up for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from typing_extensions import override
from vllm.utils.torch_utils import async_tensor_h2d
from vllm.v1.attention.backend import (
    AttentionCGSupport,
    AttentionMetadataBuilder,
    CommonAttentionMetadata,
    max_decode_query_len,
)
from vllm.v1.attention.backends.utils import get_num_attention_heads_from_layers

from nemotron_diffusion_kernels.block_attention.tiling import MAX_QUERY_LENGTH, Tiling, default_tiling
from nemotron_diffusion_plugin.serving.overrides import checked_overrides

SUMS_BYTES = 512 << 20
"""Most bytes of float32 sums per split that exist at a time."""
_SUM_BYTES = 4


@dataclass(frozen=True)
class Part:
    """One call of the operator.

    Attributes:
        rows: the rows of the forward it computes.
        page_table: int32 `[R, pages]`.
        query_start_loc: int32 `[R + 1]`, from 0 on.
        seq_lens: int32 `[R]`, up to the last of the request's rows in this call.
        is_causal: bool `[R]`.
        max_query_length: no request has more rows.
        max_seq_length: no sequence is longer.
    """

    rows: slice
    page_table: torch.Tensor
    query_start_loc: torch.Tensor
    seq_lens: torch.Tensor
    is_causal: torch.Tensor
    max_query_length: int
    max_seq_length: int


@dataclass(frozen=True)
class BlockMetadata:
    """The calls of a forward, and the tiling that all forwards of a server share."""

    parts: list[Part]
    tiling: Tiling


@checked_overrides
class BlockMetadataBuilder(AttentionMetadataBuilder[BlockMetadata]):
    """Cuts a forward into calls of the operator, without waiting for the device.

    A block or a decode row is a request of the operator as it is. A longer prompt becomes several causal requests of at
    most `capacity` rows, one after the other over the same pages. Either way a row's bits are the same: the tiling
    follows from the server's set-up alone.
    """

    _cudagraph_support: ClassVar[AttentionCGSupport] = AttentionCGSupport.UNIFORM_BATCH

    def __init__(
        self, kv_cache_spec: Any, layer_names: list[str], vllm_config: Any, device: torch.device
    ) -> None:
        super().__init__(kv_cache_spec, layer_names, vllm_config, device)
        model_config, parallel_config = vllm_config.model_config, vllm_config.parallel_config
        heads = get_num_attention_heads_from_layers(vllm_config, layer_names)
        heads = heads or model_config.get_num_attention_heads(parallel_config)
        group = heads // kv_cache_spec.num_kv_heads
        self.page_size: int = kv_cache_spec.block_size
        self.capacity = _capacity(vllm_config)
        self.tiling = default_tiling(self.capacity, group, model_config.dtype.itemsize)
        self.bytes_per_row = heads * kv_cache_spec.head_size * _SUM_BYTES
        requests = vllm_config.scheduler_config.max_num_seqs
        self.causal = torch.ones(requests, dtype=torch.bool, device=device)
        self.bidirectional = torch.zeros(requests, dtype=torch.bool, device=device)

    @classmethod
    @override
    def get_cudagraph_support(cls, vllm_config: Any, kv_cache_spec: Any) -> AttentionCGSupport:
        """Graphs of blocks of one width where one call takes the largest of them.

        The grid follows from the longest sequence, which a graph fixes at `max_model_len`; so do the sums per split.
        Several calls would need row starts that a replay does not renew.
        """
        model_config, parallel_config = vllm_config.model_config, vllm_config.parallel_config
        heads = model_config.get_num_attention_heads(parallel_config)
        tiling = default_tiling(
            _capacity(vllm_config), heads // kv_cache_spec.num_kv_heads, model_config.dtype.itemsize
        )
        rows = vllm_config.compilation_config.max_cudagraph_capture_size or 0
        bytes_per_row = heads * kv_cache_spec.head_size * _SUM_BYTES
        fits = rows <= _rows_at_once(model_config.max_model_len, tiling, bytes_per_row)
        return cls._cudagraph_support if fits else AttentionCGSupport.NEVER

    @override
    def build(
        self,
        common_prefix_len: int,
        common_attn_metadata: CommonAttentionMetadata,
        fast_build: bool = False,
    ) -> BlockMetadata:
        """Return the calls of a forward.

        Raises ValueError for a request that is not causal and longer than `capacity`.
        """
        given = common_attn_metadata
        longest = min(given.max_seq_len, given.block_table_tensor.shape[1] * self.page_size)
        at_once = _rows_at_once(longest, self.tiling, self.bytes_per_row)
        if given.max_query_len > self.capacity or given.num_actual_tokens > at_once:
            parts = self._cut(given, longest, max(at_once, self.capacity))
        else:
            part = Part(
                slice(0, given.num_actual_tokens),
                given.block_table_tensor[: given.num_reqs],
                given.query_start_loc[: given.num_reqs + 1],
                given.seq_lens[: given.num_reqs],
                self._flags(given),
                given.max_query_len,
                longest,
            )
            parts = [part]
        return BlockMetadata(parts, self.tiling)

    def _flags(self, given: CommonAttentionMetadata) -> torch.Tensor:
        """Which requests are causal, bool `[num_reqs]`."""
        if isinstance(given.causal, torch.Tensor):
            return given.causal[: given.num_reqs]
        return (self.causal if given.causal else self.bidirectional)[: given.num_reqs]

    def _cut(self, given: CommonAttentionMetadata, longest: int, at_once: int) -> list[Part]:
        """Pieces of at most `capacity` rows of each request, and calls of at most `at_once` rows."""
        if given.max_query_len > self.capacity and given.causal is not True:
            raise ValueError(
                f"block attention: got {given.max_query_len} rows of a request that need not be causal, expected at "
                f"most {self.capacity}, the longest block; use another --attention-backend"
            )
        begins, ends, owner, later = _pieces(
            given.query_start_loc_cpu[: given.num_reqs + 1].numpy(), self.capacity
        )
        calls = _calls(begins, ends, at_once)
        starts = [np.append(begins[call], ends[call][-1]) - begins[call][0] for call in calls]
        index = self._on_device(owner)
        seq_lens = given.seq_lens[index] - self._on_device(later).to(given.seq_lens.dtype)
        pages, flags = given.block_table_tensor[index], self._flags(given)[index]
        packed = self._on_device(np.concatenate(starts)).to(torch.int32).split([len(one) for one in starts])
        return [
            Part(
                slice(int(begins[call][0]), int(ends[call][-1])),
                pages[call],
                query_start_loc,
                seq_lens[call],
                flags[call],
                min(given.max_query_len, self.capacity),
                longest,
            )
            for call, query_start_loc in zip(calls, packed, strict=True)
        ]

    def _on_device(self, values: np.ndarray) -> torch.Tensor:
        return async_tensor_h2d(values, device=self.device, dtype=torch.int64)


def _capacity(vllm_config: Any) -> int:
    return min(MAX_QUERY_LENGTH, max_decode_query_len(vllm_config))


def _rows_at_once(longest: int, tiling: Tiling, bytes_per_row: int) -> int:
    """How many rows one call takes, so that their sums of all splits stay below `SUMS_BYTES`."""
    splits = max(1, -(-longest // tiling.split_length))
    return SUMS_BYTES // (splits * bytes_per_row)


def _pieces(starts: np.ndarray, capacity: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Cut requests, which begin at the rows `starts` `[R + 1]`, into pieces of at most `capacity` rows.

    Returns for each piece its first row, the row after it, its request and how many rows of the request come later. A
    request without rows is one piece.
    """
    counts = np.maximum(-(-np.diff(starts) // capacity), 1)
    owner = np.repeat(np.arange(len(counts)), counts)
    place = np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)
    begins = starts[owner] + place * capacity
    ends = np.minimum(begins + capacity, starts[owner + 1])
    return begins, ends, owner, starts[owner + 1] - ends


def _calls(begins: np.ndarray, ends: np.ndarray, at_once: int) -> list[slice]:
    """Neighbouring pieces that share a call: at most `at_once` rows, at least one piece."""
    calls, first = [], 0
    for piece in range(1, len(begins) + 1):
        if piece == len(begins) or ends[piece] - begins[first] > at_once:
            calls.append(slice(first, piece))
            first = piece
    return calls
