"""SGLang's Triton backend with paged block attention for the forwards over blocks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from sglang.srt.layers.attention.triton_backend import TritonAttnBackend
from sglang.srt.layers.radix_attention import AttentionType
from sglang.srt.mem_cache.memory_pool import KVWriteLoc, MHATokenToKVPool
from sglang.srt.model_executor.forward_batch_info import ForwardBatch
from sglang.srt.runtime_context import get_parallel
from typing_extensions import override

from nemotron_diffusion_kernels.backends import check_triton
from nemotron_diffusion_kernels.block_attention import block_attention
from nemotron_diffusion_kernels.block_attention.api import HEAD_SIZES
from nemotron_diffusion_kernels.block_attention.tiling import MAX_QUERY_LENGTH
from nemotron_diffusion_plugin.serving.overrides import checked_overrides
from nemotron_diffusion_plugin.sglang.attention import NAME
from nemotron_diffusion_plugin.sglang.spec_inputs import BlockPass

_CACHED_BESIDES_THE_MODEL = (torch.float8_e4m3fn, torch.float8_e5m2)
_COLUMNS = 16
"""Page tables are a multiple of this wide where they can be: Triton compiles a kernel anew for other strides."""


@dataclass(frozen=True)
class BlockMetadata:
    """What all layers of a forward over R blocks read.

    Attributes:
        page_table: int32 `[R, pages]`.
        query_start_loc: int32 `[R + 1]`, the ends of each request's rows.
        seq_lens: int64 `[R]`, the blocks included.
        max_seq_length: no sequence is longer.
    """

    page_table: torch.Tensor
    query_start_loc: torch.Tensor
    seq_lens: torch.Tensor
    max_seq_length: int


@checked_overrides
class BlockAttentionBackend(TritonAttnBackend):
    """Drafts and verify forwards by `block_attention`; prefill, decode steps and other models are SGLang's.

    A row's bits depend on what it sees and on the server's block size, not on the other blocks of the forward.
    """

    def __init__(self, model_runner: Any, *arguments: Any, **keywords: Any) -> None:
        device = torch.device(model_runner.device)
        check_triton(f"attention_backend '{NAME}'", device.type)
        reason = problem(model_runner)
        if reason is not None:
            raise ValueError(f"attention_backend: got '{NAME}', {reason}; use --attention-backend triton")
        super().__init__(model_runner, *arguments, **keywords)
        self.max_query_length: int = model_runner.decode_num_tokens_per_req()
        requests = model_runner.req_to_token_pool.size
        self.causal = torch.ones(requests, dtype=torch.bool, device=device)
        self.bidirectional = torch.zeros(requests, dtype=torch.bool, device=device)

    @override
    def init_forward_metadata(self, forward_batch: ForwardBatch) -> None:
        """Prepare a forward once for all layers, without waiting for the device."""
        if not is_over_blocks(forward_batch):
            super().init_forward_metadata(forward_batch)
            return
        info = forward_batch.spec_info
        layout, width = info.ragged_verify_layout, info.draft_token_num
        if layout is None:
            rows = (forward_batch.batch_size + 1) * width
            starts = torch.arange(0, rows, width, dtype=torch.int32, device=self.device)
            lengths = forward_batch.seq_lens + width
        else:
            starts, lengths = layout.qo_indptr_device, forward_batch.seq_lens + layout.verify_lens
        longest = min(int(forward_batch.seq_lens_cpu.max()) + width, self.req_to_token.shape[1])
        pages = self._page_table(forward_batch.req_pool_indices, longest)
        self.forward_metadata = BlockMetadata(pages, starts, lengths, longest)

    @override
    def forward_extend(
        self,
        q: torch.Tensor,
        k: torch.Tensor | None,
        v: torch.Tensor | None,
        layer: Any,
        forward_batch: ForwardBatch,
        save_kv_cache: bool = True,
        **keywords: Any,
    ) -> torch.Tensor:
        """Return `[T, heads * head_dim]`; writes keys and values first, as SGLang's backend does."""
        attend = self._attend if is_over_blocks(forward_batch) else super().forward_extend
        return attend(q, k, v, layer, forward_batch, save_kv_cache, **keywords)

    def _attend(
        self,
        q: torch.Tensor,
        k: torch.Tensor | None,
        v: torch.Tensor | None,
        layer: Any,
        forward_batch: ForwardBatch,
        save_kv_cache: bool,
    ) -> torch.Tensor:
        if save_kv_cache and k is not None and v is not None:
            place = KVWriteLoc.for_batch(forward_batch)
            self._set_kv_buffer(forward_batch, layer, place, k, v, layer.k_scale, layer.v_scale)
        metadata = self.forward_metadata
        is_causal = self.bidirectional if layer.attn_type is AttentionType.ENCODER_ONLY else self.causal
        query = q.reshape(-1, layer.tp_q_head_num, layer.head_dim)
        output = torch.empty(query.shape, dtype=query.dtype, device=query.device)
        block_attention(
            query,
            self._pages(self.token_to_kv_pool.get_key_buffer(layer.layer_id)),
            self._pages(self.token_to_kv_pool.get_value_buffer(layer.layer_id)),
            metadata.page_table,
            metadata.query_start_loc,
            metadata.seq_lens,
            is_causal[: forward_batch.batch_size],
            max_query_length=self.max_query_length,
            max_seq_length=metadata.max_seq_length,
            scale=layer.scaling,
            key_scale=1.0 if layer.k_scale is None else layer.k_scale_float,
            value_scale=1.0 if layer.v_scale is None else layer.v_scale_float,
            out=output,
        )
        return output.view(len(output), -1)

    def _page_table(self, requests: torch.Tensor, length: int) -> torch.Tensor:
        """The pages of the first `length` tokens, int32 `[R, pages]`.

        SGLang keeps a slot per token; token t lies at `t % page_size` of its page. What a request has not been given
        yet is of no meaning and is not read.
        """
        columns = -(-length // self.page_size)
        columns += -columns % _COLUMNS
        slots = self.req_to_token[:, : columns * self.page_size : self.page_size][requests]
        return slots if self.page_size == 1 else slots // self.page_size

    def _pages(self, slots: torch.Tensor) -> torch.Tensor:
        """View `[slots, KV heads, head_dim]` as `[pages, page_size, KV heads, head_dim]`."""
        whole = len(slots) // self.page_size * self.page_size
        return slots[:whole].unflatten(0, (-1, self.page_size))


def is_over_blocks(forward_batch: ForwardBatch) -> bool:
    """Whether a forward is one of ours over blocks."""
    return forward_batch.forward_mode.is_target_verify() and isinstance(forward_batch.spec_info, BlockPass)


def problem(runner: Any) -> str | None:
    """Why block attention cannot serve a model as it is set up, None when it can."""
    config, pool = runner.model_config, runner.token_to_kv_pool
    if type(pool) is not MHATokenToKVPool or pool.kv_cache_layout != "nhd" or pool.is_quantized_kv_cache:
        return f"which needs one ordinary pool of keys and values, not {type(pool).__name__}"
    if pool.dtype not in (runner.dtype, *_CACHED_BESIDES_THE_MODEL):
        return f"which cannot read keys in {pool.dtype} next to queries in {runner.dtype}"
    if config.head_dim not in HEAD_SIZES or config.v_head_dim != config.head_dim:
        return (
            f"which has head sizes {HEAD_SIZES}, not {config.head_dim} and {config.v_head_dim} of the values"
        )
    if runner.decode_num_tokens_per_req() > MAX_QUERY_LENGTH:
        return f"which takes blocks up to {MAX_QUERY_LENGTH}, not {runner.decode_num_tokens_per_req()}"
    if runner.sliding_window_size is not None:
        return "which has no sliding window"
    if get_parallel().attn_dcp_size > 1 or runner.kv_index_translator.is_translating:
        return "which reads KV slots as they are, not spread over ranks or moved"
    return None
