"""Picking tokens for the rows of a bidirectional forward, a bounded number of logits at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import torch

from nemotron_diffusion_plugin.core import BlockForward, BlockRows
from nemotron_diffusion_plugin.serving.block_sampling import BlockSampling
from nemotron_diffusion_plugin.serving.operators import Operators
from nemotron_diffusion_plugin.serving.slots import NO_TOKEN, RequestTable

LOGITS_AT_ONCE = 1 << 28
"""Most logits that exist at a time: 2048 rows of a 131072-wide vocabulary, whatever the batch."""

Seeds = Callable[[torch.Tensor], torch.Tensor]
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
        self, table: RequestTable, forward: BlockForward, seeds: Seeds, operators: Operators
    ) -> None:
        self.table = table
        self.forward = forward
        self.seeds = seeds
        self.operators = operators

    def pick(
        self,
        slots: np.ndarray,
        index: torch.Tensor,
        blocks: BlockRows,
        output: torch.Tensor,
        observers: Sequence[LogitsObserver] = (),
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return tokens int64 `[T]` and confidences float32 `[T]` for the `[T, ...]` output of a forward.

        `slots` (host) and `index` (device) name the request slot of each of the forward's blocks.
        """
        sampling = self._sampling(slots, index, blocks)
        banned = self._early_stops(slots, blocks)
        tokens = blocks.local.new_empty(blocks.num_tokens)
        confidence = torch.empty(blocks.num_tokens, dtype=torch.float32, device=tokens.device)
        rows = max(1, LOGITS_AT_ONCE // self.forward.vocab_size)
        for first in range(0, blocks.num_tokens, rows):
            part = slice(first, min(first + rows, blocks.num_tokens))
            logits = self.forward.logits(output[part])
            for begin, end, ids in banned:
                logits[max(begin - first, 0) : max(end - first, 0)].index_fill_(1, ids, -torch.inf)
            tokens[part], confidence[part] = self.operators.pick(
                logits, self.table.mask_token_id, None if sampling is None else sampling.part(part)
            )
            for observer in observers:
                observer.see(first, logits, tokens[part])
        return tokens, confidence

    def _sampling(self, slots: np.ndarray, index: torch.Tensor, blocks: BlockRows) -> BlockSampling | None:
        temperature = np.where(self.table.is_diffusion(slots), self.table.temperature[slots], 0.0)
        if not temperature.any():
            return None
        return BlockSampling(
            self.table.on_device(temperature, torch.float64)[blocks.owner],
            self.seeds(index)[blocks.owner],
            blocks.positions,
            self.table.blocks.step[index][blocks.owner] + 1,
        )

    def _early_stops(self, slots: np.ndarray, blocks: BlockRows) -> list[tuple[int, int, torch.Tensor]]:
        """Rows `[begin, end)` whose position comes before the request's `min_tokens`-th token, and its stop ids."""
        table = self.table
        counts = table.banned_rows(slots, table.start[slots], table.block_size[slots])
        counts[~table.is_diffusion(slots)] = 0
        banned = []
        for row in np.flatnonzero(counts):
            ids = table.stop_ids[int(slots[row])]
            begin = int(blocks.offsets[row])
            banned.append((begin, begin + int(counts[row]), ids[ids != NO_TOKEN]))
        return banned
