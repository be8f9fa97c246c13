"""Forwards for measuring what they take, before the first request."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import torch

from nemotron_diffusion_plugin.auto.costs import ForwardCosts
from nemotron_diffusion_plugin.auto.measured import MOST_ROWS, as_setting, measure
from nemotron_diffusion_plugin.auto.requests import cached_token_share
from nemotron_diffusion_plugin.serving.operators import Operators
from nemotron_diffusion_plugin.serving.slots import RequestTable
from nemotron_diffusion_plugin.vllm.worker.forward import BlockForward

logger = logging.getLogger("vllm.nemotron_diffusion_plugin")


class ForwardTimer:
    """Runs verify forwards as vLLM's runner does for its warm-up, and draft forwards.

    Both may write to pages of the KV pool, none of which belongs to a request yet.
    """

    def __init__(self, runner: Any, forward: BlockForward, table: RequestTable, operators: Operators) -> None:
        self.runner = runner
        self.forward = forward
        self.table = table
        self.operators = operators

    @property
    def most_rows(self) -> int:
        """The most rows of one forward."""
        return min(self.forward.max_tokens, len(self.table.start) * self.table.settings.block_size)

    def measure(self, hf_config: Any) -> ForwardCosts | None:
        """Return what forwards take, None where vLLM's runner refuses a forward without requests; the log shows it.

        It refuses by an assertion or a value, on every rank and before any of them computes. Anything else, such as
        memory that does not suffice, would meet requests as well and ends the start.
        """
        most, block = min(MOST_ROWS, self.most_rows), self.table.settings.block_size
        try:
            costs = measure(self.run, block, most, cached_token_share(hf_config), agree=_of_first_rank)
        except (AssertionError, ValueError):
            logger.warning("forward_costs could not be measured; auto counts on arithmetic", exc_info=True)
            self.runner.kv_connector.set_disabled(False)
            return None
        logger.info("Nemotron-Labs-Diffusion: measured forward_costs %s", as_setting(costs))
        return costs

    def run(self, rows: int, bidirectional: bool) -> None:
        """Run a forward and wait for its picks: of whole blocks, of a part of one, or causally of single tokens."""
        hidden = self._draft(rows) if bidirectional else self._verify(rows)
        picked, _ = self.operators.pick(self.forward.logits(hidden), self.table.mask_token_id, None)
        picked[-1].item()

    def _verify(self, rows: int) -> torch.Tensor:
        whole = rows % self.table.settings.block_size == 0
        hidden, _ = self.runner._dummy_run(rows, uniform_decode=whole, skip_eplb=True)
        output: torch.Tensor = hidden[:rows]
        return output

    @torch.inference_mode()
    def _draft(self, rows: int) -> torch.Tensor:
        if self.forward.attn_groups is None:
            self.forward.attn_groups = self.runner.attn_groups
        block = self.table.settings.block_size
        widths = np.full(max(1, rows // block), min(rows, block))
        index = self.table.on_device(np.arange(len(widths)))
        blocks = self.forward.prepare(
            np.arange(len(widths)), index, torch.zeros_like(index), widths, block, causal=False
        )
        tokens = torch.zeros(rows, dtype=torch.int64, device=index.device)
        lora_rows = torch.ones(rows, 1, dtype=self.forward.dtype, device=index.device)
        return self.forward.run(blocks, tokens, lora_rows)


def _of_first_rank(answer: bool) -> bool:
    from vllm.distributed.parallel_state import get_tp_group

    return bool(get_tp_group().broadcast_object(answer, src=0))
