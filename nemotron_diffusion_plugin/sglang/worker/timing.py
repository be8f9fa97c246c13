"""Forwards for measuring what they take: drafts, verify forwards and decode steps over empty slots."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from nemotron_diffusion_plugin.core import ForwardOutput
from nemotron_diffusion_plugin.serving.timing import ForwardTimer


class SlotTimer(ForwardTimer):
    """An empty slot's positions lie in the pool's padding, which nobody reads."""

    @torch.no_grad()
    def run(self, rows: int, bidirectional: bool) -> None:
        """See `ForwardTimer.run`."""
        super().run(rows, bidirectional)

    def verify(self, rows: int) -> ForwardOutput:
        """Whole blocks, or single tokens as far as there are slots."""
        is_decode = rows < self.block_size and rows <= self.num_slots
        lengths = np.ones(rows, dtype=np.int64) if is_decode else self.whole_blocks(rows)
        return self.over_blocks(lengths, causal=True)


def of_first_rank(answer: Any) -> Any:
    """The first tensor-parallel rank's answer, on all of them."""
    from sglang.srt.distributed.parallel_state import get_tp_group

    group = get_tp_group()
    return answer if group.world_size == 1 else group.broadcast_object(answer, src=0)
