"""Picking tokens for the rows of a bidirectional forward, a bounded number of logits at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import torch

from nemotron_diffusion_plugin.core import BlockForward, BlockRows, Blocks, ForwardOutput
from nemotron_diffusion_plugin.serving.block_sampling import BlockSampling
from nemotron_diffusion_plugin.serving.operators import Operators
from nemotron_diffusion_plugin.serving.slots import SlotTable

LOGITS_AT_ONCE = 1 << 28
"""Most logits that exist at a time: 2048 rows of a 131072-wide vocabulary, whatever the batch."""

NoiseSeeds = Callable[[torch.Tensor], torch.Tensor]
"""Gives the noise seeds, int64 `[R]`, of request slots, int64 `[R]`."""


class LogitsObserver(Protocol):
    """Looks at a forward's logits while they exist."""

    def see(self, first: int, logits: torch.Tensor, tokens: torch.Tensor) -> None:
        """See the logits `[n, V]` of the rows from `first` on and the tokens int64 `[n]` picked there.

        The parts of a forward come in order. Tokens may be replaced in place; the logits are gone once this returns.
        """


class BlockPicker:
    """Picks a token and its confidence for every row; drafts of self-speculation are always the most likely token."""

    def __init__(
        self, table: SlotTable, forward: BlockForward, noise_seeds: NoiseSeeds, operators: Operators
    ) -> None:
        self.table = table
        self.forward = forward
        self.noise_seeds = noise_seeds
        self.operators = operators

    def pick(
        self,
        slots: np.ndarray,
        blocks: Blocks,
        rows: BlockRows,
        output: ForwardOutput,
        observers: Sequence[LogitsObserver] = (),
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return tokens int64 `[T]` and confidences float32 `[T]` for the rows of a forward over `blocks`.

        `slots` are the request slots of the blocks, on the host. A commit rule alone reads confidences: where no block
        is diffusion there are none.
        """
        sampling = self._sampling(slots, blocks, rows)
        banned = self._early_stops(slots, blocks, rows)
        tokens = rows.local.new_empty(rows.num_tokens)
        confidence = None
        if self.table.is_diffusion(slots).any():
            confidence = torch.empty(rows.num_tokens, dtype=torch.float32, device=tokens.device)
        at_once = max(1, LOGITS_AT_ONCE // self.forward.vocab_size)
        for first in range(0, rows.num_tokens, at_once):
            part = slice(first, min(first + at_once, rows.num_tokens))
            logits = output.logits(part)
            for begin, end, ids in banned:
                logits[max(begin - first, 0) : max(end - first, 0)].index_fill_(1, ids, -torch.inf)
            drawn = None if sampling is None else sampling.part(part)
            if confidence is None:
                tokens[part] = self.operators.pick_tokens(logits, self.table.mask_token_id, drawn)
            else:
                tokens[part], confidence[part] = self.operators.pick(logits, self.table.mask_token_id, drawn)
            for observer in observers:
                observer.see(first, logits, tokens[part])
        return tokens, confidence

    def _sampling(self, slots: np.ndarray, blocks: Blocks, rows: BlockRows) -> BlockSampling | None:
        temperature = np.where(self.table.is_diffusion(slots), self.table.temperature[slots], 0.0)
        if not temperature.any():
            return None
        return BlockSampling(
            self.table.on_device(temperature, torch.float64)[rows.owner],
            self.noise_seeds(blocks.index)[rows.owner],
            rows.positions,
            self.table.blocks.step[blocks.index][rows.owner] + 1,
        )

    def _early_stops(
        self, slots: np.ndarray, blocks: Blocks, rows: BlockRows
    ) -> list[tuple[int, int, torch.Tensor]]:
        """Rows `[begin, end)` whose position comes before the request's `min_tokens`-th token, and its stop ids."""
        table = self.table
        counts = table.banned_rows(slots, blocks.start_bounds, blocks.lengths)
        counts[~table.is_diffusion(slots)] = 0
        banned = []
        for row in np.flatnonzero(counts):
            begin = int(rows.offsets[row])
            banned.append((begin, begin + int(counts[row]), table.stop_ids_of(int(slots[row]))))
        return banned
