"""Acceptance in the verify forward: exact for AR and self-speculation, accept-all for the blocks of diffusion."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from nemotron_diffusion_plugin.rules import noise
from nemotron_diffusion_plugin.rules.accept import accept_sampled, correction_weights
from nemotron_diffusion_plugin.serving.block_sampling import BlockSampling
from nemotron_diffusion_plugin.serving.operators import Operators
from nemotron_diffusion_plugin.serving.slots import NO_TOKEN, SlotTable
from nemotron_diffusion_plugin.sglang.worker.forward import PreparedRows
from nemotron_diffusion_plugin.sglang.worker.grammar import Mask
from nemotron_diffusion_plugin.sglang.worker.penalties import OutputCounts
from nemotron_diffusion_plugin.sglang.worker.probabilities import probabilities
from nemotron_diffusion_plugin.sglang.worker.step import DecodeStep

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


class Acceptance:
    """Decides for the rows of a verify forward, without waiting for the device."""

    def __init__(
        self,
        table: SlotTable,
        noise_seeds: torch.Tensor,
        counts: OutputCounts,
        operators: Operators,
        synthetic: float | None = None,
    ) -> None:
        """`synthetic`: tokens a greedy cycle is made to emit on average, whatever was drafted; None verifies."""
        self.table = table
        self.noise_seeds = noise_seeds
        self.counts = counts
        self.operators = operators
        self.synthetic = synthetic

    def decide(
        self,
        step: DecodeStep,
        rows: np.ndarray,
        laid: PreparedRows,
        chain: torch.Tensor,
        logits: torch.Tensor,
        grammar: Mask | None,
    ) -> Outcome:
        """Return what the batch rows `rows` (host, `[R]`) emit.

        Args:
            laid: the rows of the verify forward, one block per request.
            chain: int64 `[R, W]`, seed and drafts of each request, zeros past its block.
            logits: `[T, V]` of the verify forward.
            grammar: masks what the grammars forbid, None without one.
        """
        slots, width = step.slots[rows], chain.shape[1]
        logits = logits.float()
        self._edit(step, rows, laid, chain, logits)
        padded = None
        if grammar is not None or step.batch.return_logprob:
            padded = logits.new_zeros(len(rows), width, logits.shape[1])
            padded[laid.owner, laid.local] = logits
            if grammar is not None:
                grammar(padded.view(len(rows) * width, -1))
                logits = padded[laid.owner, laid.local]
        self._bias(step, rows, laid, logits)
        if padded is not None:
            padded[laid.owner, laid.local] = logits
        picks = torch.zeros_like(chain)
        picks[laid.owner, laid.local] = logits.argmax(dim=1)
        drafts, num_drafts = chain[:, 1:], self.table.on_device(laid.blocks.lengths - 1)
        accepted = self.operators.accept(drafts, picks, num_drafts)
        if self.synthetic is not None:
            accepted = made_up_acceptance(self.synthetic, num_drafts)
        diffusion = self.table.on_device(self.table.is_diffusion(slots), torch.bool)
        accepted = torch.where(diffusion, self._planned(slots, num_drafts), accepted)
        last = picks.gather(1, accepted[:, None])[:, 0]
        by_seed = self.table.by_seed[slots]
        by_chance = (self.table.temperature[slots] > 0) & ~by_seed
        for chosen, decide in ((by_seed, self._accept_by_seed), (by_chance, self._accept_by_chance)):
            if chosen.any():
                some = self._sampled(step, rows, np.flatnonzero(chosen), laid, chain, logits)
                accepted[some.picked], last[some.picked] = decide(some)
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
        laid: PreparedRows,
        chain: torch.Tensor,
        logits: torch.Tensor,
    ) -> None:
        """Penalties and stop tokens that come too early, in place."""
        slots, table = step.slots[rows], self.table
        for row in np.flatnonzero(self.counts.active[slots]):
            part = slice(int(laid.offsets[row]), int(laid.offsets[row + 1]))
            self.counts.apply(int(slots[row]), logits[part], chain[row, : int(laid.blocks.lengths[row])])
        for row in np.flatnonzero(table.banned_until[slots] > table.prompt_len[slots]):
            part = slice(int(laid.offsets[row]), int(laid.offsets[row + 1]))
            ids = table.stop_ids_of(int(slots[row]))
            early = laid.positions[part, None] + 1 < int(table.banned_until[slots[row]])
            kept = logits[part].index_select(1, ids)
            logits[part].index_copy_(1, ids, kept.masked_fill_(early, -torch.inf))

    def _bias(self, step: DecodeStep, rows: np.ndarray, laid: PreparedRows, logits: torch.Tensor) -> None:
        bias = step.batch.sampling_info.logit_bias
        if bias is not None:
            logits += bias[self.table.on_device(rows)][laid.owner]

    def _planned(self, slots: np.ndarray, num_drafts: torch.Tensor) -> torch.Tensor:
        """How many drafts of a diffusion block stand: all, or those up to the stop token that ended its denoising."""
        index = self.table.on_device(slots)
        masked = self.table.blocks.masked[index]
        before_masks = (masked.cumsum(dim=1) == 0).sum(dim=1) - 1
        return torch.minimum(before_masks, num_drafts)

    def _sampled(
        self,
        step: DecodeStep,
        rows: np.ndarray,
        chosen: np.ndarray,
        laid: PreparedRows,
        chain: torch.Tensor,
        logits: torch.Tensor,
    ) -> _Sampled:
        table, lengths = self.table, laid.blocks.lengths[chosen]
        take = np.concatenate([np.arange(laid.offsets[row], laid.offsets[row + 1]) for row in chosen])
        owner = np.repeat(np.arange(len(chosen)), lengths)
        flat = table.on_device(take)
        picked, slots = table.on_device(chosen), step.slots[rows[chosen]]
        return _Sampled(
            slots,
            picked,
            table.on_device(owner),
            laid.local[flat],
            probabilities(step.batch, rows[chosen], owner, logits[flat]),
            chain[picked, 1:],
            table.on_device(lengths - 1),
            self.noise_seeds[table.on_device(slots)],
            laid.blocks.starts[picked],
        )

    def _accept_by_seed(self, some: _Sampled) -> tuple[torch.Tensor, torch.Tensor]:
        """Draw at every row what AR would, by noise that seed and position decide, and accept drafts that agree.

        A draft is accepted as often as by chance, with p(draft), and answers do not depend on how they are drafted.
        """
        picks = torch.zeros(
            len(some.slots), 1 + some.drafts.shape[1], dtype=torch.int64, device=some.owner.device
        )
        positions = some.starts[some.owner] + 1 + some.local
        picks[some.owner, some.local] = self._draw(
            some.probabilities, some.noise_seeds[some.owner], positions
        )
        count = self.operators.accept(some.drafts, picks, some.num_drafts)
        return count, picks.gather(1, count[:, None])[:, 0]

    def _accept_by_chance(self, some: _Sampled) -> tuple[torch.Tensor, torch.Tensor]:
        """Accept each draft with p(draft), and draw what follows from what is left (`decoding.accept`)."""
        device, size, drafts = some.owner.device, len(some.slots), some.drafts
        width = 1 + drafts.shape[1]
        spread = some.probabilities.new_zeros(size, width, some.probabilities.shape[1])
        spread[some.owner, some.local] = some.probabilities
        diffusion = self.table.is_diffusion(some.slots)
        speculating = self.table.on_device(~diffusion, torch.bool)
        count = self._planned(some.slots, some.num_drafts)
        rejected = torch.full_like(count, NO_TOKEN)
        if width > 1:
            column = torch.arange(width - 1, device=device)
            position = (some.starts[:, None] + 1 + column).reshape(-1)
            uniform = noise.uniform(
                some.noise_seeds.repeat_interleave(width - 1),
                position,
                torch.full_like(position, _DRAWN_FOR_ACCEPTANCE),
                1,
            )
            agreed = accept_sampled(drafts, spread, some.num_drafts, uniform.view(size, width - 1))
            count = torch.where(speculating, agreed, count)
            next_draft = drafts.gather(1, count.clamp(max=width - 2)[:, None])[:, 0]
            rejected = torch.where(speculating & (count < some.num_drafts), next_draft, rejected)
        weights = correction_weights(spread[torch.arange(size, device=device), count], rejected)
        return count, self._draw(weights, some.noise_seeds, some.starts + 1 + count)

    def _draw(
        self, weights: torch.Tensor, noise_seeds: torch.Tensor, positions: torch.Tensor
    ) -> torch.Tensor:
        """Draw a token in proportion to non-negative weights `[N, V]`, int64 `[N]`.

        The draw is a function of noise seed and position alone (int64 `[N]`), the same in any batch.
        """
        once = BlockSampling(
            torch.ones_like(noise_seeds, dtype=torch.float64),
            noise_seeds,
            positions,
            torch.full_like(positions, _DRAWN_FOR_TOKEN),
        )
        return self.operators.pick_tokens(weights.log(), None, once)


@dataclass
class _Sampled:
    """Requests of a verify forward that sample: R of them with T rows.

    Attributes:
        slots: their slots, host `[R]`.
        picked: their places among those of the forward, int64 `[R]`.
        owner, local: request and place in its block of each row, int64 `[T]`.
        probabilities: of each row, `[T, V]`.
        drafts, num_drafts: int64 `[R, K]` and `[R]`.
        noise_seeds: int64 `[R]`.
        starts: position of the block's seed, int64 `[R]`.
    """

    slots: np.ndarray
    picked: torch.Tensor
    owner: torch.Tensor
    local: torch.Tensor
    probabilities: torch.Tensor
    drafts: torch.Tensor
    num_drafts: torch.Tensor
    noise_seeds: torch.Tensor
    starts: torch.Tensor


def made_up_acceptance(length: float, num_drafts: torch.Tensor) -> torch.Tensor:
    """Return accepted drafts, int64 `[R]`, so that cycles emit `length` tokens on average: the two numbers next to it.

    `num_drafts`, int64 `[R]`, bounds them.
    """
    whole = math.floor(length - 1)
    one_more = torch.rand(num_drafts.shape, device=num_drafts.device) < length - 1 - whole
    return torch.minimum(whole + one_more.to(num_drafts.dtype), num_drafts)
