"""Forwards for measuring what they take, before the first request."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from nemotron_diffusion_plugin.auto.arithmetic import cached_token_share
from nemotron_diffusion_plugin.auto.measured import MOST_ROWS, measure
from nemotron_diffusion_plugin.core import Blocks, ForwardOutput
from nemotron_diffusion_plugin.costs import ForwardCosts
from nemotron_diffusion_plugin.serving.operators import Operators
from nemotron_diffusion_plugin.serving.slots import SlotTable


class ForwardTimer(ABC):
    """Runs draft and verify forwards over the first slots, none of which has a request yet."""

    def __init__(
        self, forward: Any, table: SlotTable, operators: Operators, num_slots: int, has_lora: bool
    ) -> None:
        self.forward = forward
        self.table = table
        self.operators = operators
        self.num_slots = num_slots
        self.has_lora = has_lora
        self.block_size = table.settings.block_size

    @property
    def most_rows(self) -> int:
        """The most rows of one forward."""
        return int(min(self.forward.max_tokens, self.num_slots * self.block_size))

    def measure(
        self,
        hf_config: Any,
        agree: Callable[[bool], bool],
        *,
        has_graphs: bool = False,
        singles: int | None = None,
    ) -> ForwardCosts:
        """Return what forwards take; `agree`, `has_graphs` and `singles` as in `auto.measured.measure`."""
        return measure(
            self.run,
            self.block_size,
            min(MOST_ROWS, self.most_rows),
            cached_token_share(hf_config),
            has_graphs=has_graphs,
            singles=singles,
            agree=agree,
        )

    def run(self, rows: int, bidirectional: bool) -> None:
        """Run a forward and wait for its picks: of whole blocks, of a part of one, or causally of single tokens."""
        output = self.draft(rows) if bidirectional else self.verify(rows)
        picked = self.operators.pick_tokens(output.logits(slice(0, rows)), self.table.mask_token_id, None)
        picked[-1].item()

    def draft(self, rows: int) -> ForwardOutput:
        """A bidirectional forward of whole blocks, or of a part of one."""
        return self.over_blocks(self.whole_blocks(rows), causal=False)

    @abstractmethod
    def verify(self, rows: int) -> ForwardOutput:
        """A causal forward, as the engine runs one."""

    def whole_blocks(self, rows: int) -> np.ndarray:
        """The lengths, host int64 `[R]`, of as many blocks as `rows` make."""
        return np.full(max(1, rows // self.block_size), min(rows, self.block_size), dtype=np.int64)

    def over_blocks(self, lengths: np.ndarray, causal: bool) -> ForwardOutput:
        """A forward over blocks of these lengths at the first position of the first slots."""
        table = self.table
        index = table.on_device(np.arange(len(lengths)))
        blocks = Blocks(
            index, torch.zeros_like(index), np.zeros_like(lengths), lengths, table.on_device(lengths)
        )
        rows = self.forward.prepare(blocks, causal)
        tokens = torch.zeros(rows.num_tokens, dtype=torch.int64, device=index.device)
        lora_rows = None
        if self.has_lora and not causal:
            lora_rows = torch.ones(rows.num_tokens, 1, dtype=self.forward.dtype, device=index.device)
        output: ForwardOutput = self.forward.run(rows, tokens, lora_rows)
        return output
