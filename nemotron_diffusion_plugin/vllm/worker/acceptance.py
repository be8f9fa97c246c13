"""Acceptance in the verify forward: exact for AR and self-speculation, accept-all for the blocks of diffusion.

vLLM's sampler and rejection sampler stay in charge. For the rows of a diffusion request their result is replaced:
the drafts are what the denoise forwards committed, and only the token after the block, the next seed, is sampled. A
block that the token budget cut short gets its next planned token instead of a sampled one, so it goes on unchanged.

The result of a request that samples with a seed is replaced too: every row draws what AR would draw there, and drafts
that agree are accepted. A draft is accepted as often as by rejection, with p(draft), as it was chosen without chance.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from typing_extensions import override
from vllm.v1.worker.gpu.sample.gumbel import gumbel_sample
from vllm.v1.worker.gpu.sample.logprob import compute_topk_scores
from vllm.v1.worker.gpu.sample.output import SamplerOutput
from vllm.v1.worker.gpu.sample.sampler import Sampler
from vllm.v1.worker.gpu.spec_decode.rejection_sampler import RejectionSampler

from nemotron_diffusion_plugin.serving.operators import Operators
from nemotron_diffusion_plugin.serving.overrides import checked_overrides
from nemotron_diffusion_plugin.serving.slots import SlotTable
from nemotron_diffusion_plugin.vllm.worker.logprobs import LOGITS_MODES, put_commit_scores

Resume = Callable[[np.ndarray, np.ndarray], None]
"""Called with the slots of a step and the host's bounds on their sequence lengths, before acceptance."""


def planned_successors(
    table: SlotTable, index: torch.Tensor, positions: torch.Tensor, sampled: torch.Tensor
) -> torch.Tensor:
    """Return, for each slot, the planned token after a position, or the sampled one where none is planned.

    `index`, `positions` and `sampled` are int64 `[R]`.
    """
    inside, _, planned = table.planned_token(index, positions)
    return torch.where(inside, planned, sampled)


@checked_overrides
class BlockSampler(Sampler):
    """vLLM's sampler; a diffusion request inside a planned block gets its planned token."""

    table: SlotTable
    operators: Operators
    resume: Resume
    last_output: SamplerOutput | None = None

    @classmethod
    def adopt(cls, sampler: Sampler, table: SlotTable, operators: Operators, resume: Resume) -> BlockSampler:
        """Take over the state of the sampler that the runner has built."""
        if type(sampler) is not Sampler:
            raise ValueError(
                f"sampler: got {type(sampler).__name__}, expected vLLM's plain sampler; start the server without "
                "watermarking"
            )
        own = cls.__new__(cls)
        own.__dict__.update(sampler.__dict__)
        own.table, own.operators, own.resume = table, operators, resume
        return own

    def __call__(self, logits: torch.Tensor, input_batch: Any) -> SamplerOutput:
        """Sample one token per request, after the blocks of resumed requests are planned again."""
        self.resume(input_batch.idx_mapping_np, input_batch.seq_lens_cpu_upper_bound.numpy())
        self.last_output = output = super().__call__(logits, input_batch)
        if output.logprobs_tensors is not None:
            positions = input_batch.positions[input_batch.logits_indices]
            put_commit_scores(
                self.table,
                output.logprobs_tensors,
                input_batch.idx_mapping_np,
                input_batch.cu_num_logits_np,
                positions,
            )
        return output

    @override
    def sample(
        self,
        logits: torch.Tensor,
        expanded_idx_mapping: torch.Tensor,
        idx_mapping: torch.Tensor,
        idx_mapping_np: np.ndarray,
        pos: torch.Tensor,
        *arguments: Any,
        **keywords: Any,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Sample, then put planned tokens in place, so that logprobs are those of the token returned."""
        sampled, processed = super().sample(
            logits, expanded_idx_mapping, idx_mapping, idx_mapping_np, pos, *arguments, **keywords
        )
        if self.table.is_diffusion(idx_mapping_np).any() and len(idx_mapping_np) == sampled.shape[0]:
            sampled = planned_successors(self.table, idx_mapping, pos, sampled)
        return sampled, processed


@checked_overrides
class BlockRejectionSampler(RejectionSampler):
    """vLLM's rejection sampler; every draft of a diffusion request is accepted, with a seed those that AR draws.

    Beside that it knows requests that name the token ids of their log-probabilities, which vLLM's does not.
    """

    _most_named = 0
    _chunk: tuple[np.ndarray, torch.Tensor, torch.Tensor]
    """Of the part of the batch under way: the request slots, the slot of each row, and the position of each row."""

    def __init__(self, sampler: BlockSampler, speculative_config: Any, device: torch.device) -> None:
        super().__init__(sampler, speculative_config, device)
        self.block_sampler = sampler

    def __call__(
        self, logits: torch.Tensor, input_batch: Any, *arguments: Any, **keywords: Any
    ) -> SamplerOutput:
        """Verify the drafts of all requests, after the blocks of resumed requests are planned again."""
        self.block_sampler.resume(input_batch.idx_mapping_np, input_batch.seq_lens_cpu_upper_bound.numpy())
        named = self.sampler.logprob_token_ids_state
        self._most_named = named.max_num_token_ids(input_batch.idx_mapping_np)
        output = super().__call__(logits, input_batch, *arguments, **keywords)
        self.block_sampler.last_output = output
        return output

    @override
    def _verify(
        self,
        logits: torch.Tensor,
        draft_logits: torch.Tensor | None,
        draft_sampled: torch.Tensor,
        pos: torch.Tensor,
        cu_num_logits: torch.Tensor,
        idx_mapping: torch.Tensor,
        idx_mapping_np: np.ndarray,
        expanded_idx_mapping: torch.Tensor,
        expanded_local_pos: torch.Tensor,
        seq_lens_upper_bound_np: np.ndarray,
        verify_draft_sampled: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        self._chunk = idx_mapping_np, expanded_idx_mapping, pos
        processed, sampled, num_sampled = super()._verify(
            logits,
            draft_logits,
            draft_sampled,
            pos,
            cu_num_logits,
            idx_mapping,
            idx_mapping_np,
            expanded_idx_mapping,
            expanded_local_pos,
            seq_lens_upper_bound_np,
            verify_draft_sampled,
        )
        table = self.block_sampler.table
        diffusion = np.flatnonzero(table.is_diffusion(idx_mapping_np))
        if len(diffusion):
            rows = table.on_device(diffusion)
            self._accept_all(
                processed, draft_sampled, pos, cu_num_logits, idx_mapping, rows, sampled, num_sampled
            )
        by_seed = np.flatnonzero(table.by_seed[idx_mapping_np])
        if len(by_seed) and self.synthetic_conditional_rates is None:
            rows = table.on_device(by_seed)
            drawn = self._draw(processed, expanded_idx_mapping, pos)
            operators = self.block_sampler.operators
            _accept_by_seed(operators, drawn, verify_draft_sampled, cu_num_logits, rows, sampled, num_sampled)
        return processed, sampled, num_sampled

    @override
    def _get_logprobs_tensors(
        self,
        sampled: torch.Tensor,
        num_sampled: torch.Tensor,
        logits: torch.Tensor,
        cu_num_logits: torch.Tensor,
        cu_num_logits_np: np.ndarray,
        max_num_logprobs: int,
    ) -> Any:
        """Those of the tokens returned: of diffusion requests as they were when a token was committed."""
        slots, slot_of_row, positions = self._chunk
        if self._most_named:
            tensors = compute_topk_scores(
                logits,
                max(max_num_logprobs, 0),
                _by_row(sampled, num_sampled, cu_num_logits, len(logits)),
                cu_num_logits_np.tolist() if len(logits) > len(slots) else None,
                logprob_token_ids_state=self.sampler.logprob_token_ids_state,
                expanded_idx_mapping=slot_of_row,
                max_per_req_token_ids=self._most_named,
                logits_mode=self.sampler.logprobs_mode in LOGITS_MODES,
            )
        else:
            tensors = super()._get_logprobs_tensors(
                sampled, num_sampled, logits, cu_num_logits, cu_num_logits_np, max_num_logprobs
            )
        if tensors is None:
            return None
        put_commit_scores(self.block_sampler.table, tensors, slots, cu_num_logits_np, positions)
        return tensors

    def _accept_all(
        self,
        processed: torch.Tensor,
        draft_sampled: torch.Tensor,
        pos: torch.Tensor,
        cu_num_logits: torch.Tensor,
        idx_mapping: torch.Tensor,
        rows: torch.Tensor,
        sampled: torch.Tensor,
        num_sampled: torch.Tensor,
    ) -> None:
        """Overwrite, in place, the outcome `[R, W]` of the requests `rows` by their drafts and one more token."""
        first = cu_num_logits[rows].long()
        last = cu_num_logits[rows + 1].long() - 1
        column = torch.arange(sampled.shape[1], device=sampled.device)
        source = (first[:, None] + 1 + column).clamp(max=draft_sampled.shape[0] - 1)
        num_drafts = (last - first)[:, None]
        slots = idx_mapping[rows]
        bonus = self._draw(processed[last], slots, pos[last])
        bonus = planned_successors(self.block_sampler.table, slots, pos[last], bonus)
        accepted = torch.where(column < num_drafts, draft_sampled[source].to(sampled.dtype), sampled[rows])
        sampled[rows] = torch.where(column == num_drafts, bonus[:, None].to(sampled.dtype), accepted)
        num_sampled[rows] = (num_drafts[:, 0] + 1).to(num_sampled.dtype)

    def _draw(self, processed: torch.Tensor, slots: torch.Tensor, pos: torch.Tensor) -> torch.Tensor:
        """Draw from processed logits `[T, V]` as vLLM's sampler does for AR in these slots and at these positions."""
        states = self.sampler.sampling_states
        drawn: torch.Tensor = gumbel_sample(
            processed,
            slots,
            states.temperature.gpu,
            states.seeds.gpu,
            pos,
            apply_temperature=False,
            is_drafting=False,
            use_fp64=self.sampler.use_fp64_gumbel,
        )
        return drawn


def _by_row(
    sampled: torch.Tensor, num_sampled: torch.Tensor, cu_num_logits: torch.Tensor, num_rows: int
) -> torch.Tensor:
    """Put the first `num_sampled` `[R]` of the tokens `sampled` `[R, W]` in their rows, `[num_rows]`; 0 elsewhere."""
    column = torch.arange(sampled.shape[1], device=sampled.device)
    place = torch.where(column < num_sampled[:, None], cu_num_logits[:-1, None] + column, num_rows)
    rows = sampled.new_zeros(num_rows + 1)
    return rows.scatter_(0, place.flatten().long(), sampled.flatten())[:-1]


def _accept_by_seed(
    operators: Operators,
    drawn: torch.Tensor,
    draft_sampled: torch.Tensor,
    cu_num_logits: torch.Tensor,
    rows: torch.Tensor,
    sampled: torch.Tensor,
    num_sampled: torch.Tensor,
) -> None:
    """Overwrite, in place, the outcome `[R, W]` of the requests `rows` by AR's draws as far as drafts agree.

    `drawn` and `draft_sampled` are of all rows; a draft of -1 stands where the mask of a grammar is missing.
    """
    first = cu_num_logits[rows].long()
    num_drafts = cu_num_logits[rows + 1].long() - 1 - first
    column = torch.arange(sampled.shape[1], device=sampled.device)
    source = first[:, None] + column.clamp(max=num_drafts[:, None])
    picks = drawn[source]
    accepted = operators.accept(draft_sampled[source[:, 1:]].to(picks.dtype), picks, num_drafts)
    sampled[rows] = picks.to(sampled.dtype)
    num_sampled[rows] = (accepted + 1).to(num_sampled.dtype)
