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

from nemotron_diffusion_plugin.core import BlockRows, Blocks, lay_out_rows, split
from nemotron_diffusion_plugin.rules.block import last_position
from nemotron_diffusion_plugin.vllm.draft_lora import ROWS


@dataclass
class HiddenOutput:
    """A `core.ForwardOutput` whose logits are computed when they are asked for, a few rows at a time."""

    states: torch.Tensor
    model: torch.nn.Module
    hidden: torch.Tensor | None = None

    def logits(self, rows: slice) -> torch.Tensor:
        """Return the logits `[n, V]` of some rows, in the model's dtype."""
        logits: torch.Tensor = self.model.compute_logits(self.states[rows])
        return logits


@dataclass
class PreparedRows(BlockRows):
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
    def max_model_len(self) -> int:
        """Most tokens of a request; vLLM may lower it while it sizes the KV cache."""
        return int(self.vllm_config.model_config.max_model_len)

    def chunks(self, lengths: np.ndarray) -> Iterator[slice]:
        """Split blocks so that no forward exceeds max_num_batched_tokens."""
        return split(lengths, self.max_tokens)

    def prepare(self, blocks: Blocks, causal: bool) -> PreparedRows:
        """Set up one forward; rows past the context take part without being seen."""
        assert self.attn_groups is not None, "no forward has run yet"
        laid = lay_out_rows(blocks)
        last = last_position(self.max_model_len)
        num_reqs, num_tokens = len(blocks.lengths), laid.num_tokens
        offsets_gpu = async_tensor_h2d(laid.offsets, device=self.device)
        positions = laid.positions.clamp(max=last)
        tables = self.tables.gather_block_tables(
            blocks.index, num_reqs_padded=num_reqs, out=tuple(self._own_tables), out_ptrs=self._own_table_ptrs
        )
        cache_slots = self.tables.compute_slot_mappings(
            blocks.index, offsets_gpu, positions, num_tokens_padded=num_tokens, out=self._own_slots
        )
        cache_slots = cache_slots.masked_fill(laid.positions > last, PAD_SLOT_ID)
        attention = build_attn_metadata(
            attn_groups=self.attn_groups,
            num_reqs=num_reqs,
            num_tokens=num_tokens,
            query_start_loc_gpu=offsets_gpu,
            query_start_loc_cpu=torch.from_numpy(laid.offsets),
            max_query_len=int(blocks.lengths.max()),
            seq_lens=(blocks.starts + blocks.lengths_gpu).clamp_(max=last + 1).to(torch.int32),
            max_seq_len=min(blocks.end_bound, last + 1),
            block_tables=tables,
            slot_mappings=cache_slots,
            kv_cache_config=self.kv_cache_config,
            causal=causal,
        )
        by_layer = build_slot_mappings_by_layer(cache_slots, self.kv_cache_config)
        return PreparedRows(laid.offsets, laid.owner, laid.local, positions, by_layer, attention)

    def run(
        self,
        rows: PreparedRows,
        token_ids: torch.Tensor,
        lora_rows: torch.Tensor | None = None,
        hidden: bool = False,
    ) -> HiddenOutput:
        """See `core.BlockForward.run`."""
        self.count += 1
        context = set_forward_context(
            rows.attention,
            self.vllm_config,
            num_tokens=rows.num_tokens,
            cudagraph_runtime_mode=CUDAGraphMode.NONE,
            slot_mapping=rows.slot_mapping,
            batch_descriptor=BatchDescriptor(num_tokens=rows.num_tokens),
        )
        with context:
            if lora_rows is not None:
                get_forward_context().additional_kwargs[ROWS] = lora_rows
            states = self.model(input_ids=token_ids.to(torch.int32), positions=rows.positions)
        return HiddenOutput(states, self.model, states if hidden else None)

    def take_count(self) -> int:
        """Forwards run since the last call."""
        count, self.count = self.count, 0
        return count
