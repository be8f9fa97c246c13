"""The verify forward: seeds and drafts of a batch in one causal pass, which writes the KV that stays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sglang.srt.layers.logits_processor import LogitsProcessorOutput

from nemotron_diffusion_plugin.sglang.acceptance import Acceptance
from nemotron_diffusion_plugin.sglang.block_forward import BlockForward, PreparedBlocks
from nemotron_diffusion_plugin.sglang.grammar import grammar_mask
from nemotron_diffusion_plugin.sglang.requests import Requests
from nemotron_diffusion_plugin.sglang.step import DecodeStep


@dataclass
class Verified:
    """What the requests of a step emit.

    Attributes:
        tokens: int64 `[R, W]`, zeros behind the real ones.
        lengths: int64 `[R]`, real tokens of each request, 0 for one that waits for its block.
        seeds: int64 `[R]`, the last token of each request, which has no KV yet.
        output: SGLang's logits output with the log-probabilities that were asked for.
    """

    tokens: torch.Tensor
    lengths: torch.Tensor
    seeds: torch.Tensor
    output: Any


class Verifier:
    """Runs the causal pass over seeds and drafts and decides what each request emits."""

    def __init__(self, forward: BlockForward, requests: Requests) -> None:
        self.forward = forward
        self.requests = requests
        self.table = requests.table
        self.acceptance = Acceptance(self.table, requests.seeds, requests.counts)

    def verify(self, step: DecodeStep, rows: np.ndarray, chain: torch.Tensor, barrier: Any) -> Verified:
        """Verify the chains int64 `[R, B]` of the batch rows `rows`; the other rows emit nothing.

        `barrier` is SGLang's: grammars have taken in the previous step once it returns.
        """
        widths = self.table.block_size[step.slots[rows]].astype(np.int64)
        stride = int(widths.max(initial=1))
        tokens = torch.zeros(step.size, stride, dtype=torch.int64, device=chain.device)
        lengths = torch.zeros(step.size, dtype=torch.int64, device=chain.device)
        output = LogitsProcessorOutput(next_token_logits=None)
        if len(rows):
            picked = self.table.on_device(rows)
            real = torch.arange(stride, device=chain.device) < self.table.on_device(widths)[:, None]
            chains = torch.where(real, chain[picked, :stride], 0)
            blocks, logits = self._run(step, rows, widths, chains)
            mask = grammar_mask(step.batch, rows, chains, barrier) if step.batch.has_grammar else None
            outcome = self.acceptance.decide(step, rows, blocks, chains, logits, mask)
            tokens[picked], lengths[picked] = outcome.tokens, outcome.lengths
            self.requests.note_ended(step.index[picked], step.computed[picked], outcome)
            if outcome.logits is not None:
                output.next_token_logits = _all_rows(step, picked, outcome.logits)
        if step.batch.return_logprob:
            self._add_logprobs(step, output, tokens)
        last = tokens.gather(1, (lengths - 1).clamp(min=0)[:, None])[:, 0]
        return Verified(tokens, lengths, torch.where(lengths > 0, last, step.seeds), output)

    def blocks(self, step: DecodeStep, rows: np.ndarray, widths: np.ndarray) -> PreparedBlocks:
        """A causal forward over the first `widths` positions behind each of the batch rows `rows`."""
        picked = self.table.on_device(rows)
        return self.forward.prepare(
            step.slots[rows], step.index[picked], step.computed[picked], widths, 0, causal=True
        )

    def _run(
        self, step: DecodeStep, rows: np.ndarray, widths: np.ndarray, chains: torch.Tensor
    ) -> tuple[PreparedBlocks, torch.Tensor]:
        """One forward, or several where the backend takes one width at a time; logits `[T, V]` in the order of rows."""
        order = np.arange(len(rows)) if self.forward.ragged else np.argsort(widths, kind="stable")
        parts = [order[part] for part in self.forward.chunks(widths[order])]
        whole = self.blocks(step, rows, widths)
        if len(parts) == 1:
            return whole, self.forward.run(whole, chains[whole.owner, whole.local])
        logits: torch.Tensor | None = None
        for part in parts:
            blocks = self.blocks(step, rows[part], widths[part])
            own = chains[self.table.on_device(part)]
            output = self.forward.run(blocks, own[blocks.owner, blocks.local])
            if logits is None:
                logits = output.new_empty(whole.num_tokens, output.shape[1])
            places = np.concatenate([np.arange(whole.offsets[row], whole.offsets[row + 1]) for row in part])
            logits[self.table.on_device(places)] = output
        assert logits is not None
        return whole, logits

    def _add_logprobs(self, step: DecodeStep, output: Any, tokens: torch.Tensor) -> None:
        from sglang.srt.layers.logprob_processor import compute_spec_logprobs

        if output.next_token_logits is None:  # everybody waits
            output.next_token_logits = torch.zeros(
                tokens.numel(), self.forward.vocab_size, device=tokens.device
            )
        compute_spec_logprobs(step.batch, output, tokens.reshape(-1), chain_stride=tokens.shape[1])


def _all_rows(step: DecodeStep, picked: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """Logits `[R * W, V]` of every request of the batch, zeros for those that took no part."""
    full = logits.new_zeros(step.size, *logits.shape[1:])
    full[picked] = logits
    return full.view(-1, logits.shape[2])
