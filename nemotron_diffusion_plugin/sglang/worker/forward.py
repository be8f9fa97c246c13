"""A forward of the target over blocks in the slots that SGLang has reserved, bidirectional or causal."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sglang.srt.model_executor.forward_batch_info import CaptureHiddenMode, ForwardBatch, ForwardMode
from sglang.srt.speculative.ragged_verify import RaggedVerifyLayout

from nemotron_diffusion_plugin.core import BlockRows, Blocks, lay_out_rows, split
from nemotron_diffusion_plugin.serving.picking import LOGITS_AT_ONCE
from nemotron_diffusion_plugin.sglang.attention import NAME
from nemotron_diffusion_plugin.sglang.spec_inputs import BlockPass

RAGGED_BACKENDS = frozenset({"cpu_ref", "fa3", "fa4", NAME})
"""Attention backends that take blocks of unequal length in one forward; the others get one forward per length."""

BACKENDS = RAGGED_BACKENDS | {"flashinfer", "triton"}
"""Attention backends that can do what a draft needs: blocks of any length whose rows see each other."""


@dataclass
class LogitsOutput:
    """A `core.ForwardOutput` of a forward that has computed its logits."""

    all_logits: torch.Tensor
    hidden: torch.Tensor | None

    def logits(self, rows: slice) -> torch.Tensor:
        """The logits `[n, V]` of some rows."""
        return self.all_logits[rows]


@dataclass
class PreparedRows(BlockRows):
    """The rows with their blocks, where SGLang keeps their KV, and how it attends: everything but the token ids."""

    blocks: Blocks
    cache_locations: torch.Tensor
    layout: RaggedVerifyLayout | None
    causal: bool

    @property
    def is_decode(self) -> bool:
        """Whether these are plain decode rows: one causal token per request."""
        return self.causal and bool((self.blocks.lengths == 1).all())


class BlockForward:
    """Runs the target on blocks after what each request has computed.

    A draft forward leaves its KV in slots past the request's tokens. The next verify forward overwrites them before
    anybody reads them.
    """

    def __init__(self, target_worker: Any, block_size: int, attention_backend: str) -> None:
        self.block_size = block_size
        self.target_worker = target_worker
        self.runner = target_worker.model_runner
        self.device = torch.device(target_worker.device)
        self.ragged = attention_backend in RAGGED_BACKENDS
        self.dtype: torch.dtype = self.runner.dtype
        self.vocab_size: int = self.runner.model_config.vocab_size
        self.max_tokens = max(1, LOGITS_AT_ONCE // self.vocab_size)
        self.count = 0

    def chunks(self, lengths: np.ndarray) -> Iterator[slice]:
        """Split blocks by what one forward can take: a number of logits, and one length unless it is ragged."""
        return split(lengths, self.max_tokens, alike=not self.ragged)

    def prepare(self, blocks: Blocks, causal: bool) -> PreparedRows:
        """Set up one forward; `start_bounds` must be exact where the attention backend needs the host's lengths."""
        laid = lay_out_rows(blocks)
        pool = self.runner.req_to_token_pool.req_to_token
        locations = pool[blocks.index[laid.owner], laid.positions].to(torch.int64)
        # Without a layout these backends take every block to be as long as the server's draft.
        is_whole = bool((blocks.lengths == self.block_size).all())
        layout = _ragged_layout(blocks.lengths, blocks.lengths_gpu) if self.ragged and not is_whole else None
        return PreparedRows(
            laid.offsets, laid.owner, laid.local, laid.positions, blocks, locations, layout, causal
        )

    def run(
        self,
        rows: PreparedRows,
        token_ids: torch.Tensor,
        lora_rows: torch.Tensor | None = None,
        hidden: bool = False,
    ) -> LogitsOutput:
        """See `core.BlockForward.run`; a forward that hands over hidden states replays no CUDA graph."""
        output = self.output(self.forward_batch(rows, token_ids, lora_rows, hidden))
        return LogitsOutput(output.next_token_logits, output.hidden_states)

    def output(self, forward_batch: ForwardBatch) -> Any:
        """Run a prepared forward without sampling and return SGLang's logits output."""
        self.count += 1
        result = self.target_worker.forward_batch_generation(
            batch=None, forward_batch=forward_batch, is_verify=True
        )
        return result.logits_output

    def forward_batch(
        self,
        rows: PreparedRows,
        token_ids: torch.Tensor,
        lora_rows: torch.Tensor | None = None,
        hidden: bool = False,
    ) -> ForwardBatch:
        """SGLang's description of the forward: a decode step where every block is one causal row."""
        blocks, is_decode = rows.blocks, rows.is_decode
        ahead = int(is_decode)  # a decode step counts its own token as part of the sequence
        lengths = torch.from_numpy(blocks.start_bounds + ahead).to(torch.int32)
        capture = CaptureHiddenMode.FULL if hidden else CaptureHiddenMode.NULL
        spec_info = None
        if not is_decode:
            spec_info = BlockPass(
                positions=rows.positions,
                draft_token_num=int(blocks.lengths.max()),
                bidirectional=not rows.causal,
                lora_rows=lora_rows,
                ragged_verify_layout=rows.layout,
                capture_hidden_mode=capture,
            )
        batch = ForwardBatch(
            forward_mode=ForwardMode.DECODE if is_decode else ForwardMode.TARGET_VERIFY,
            batch_size=len(blocks.lengths),
            input_ids=token_ids,
            req_pool_indices=blocks.index,
            seq_lens=blocks.starts + ahead,
            out_cache_loc=rows.cache_locations,
            seq_lens_sum=int(lengths.sum()),
            seq_lens_cpu=lengths,
            positions=rows.positions,
            spec_algorithm=self.runner.spec_algorithm,
            spec_info=spec_info,
            capture_hidden_mode=capture,
            return_hidden_states_before_norm=False,
        )
        self.runner.kv_index_translator.bind_own_plan(batch)
        return batch


def _ragged_layout(lengths: np.ndarray, lengths_gpu: torch.Tensor) -> RaggedVerifyLayout:
    ends = lengths_gpu.cumsum(0).to(torch.int32)
    indptr = torch.nn.functional.pad(ends, (1, 0))
    total = int(lengths.sum())
    return RaggedVerifyLayout(
        verify_lens=lengths_gpu.to(torch.int32),
        graph_num_tokens=total,
        extend_start_loc=indptr[:-1],
        qo_indptr_device=indptr,
        verify_lens_cpu=lengths.tolist(),
        total_verify_tokens=total,
    )
