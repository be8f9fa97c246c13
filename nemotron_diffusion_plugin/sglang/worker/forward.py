"""A forward of the target over blocks in the slots that SGLang has reserved, bidirectional or causal."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sglang.srt.model_executor.forward_batch_info import CaptureHiddenMode, ForwardBatch, ForwardMode
from sglang.srt.speculative.ragged_verify import RaggedVerifyLayout

from nemotron_diffusion_plugin.core import BlockRows, lay_out_rows
from nemotron_diffusion_plugin.serving.picking import LOGITS_AT_ONCE
from nemotron_diffusion_plugin.serving.slots import RequestTable
from nemotron_diffusion_plugin.sglang.attention import registration as attention_backend
from nemotron_diffusion_plugin.sglang.worker.spec_inputs import BlockPass

RAGGED_BACKENDS = frozenset({"cpu_ref", "fa3", "fa4", attention_backend.NAME})
"""Attention backends that take blocks of unequal width in one forward; the others get one forward per width."""

BACKENDS = RAGGED_BACKENDS | {"flashinfer", "triton"}
"""Attention backends that can do what a draft needs: blocks of any width whose rows see each other."""


@dataclass
class PreparedBlocks(BlockRows):
    """Everything of a forward but its token ids.

    `widths` is on the host; `index` and `starts`, int64 `[R]`, are the request slots and the positions of the seeds.
    """

    widths: np.ndarray
    starts_host: np.ndarray
    index: torch.Tensor
    starts: torch.Tensor
    cache_locations: torch.Tensor
    layout: RaggedVerifyLayout | None
    causal: bool

    @property
    def is_decode(self) -> bool:
        """Whether these are plain decode rows: one causal token per request."""
        return self.causal and bool((self.widths == 1).all())


class BlockForward:
    """Runs the target on blocks behind what each request has computed; `logits` of a row are the forward's output.

    A draft forward leaves its KV in slots past the request's tokens. The next verify forward overwrites them before
    anybody reads them.
    """

    def __init__(self, target_worker: Any, table: RequestTable, attention_backend: str) -> None:
        self.table = table
        self.target_worker = target_worker
        self.runner = target_worker.model_runner
        self.device = torch.device(target_worker.device)
        self.ragged = attention_backend in RAGGED_BACKENDS
        self.dtype: torch.dtype = self.runner.dtype
        self.vocab_size: int = self.runner.model_config.vocab_size
        self.max_tokens = max(1, LOGITS_AT_ONCE // self.vocab_size)
        self.count = 0

    def chunks(self, rows: np.ndarray) -> Iterator[slice]:
        """Split blocks of `rows` tokens each by what one forward can take: a width, and a number of logits."""
        start = total = 0
        for row, count in enumerate(rows):
            too_many = total + count > self.max_tokens
            other_width = not self.ragged and count != rows[start]
            if row > start and (too_many or other_width):
                yield slice(start, row)
                start, total = row, 0
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

        The host's `starts` are those of the table.
        """
        widths = np.asarray(rows, dtype=np.int64)
        counts = torch.from_numpy(widths).to(self.device, non_blocking=True)
        laid = lay_out_rows(widths, starts, counts)
        pool = self.runner.req_to_token_pool.req_to_token
        locations = pool[index[laid.owner], laid.positions].to(torch.int64)
        # Without a layout these backends take every block to be as wide as the server's draft.
        is_whole = bool((widths == self.table.settings.block_size).all())
        layout = _ragged_layout(widths, counts) if self.ragged and not is_whole else None
        return PreparedBlocks(
            laid.offsets,
            laid.owner,
            laid.local,
            laid.positions,
            widths,
            self.table.start[slots],
            index,
            starts,
            locations,
            layout,
            causal,
        )

    def run(
        self, blocks: PreparedBlocks, token_ids: torch.Tensor, lora_rows: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Run the target over int64 token ids `[T]` and return logits `[T, V]`.

        `lora_rows` (`[T, 1]`, the model's dtype) is 1 where the drafter LoRA applies; None leaves it off.
        """
        return self.output(self.forward_batch(blocks, token_ids, lora_rows)).next_token_logits

    def output(self, forward_batch: ForwardBatch) -> Any:
        """Run a prepared forward without sampling and return SGLang's logits output."""
        self.count += 1
        result = self.target_worker.forward_batch_generation(
            batch=None, forward_batch=forward_batch, is_verify=True
        )
        return result.logits_output

    def logits(self, output: torch.Tensor) -> torch.Tensor:
        """The logits `[T, V]` of rows of the output."""
        return output

    def forward_batch(
        self, blocks: PreparedBlocks, token_ids: torch.Tensor, lora_rows: torch.Tensor | None = None
    ) -> ForwardBatch:
        """SGLang's description of the forward: a decode step where every block is one causal row."""
        is_decode = blocks.is_decode
        ahead = int(is_decode)  # a decode step counts its own token as part of the sequence
        lengths = torch.from_numpy(blocks.starts_host + ahead).to(torch.int32)
        spec_info = None
        if not is_decode:
            spec_info = BlockPass(
                positions=blocks.positions,
                draft_token_num=int(blocks.widths.max()),
                bidirectional=not blocks.causal,
                lora_rows=lora_rows,
                ragged_verify_layout=blocks.layout,
            )
        batch = ForwardBatch(
            forward_mode=ForwardMode.DECODE if is_decode else ForwardMode.TARGET_VERIFY,
            batch_size=len(blocks.widths),
            input_ids=token_ids,
            req_pool_indices=blocks.index,
            seq_lens=blocks.starts + ahead,
            out_cache_loc=blocks.cache_locations,
            seq_lens_sum=int(lengths.sum()),
            seq_lens_cpu=lengths,
            positions=blocks.positions,
            spec_algorithm=self.runner.spec_algorithm,
            spec_info=spec_info,
            capture_hidden_mode=CaptureHiddenMode.NULL,
            return_hidden_states_before_norm=False,
        )
        self.runner.kv_index_translator.bind_own_plan(batch)
        return batch


def _ragged_layout(widths: np.ndarray, counts: torch.Tensor) -> RaggedVerifyLayout:
    ends = counts.cumsum(0).to(torch.int32)
    indptr = torch.nn.functional.pad(ends, (1, 0))
    total = int(widths.sum())
    return RaggedVerifyLayout(
        verify_lens=counts.to(torch.int32),
        graph_num_tokens=total,
        extend_start_loc=indptr[:-1],
        qo_indptr_device=indptr,
        verify_lens_cpu=widths.tolist(),
        total_verify_tokens=total,
    )
