"""A forward of the target over blocks in the lookahead slots, bidirectional or causal among the new tokens."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from vllm.config.compilation import CUDAGraphMode
from vllm.forward_context import BatchDescriptor, get_forward_context, set_forward_context
from vllm.utils.torch_utils import async_tensor_h2d
from vllm.v1.attention.backends.utils import PAD_SLOT_ID
from vllm.v1.worker.gpu.attn_utils import build_attn_metadata, build_slot_mappings_by_layer
from vllm.v1.worker.gpu.block_table import BlockTables

from nemotron_diffusion_plugin.core import BlockRows, lay_out_rows
from nemotron_diffusion_plugin.vllm.draft_lora import ROWS


@dataclass
class PreparedBlocks(BlockRows):
    """The rows with where vLLM puts their KV and how it attends: everything but the token ids."""

    slot_mapping: dict[str, torch.Tensor]
    attention: dict[str, Any]


class BlockForward:
    """Runs the target on blocks, with block-table and slot buffers of its own.

    The runner's buffers are filled for the verify forward when a draft is due, so they are left alone.
    """

    def __init__(
        self, vllm_config: Any, model: torch.nn.Module, block_tables: BlockTables, kv_cache_config: Any
    ) -> None:
        self.vllm_config = vllm_config
        self.model = model
        self.tables = block_tables
        self.kv_cache_config = kv_cache_config
        self.attn_groups: list[list[Any]] | None = None
        self.device = block_tables.device
        self.dtype: torch.dtype = vllm_config.model_config.dtype
        self.vocab_size: int = vllm_config.model_config.get_vocab_size()
        self.max_tokens: int = vllm_config.scheduler_config.max_num_batched_tokens
        self.count = 0
        self._own_tables = [torch.zeros_like(table) for table in block_tables.input_block_tables]
        self._own_table_ptrs = torch.tensor(
            [table.data_ptr() for table in self._own_tables], dtype=torch.uint64, device=self.device
        )
        self._own_slots = torch.zeros_like(block_tables.slot_mappings)

    @property
    def last_position(self) -> int:
        """The last position a block may occupy: its bonus must still fit into max_model_len."""
        return int(self.vllm_config.model_config.max_model_len) - 2

    def chunks(self, rows: np.ndarray) -> Iterator[slice]:
        """Split blocks of `rows` tokens each so that no forward exceeds max_num_batched_tokens."""
        start = total = 0
        for index, count in enumerate(rows):
            if total + count > self.max_tokens:
                yield slice(start, index)
                start, total = index, 0
            total += int(count)
        if start < len(rows):
            yield slice(start, len(rows))

    def prepare(
        self,
        slots: np.ndarray,
        index: torch.Tensor,
        starts: torch.Tensor,
        rows: np.ndarray,
        upper_bound: int,
        causal: bool,
    ) -> PreparedBlocks:
        """Set up one forward over R blocks; see `serving.block_forward.BlockForward`.

        It is valid until the next set-up, which reuses its buffers. Rows past `last_position` take part without being
        seen. The host's `slots` are not needed here.
        """
        assert self.attn_groups is not None, "no forward has run yet"
        counts = async_tensor_h2d(np.asarray(rows), device=self.device, dtype=torch.int64)
        laid = lay_out_rows(rows, starts, counts)
        offsets_gpu = async_tensor_h2d(laid.offsets, device=self.device)
        num_tokens = laid.num_tokens
        outside = laid.positions > self.last_position
        positions = laid.positions.clamp(max=self.last_position)
        seq_lens = (starts + counts).clamp_(max=self.last_position + 1).to(torch.int32)
        tables = self.tables.gather_block_tables(
            index,
            num_reqs_padded=len(rows),
            out=tuple(self._own_tables),
            out_ptrs=self._own_table_ptrs,
        )
        cache_slots = self.tables.compute_slot_mappings(
            index, offsets_gpu, positions, num_tokens_padded=num_tokens, out=self._own_slots
        )
        cache_slots = cache_slots.masked_fill(outside, PAD_SLOT_ID)
        attention = build_attn_metadata(
            attn_groups=self.attn_groups,
            num_reqs=len(rows),
            num_tokens=num_tokens,
            query_start_loc_gpu=offsets_gpu,
            query_start_loc_cpu=torch.from_numpy(laid.offsets),
            max_query_len=int(max(rows)),
            seq_lens=seq_lens,
            max_seq_len=min(upper_bound, self.last_position + 1),
            block_tables=tables,
            slot_mappings=cache_slots,
            kv_cache_config=self.kv_cache_config,
            causal=causal,
        )
        by_layer = build_slot_mappings_by_layer(cache_slots, self.kv_cache_config)
        return PreparedBlocks(laid.offsets, laid.owner, laid.local, positions, by_layer, attention)

    def run(
        self, blocks: PreparedBlocks, token_ids: torch.Tensor, lora_rows: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return the hidden states `[T, hidden_size]` of int token ids `[T]`.

        `lora_rows` (`[T, 1]`, the model's dtype) is 1 where the drafter LoRA applies; None leaves it off.
        """
        self.count += 1
        context = set_forward_context(
            blocks.attention,
            self.vllm_config,
            num_tokens=blocks.num_tokens,
            cudagraph_runtime_mode=CUDAGraphMode.NONE,
            slot_mapping=blocks.slot_mapping,
            batch_descriptor=BatchDescriptor(num_tokens=blocks.num_tokens),
        )
        with context:
            if lora_rows is not None:
                get_forward_context().additional_kwargs[ROWS] = lora_rows
            return self.model(input_ids=token_ids.to(torch.int32), positions=blocks.positions)

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return the logits `[T, V]` of hidden states `[T, hidden_size]`, in the model's dtype."""
        return self.model.compute_logits(hidden)

    def take_count(self) -> int:
        """Forwards run since the last call."""
        count, self.count = self.count, 0
        return count
