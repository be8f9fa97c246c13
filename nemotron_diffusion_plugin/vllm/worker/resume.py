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

from nemotron_diffusion_plugin.serving.slots import SlotTable
from nemotron_diffusion_plugin.vllm.worker.forward import BlockForward


class BlockReplay:
    """Plans the current block of a resumed request by position arithmetic alone; it keeps no state."""

    def __init__(self, table: SlotTable, forward: BlockForward, req_states: Any) -> None:
        self.table = table
        self.forward = forward
        self.req_states = req_states

    def plan(self, slot: int, known: int, finish_block: Callable[[int], None]) -> None:
        """Denoise the block that the last of `known` tokens of a slot lies in, unless it ends there.

        `finish_block(slot)` denoises the block of one slot to its end.
        """
        longest = int(self.table.longest[slot])
        place = (known - 1 - int(self.table.prompt_len[slot])) % longest
        if place == longest - 1:
            return
        start = known - 1 - place
        emitted = self.req_states.all_token_ids.gpu[slot, start:known].to(self.table.device, torch.int64)
        slots = np.array([slot])
        self.table.begin_blocks(slots, np.array([start]), emitted[:1], self.forward.max_model_len)
        finish_block(slot)
        if not torch.equal(self.table.blocks.tokens[slot, : place + 1], emitted):
            # Unseeded sampling gave other tokens than were emitted.
            self.table.mask_after(slot, emitted)
            finish_block(slot)
        blocks = self.table.forward_blocks(slots, self.table.on_device(slots), np.array([place + 1]))
        self.forward.run(self.forward.prepare(blocks, causal=True), emitted)
