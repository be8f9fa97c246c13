"""The verify forward: seeds and drafts of a batch in one causal pass, which writes the KV that stays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sglang.srt.layers.logits_processor import LogitsProcessorOutput
from sglang.srt.layers.logprob_processor import compute_spec_logprobs
from sglang.srt.managers.utils import GenerationBatchResult

from nemotron_diffusion_plugin.serving.operators import Operators
from nemotron_diffusion_plugin.sglang.spec_inputs import SeedRelay
from nemotron_diffusion_plugin.sglang.worker.acceptance import Acceptance, Outcome
from nemotron_diffusion_plugin.sglang.worker.forward import BlockForward, PreparedRows
from nemotron_diffusion_plugin.sglang.worker.grammar import begin_masks
from nemotron_diffusion_plugin.sglang.worker.logprobs import put_commit_scores
from nemotron_diffusion_plugin.sglang.worker.slots import WorkerSlots
from nemotron_diffusion_plugin.sglang.worker.step import DecodeStep


@dataclass
class Verified:
    """What the requests of a step emit.

    Attributes:
        tokens: int64 `[R, W]`, zeros after the real ones.
        lengths: int64 `[R]`, real tokens of each request, 0 for one that waits for its block.
        seeds: int64 `[R]`, the last token of each request, which has no KV yet.
        output: SGLang's logits output with the log-probabilities that were asked for.
    """

    tokens: torch.Tensor
    lengths: torch.Tensor
    seeds: torch.Tensor
    output: Any

    def result(self, step: DecodeStep, used_graph: bool = False) -> GenerationBatchResult:
        """What SGLang's scheduler takes, and the next step begins with."""
        new_lengths = step.batch.seq_lens + self.lengths.to(step.batch.seq_lens.dtype)
        return GenerationBatchResult(
            logits_output=self.output,
            next_token_ids=self.tokens.reshape(-1),
            accept_lens=self.lengths.to(torch.int32),
            new_seq_lens=new_lengths,
            next_draft_input=SeedRelay(self.seeds, new_lengths),
            speculative_num_draft_tokens=self.tokens.shape[1],
            can_run_cuda_graph=used_graph,
        )


class Verifier:
    """Runs the causal pass over seeds and drafts and decides what each request emits."""

    def __init__(self, forward: BlockForward, slots: WorkerSlots, operators: Operators) -> None:
        self.forward = forward
        self.slots = slots
        self.table = slots.table
        synthetic = slots.settings.synthetic_acceptance
        self.acceptance = Acceptance(self.table, slots.noise_seeds, slots.counts, operators, synthetic)

    def verify(self, step: DecodeStep, rows: np.ndarray, chain: torch.Tensor) -> Verified:
        """Verify the chains int64 `[R, B]` of the batch rows `rows`; the other rows emit nothing."""
        lengths = self.table.length[step.slots[rows]]
        stride = int(lengths.max(initial=1))
        tokens = torch.zeros(step.size, stride, dtype=torch.int64, device=chain.device)
        counts = torch.zeros(step.size, dtype=torch.int64, device=chain.device)
        logits = None
        if step.batch.return_logprob:
            shape = (step.size, stride, self.forward.vocab_size)
            logits = torch.zeros(shape, dtype=torch.float32, device=chain.device)
        for part in self._parts(lengths):
            taken = self.table.on_device(rows[part])
            outcome = self._decide(step, rows[part], lengths[part], chain[taken, :stride])
            tokens[taken], counts[taken] = outcome.tokens, outcome.lengths
            self.slots.note_ended(step.index[taken], step.computed[taken], outcome)
            if logits is not None and outcome.logits is not None:
                logits[taken] = outcome.logits
        output = LogitsProcessorOutput(next_token_logits=None)
        if logits is not None:
            output.next_token_logits = logits.view(-1, logits.shape[2])
            compute_spec_logprobs(step.batch, output, tokens.reshape(-1), chain_stride=stride)
            verified = np.zeros(step.size, dtype=np.int64)
            verified[rows] = lengths
            put_commit_scores(self.table, output, step.slots, verified, stride)
        last = tokens.gather(1, (counts - 1).clamp(min=0)[:, None])[:, 0]
        return Verified(tokens, counts, torch.where(counts > 0, last, step.seeds), output)

    def lay_out(self, step: DecodeStep, rows: np.ndarray, lengths: np.ndarray) -> PreparedRows:
        """A causal forward over the first `lengths` positions from the seed on of each of the batch rows `rows`."""
        index = step.index[self.table.on_device(rows)]
        return self.forward.prepare(self.table.forward_blocks(step.slots[rows], index, lengths), causal=True)

    def _parts(self, lengths: np.ndarray) -> list[np.ndarray]:
        """Which rows share a forward: as many as its logits allow, of one length where the backend wants that."""
        order = np.arange(len(lengths)) if self.forward.ragged else np.argsort(lengths, kind="stable")
        return [order[part] for part in self.forward.chunks(lengths[order])]

    def _decide(
        self, step: DecodeStep, rows: np.ndarray, lengths: np.ndarray, chain: torch.Tensor
    ) -> Outcome:
        """One forward over the chains int64 `[R, W]` of the batch rows `rows`, and what comes of it."""
        column = torch.arange(chain.shape[1], device=chain.device)
        chain = torch.where(column < self.table.on_device(lengths)[:, None], chain, 0)
        laid = self.lay_out(step, rows, lengths)
        masks = begin_masks(step.batch, rows, chain) if step.batch.has_grammar else None
        output = self.forward.run(laid, chain[laid.owner, laid.local])
        mask = None if masks is None else masks()
        return self.acceptance.decide(step, rows, laid, chain, output.all_logits, mask)
