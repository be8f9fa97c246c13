"""Acceptance in the verify forward: exact for AR and self-speculation, accept-all for the blocks of diffusion."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from nemotron_diffusion_plugin.decoding import noise
from nemotron_diffusion_plugin.decoding.accept import accept_sampled, correction_weights
from nemotron_diffusion_plugin.serving.operators import Operators
from nemotron_diffusion_plugin.serving.request_table import NO_TOKEN, RequestTable
from nemotron_diffusion_plugin.sglang.block_forward import PreparedBlocks
from nemotron_diffusion_plugin.sglang.penalties import OutputCounts
from nemotron_diffusion_plugin.sglang.probabilities import probabilities
from nemotron_diffusion_plugin.sglang.step import DecodeStep

_DRAWN_FOR_TOKEN = 0
_DRAWN_FOR_ACCEPTANCE = -1


@dataclass
class Outcome:
    """What the requests of a verify forward emit.

    Attributes:
        tokens: int64 `[R, W]`: accepted drafts and one more token, then zeros.
        lengths: int64 `[R]`, how many of them are real.
        logits: the processed logits by row, `[R, W, V]`, zeros past a block; None unless asked for.
    """

    tokens: torch.Tensor
    lengths: torch.Tensor
    logits: torch.Tensor | None = None


GrammarMask = Callable[[torch.Tensor], None]
"""Applies the grammars of the batch to logits `[R * W, V]` in place."""


class Acceptance:
    """Decides for the rows of a verify forward, without waiting for the device."""

    def __init__(
        self,
        table: RequestTable,
        seeds: torch.Tensor,
        counts: OutputCounts,
        operators: Operators,
        synthetic: float | None = None,
    ) -> None:
        """`synthetic`: tokens a greedy cycle is made to emit on average, whatever was drafted; None verifies."""
        self.table = table
        self.seeds = seeds
        self.counts = counts
        self.operators = operators
        self.synthetic = synthetic

    def decide(
        self,
        step: DecodeStep,
        rows: np.ndarray,
        blocks: PreparedBlocks,
        chain: torch.Tensor,
        logits: torch.Tensor,
        grammar: GrammarMask | None,
    ) -> Outcome:
        """Return what the batch rows `rows` (host, `[R]`) emit.

        Args:
            blocks: the rows of the verify forward, one block per request.
            chain: int64 `[R, W]`, seed and drafts of each request, zeros past its block.
            logits: `[T, V]` of the verify forward.
            grammar: masks what the grammars forbid, None without one.
        """
        slots, width = step.slots[rows], chain.shape[1]
        logits = logits.float()
        self._edit(step, rows, blocks, chain, logits)
        padded = None
        if grammar is not None or step.batch.return_logprob:
            padded = logits.new_zeros(len(rows), width, logits.shape[1])
            padded[blocks.owner, blocks.local] = logits
            if grammar is not None:
                grammar(padded.view(len(rows) * width, -1))
                logits = padded[blocks.owner, blocks.local]
        self._bias(step, rows, blocks, logits)
        if padded is not None:
            padded[blocks.owner, blocks.local] = logits
        picks = torch.zeros_like(chain)
        picks[blocks.owner, blocks.local] = logits.argmax(dim=1)
        drafts, num_drafts = chain[:, 1:], self.table.on_device(blocks.widths - 1)
        accepted = self.operators.accept(drafts, picks, num_drafts)
        if self.synthetic is not None:
            accepted = made_up_acceptance(self.synthetic, num_drafts)
        diffusion = self.table.on_device(self.table.is_diffusion(slots), torch.bool)
        accepted = torch.where(diffusion, self._planned(slots, num_drafts), accepted)
        last = picks.gather(1, accepted[:, None])[:, 0]
        sampled = np.flatnonzero(self.table.temperature[slots] > 0)
        if len(sampled):
            self._sample(step, rows, sampled, blocks, chain, logits, accepted, last)
        column = torch.arange(width, device=chain.device)
        following = torch.nn.functional.pad(drafts, (0, 1))
        tokens = torch.where(column < accepted[:, None], following, 0)
        tokens.scatter_(1, accepted[:, None], last[:, None])
        self.counts.add(slots, tokens, accepted + 1)
        return Outcome(tokens, accepted + 1, padded if step.batch.return_logprob else None)

    def _edit(
        self,
        step: DecodeStep,
        rows: np.ndarray,
        blocks: PreparedBlocks,
        chain: torch.Tensor,
        logits: torch.Tensor,
    ) -> None:
        """Penalties and stop tokens that come too early, in place."""
        slots, table = step.slots[rows], self.table
        for row in np.flatnonzero(self.counts.active[slots]):
            part = slice(int(blocks.offsets[row]), int(blocks.offsets[row + 1]))
            self.counts.apply(int(slots[row]), logits[part], chain[row, : int(blocks.widths[row])])
        banned = table.banned_rows(slots, blocks.starts_host + 1, blocks.widths)
        for row in np.flatnonzero(banned):
            ids = table.stop_ids[int(slots[row])]
            begin = int(blocks.offsets[row])
            logits[begin : begin + int(banned[row])].index_fill_(1, ids[ids != NO_TOKEN], -torch.inf)

    def _bias(self, step: DecodeStep, rows: np.ndarray, blocks: PreparedBlocks, logits: torch.Tensor) -> None:
        bias = step.batch.sampling_info.logit_bias
        if bias is not None:
            logits += bias[self.table.on_device(rows)][blocks.owner]

    def _planned(self, slots: np.ndarray, num_drafts: torch.Tensor) -> torch.Tensor:
        """How many drafts of a diffusion block stand: all, or those up to the stop token that ended its denoising."""
        index = self.table.on_device(slots)
        masked = self.table.blocks.masked[index]
        before_masks = (masked.cumsum(dim=1) == 0).sum(dim=1) - 1
        return torch.minimum(before_masks, num_drafts)

    def _sample(
        self,
        step: DecodeStep,
        rows: np.ndarray,
        sampled: np.ndarray,
        blocks: PreparedBlocks,
        chain: torch.Tensor,
        logits: torch.Tensor,
        accepted: torch.Tensor,
        last: torch.Tensor,
    ) -> None:
        """Overwrite, in place, the outcome of requests with a temperature: `accepted` and `last`, int64 `[R]`."""
        slots, table = step.slots[rows], self.table
        widths = blocks.widths[sampled]
        take = np.concatenate([np.arange(blocks.offsets[row], blocks.offsets[row + 1]) for row in sampled])
        owner = table.on_device(np.repeat(np.arange(len(sampled)), widths))
        local = blocks.local[table.on_device(take)]
        flat = probabilities(step.batch, rows[sampled], owner, logits[table.on_device(take)])
        size, width = len(sampled), chain.shape[1]
        spread = flat.new_zeros(size, width, flat.shape[1])
        spread[owner, local] = flat
        picked = table.on_device(sampled)
        drafts, num_drafts = chain[picked, 1:], table.on_device(widths - 1)
        seeds = self.seeds[table.on_device(slots[sampled])]
        starts = blocks.starts[picked]
        speculating = table.on_device(~table.is_diffusion(slots[sampled]), torch.bool)
        count = accepted[picked]
        if width > 1:
            column = torch.arange(width - 1, device=chain.device)
            position = (starts[:, None] + 1 + column).reshape(-1)
            uniform = noise.uniform(
                seeds.repeat_interleave(width - 1),
                position,
                torch.full_like(position, _DRAWN_FOR_ACCEPTANCE),
                1,
            )
            agreed = accept_sampled(drafts, spread, num_drafts, uniform.view(size, width - 1))
            count = torch.where(speculating, agreed, count)
        rejected = torch.full_like(count, NO_TOKEN)
        if width > 1:
            next_draft = drafts.gather(1, count.clamp(max=width - 2)[:, None])[:, 0]
            rejected = torch.where(speculating & (count < num_drafts), next_draft, rejected)
        weights = correction_weights(spread[torch.arange(size, device=count.device), count], rejected)
        accepted[picked] = count
        last[picked] = draw(weights, seeds, starts + 1 + count)


def made_up_acceptance(length: float, num_drafts: torch.Tensor) -> torch.Tensor:
    """Return accepted drafts, int64 `[R]`, so that cycles emit `length` tokens on average: the two numbers next to it.

    `num_drafts`, int64 `[R]`, bounds them.
    """
    whole = math.floor(length - 1)
    one_more = torch.rand(num_drafts.shape, device=num_drafts.device) < length - 1 - whole
    return torch.minimum(whole + one_more.to(num_drafts.dtype), num_drafts)


def draw(weights: torch.Tensor, seeds: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """Draw a token in proportion to non-negative weights `[N, V]`, int64 `[N]`.

    The draw is a function of seed and position alone (int64 `[N]`), the same in any batch.
    """
    uniform = noise.uniform(seeds, positions, torch.full_like(positions, _DRAWN_FOR_TOKEN), weights.shape[1])
    return (weights.double().log() - torch.log(-torch.log(uniform))).argmax(dim=1)
