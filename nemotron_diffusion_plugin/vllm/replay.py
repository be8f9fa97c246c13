"""Resuming a preempted diffusion request inside its block.

The engine replays prompt and output as a prompt. The tokens already emitted may end inside a block, whose later
tokens were denoised together with them: the block is denoised again from its seed, which gives the same tokens, and
the causal KV that the denoising overwrote is written again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from nemotron_diffusion_plugin.vllm.block_forward import BlockForward
from nemotron_diffusion_plugin.vllm.drafting import UNBOUNDED
from nemotron_diffusion_plugin.vllm.request_table import BlockPhase, RequestTable

Run = Callable[[np.ndarray, int, int], object]
_NOBODY = np.empty(0, dtype=np.int64)


class BlockReplay:
    """Plans the current block of resumed requests by position arithmetic alone; it keeps no state."""

    def __init__(self, table: RequestTable, forward: BlockForward, req_states: Any) -> None:
        self.table = table
        self.forward = forward
        self.req_states = req_states

    def plan(self, slots: np.ndarray, known: np.ndarray, run: Run) -> None:
        """Denoise the block that the last of `known[r]` tokens of slot r lies in, where it is not complete.

        `run(speculating, upper_bound, bound)` is the speculator's denoise loop.
        """
        place = (known - 1 - self.table.prompt_len[slots]) % self.table.block_size[slots]
        open_blocks = place < self.table.block_size[slots] - 1
        slots, place, starts = slots[open_blocks], place[open_blocks], (known - 1 - place)[open_blocks]
        if not len(slots):
            return
        emitted = [
            self._tokens(slot, start, count)
            for slot, start, count in zip(slots, starts, place + 1, strict=True)
        ]
        seeds = torch.stack([tokens[0] for tokens in emitted])
        self.table.begin_blocks(slots, starts, seeds, self.forward.last_position)
        run(_NOBODY, 0, UNBOUNDED)
        if self._keep_emitted(slots, emitted):
            run(_NOBODY, 0, UNBOUNDED)
        self._write_causal(slots, starts, emitted)

    def _tokens(self, slot: int, start: int, count: int) -> torch.Tensor:
        tokens = self.req_states.all_token_ids.gpu[int(slot), int(start) : int(start + count)]
        return tokens.to(self.table.device, torch.int64)

    def _keep_emitted(self, slots: np.ndarray, emitted: list[torch.Tensor]) -> bool:
        """Where unseeded sampling gave other tokens than were emitted, denoise the rest around the emitted ones."""
        differing = False
        blocks = self.table.blocks
        for slot, tokens in zip(slots.tolist(), emitted, strict=True):
            count = len(tokens)
            if torch.equal(blocks.tokens[slot, :count], tokens):
                continue
            differing = True
            blocks.tokens[slot, :count] = tokens
            blocks.tokens[slot, count:] = self.table.mask_token_id
            column = torch.arange(blocks.masked.shape[1], device=self.table.device)
            blocks.masked[slot] = (column >= count) & (column < blocks.length[slot])
            self.table.planned[slot] = False
            self.table.phase[slot] = BlockPhase.DENOISING
        return differing

    def _write_causal(self, slots: np.ndarray, starts: np.ndarray, emitted: list[torch.Tensor]) -> None:
        rows = np.array([len(tokens) for tokens in emitted], dtype=np.int32)
        index = self.table.on_device(slots)
        begin = self.table.on_device(starts)
        for part in self.forward.chunks(rows):
            blocks = self.forward.prepare(
                index[part], begin[part], rows[part], int((starts + rows).max()), causal=True
            )
            self.forward.run(blocks, torch.cat(emitted[part]))
