"""Forwards for measuring what they take, before the first request."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from nemotron_diffusion_plugin.serving.operators import Operators
from nemotron_diffusion_plugin.sglang.worker.forward import BlockForward


class ForwardTimer:
    """Runs draft, verify and decode forwards for slots that hold no request yet.

    An empty slot's positions lie in the pool's padding, which nobody reads. The pool has one slot more than requests.
    """

    def __init__(self, forward: BlockForward, operators: Operators, has_lora: bool) -> None:
        self.forward = forward
        self.table = forward.table
        self.operators = operators
        self.has_lora = has_lora
        self.slots = len(self.table.start) - 1

    @property
    def most_rows(self) -> int:
        """The most rows of one forward."""
        return min(self.forward.max_tokens, self.slots * self.table.settings.block_size)

    @torch.no_grad()
    def run(self, rows: int, bidirectional: bool) -> None:
        """Run a forward and wait for its picks: of whole blocks, of a part of one, or causally of single tokens."""
        widths = self._widths(rows, bidirectional)
        slots = np.arange(len(widths))
        self.table.start[slots] = 0
        index = self.table.on_device(slots)
        blocks = self.forward.prepare(
            slots, index, torch.zeros_like(index), widths, 0, causal=not bidirectional
        )
        tokens = torch.zeros(rows, dtype=torch.int64, device=index.device)
        lora_rows = None
        if bidirectional and self.has_lora:
            lora_rows = torch.ones(rows, 1, dtype=self.forward.dtype, device=index.device)
        logits = self.forward.run(blocks, tokens, lora_rows)
        picked, _ = self.operators.pick(logits, self.table.mask_token_id, None)
        picked[-1].item()

    def _widths(self, rows: int, bidirectional: bool) -> np.ndarray:
        block = self.table.settings.block_size
        if rows >= block:
            return np.full(rows // block, block)
        return np.ones(rows, dtype=np.int64) if not bidirectional and rows <= self.slots else np.array([rows])


def of_first_rank(answer: Any) -> Any:
    """The first tensor-parallel rank's answer, on all of them."""
    from sglang.srt.distributed.parallel_state import get_tp_group

    group = get_tp_group()
    return answer if group.world_size == 1 else group.broadcast_object(answer, src=0)
