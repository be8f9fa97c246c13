"""Resuming a preempted diffusion request inside its block.

The engine replays prompt and output as a prompt. The tokens already emitted may end inside a block, whose later
tokens were denoised together with them: the block is denoised again from its seed, which gives the same tokens, and
the causal KV that the denoising overwrote is written again. That KV may be shared through the prefix cache, so nothing
else runs in between.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from nemotron_diffusion_plugin.serving.slots import BlockPhase, RequestTable
from nemotron_diffusion_plugin.vllm.worker.forward import BlockForward


class BlockReplay:
    """Plans the current block of a resumed request by position arithmetic alone; it keeps no state."""

    def __init__(self, table: RequestTable, forward: BlockForward, req_states: Any) -> None:
        self.table = table
        self.forward = forward
        self.req_states = req_states

    def plan(self, slot: int, known: int, finish_block: Callable[[int], None]) -> None:
        """Denoise the block that the last of `known` tokens of a slot lies in, unless it ends there.

        `finish_block(slot)` denoises the block of one slot to its end.
        """
        block_size = int(self.table.block_size[slot])
        place = (known - 1 - int(self.table.prompt_len[slot])) % block_size
        if place == block_size - 1:
            return
        start = known - 1 - place
        emitted = self.req_states.all_token_ids.gpu[slot, start:known].to(self.table.device, torch.int64)
        slots, starts = np.array([slot]), np.array([start])
        self.table.begin_blocks(slots, starts, emitted[:1], self.forward.last_position)
        finish_block(slot)
        if not torch.equal(self.table.blocks.tokens[slot, : place + 1], emitted):
            self._keep(slot, emitted)
            finish_block(slot)
        blocks = self.forward.prepare(
            slots,
            self.table.on_device(slots),
            self.table.on_device(starts),
            np.array([place + 1]),
            known,
            causal=True,
        )
        self.forward.run(blocks, emitted)

    def _keep(self, slot: int, emitted: torch.Tensor) -> None:
        """Unseeded sampling gave other tokens than were emitted: mask the rest of the block again behind these."""
        blocks, count = self.table.blocks, emitted.shape[0]
        column = torch.arange(blocks.masked.shape[1], device=self.table.device)
        blocks.tokens[slot, :count] = emitted
        blocks.tokens[slot, count:] = self.table.mask_token_id
        blocks.masked[slot] = (column >= count) & (column < blocks.length[slot])
        self.table.planned[slot] = False
        self.table.phase[slot] = BlockPhase.DENOISING
