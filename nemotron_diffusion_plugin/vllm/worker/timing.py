"""Forwards for measuring what they take: verify forwards as vLLM's runner runs them for its warm-up."""

from __future__ import annotations

from typing import Any

import torch

from nemotron_diffusion_plugin.auto.measured import as_setting
from nemotron_diffusion_plugin.core import ForwardOutput
from nemotron_diffusion_plugin.costs import ForwardCosts
from nemotron_diffusion_plugin.serving.operators import Operators
from nemotron_diffusion_plugin.serving.slots import SlotTable
from nemotron_diffusion_plugin.serving.timing import ForwardTimer
from nemotron_diffusion_plugin.vllm.log import logger
from nemotron_diffusion_plugin.vllm.worker.forward import BlockForward, HiddenOutput


class RunnerTimer(ForwardTimer):
    """Both kinds of forward may write to pages of the KV pool, none of which belongs to a request yet."""

    def __init__(self, runner: Any, forward: BlockForward, table: SlotTable, operators: Operators) -> None:
        super().__init__(forward, table, operators, num_slots=len(table.mode), has_lora=True)
        self.runner = runner

    def costs(self, hf_config: Any) -> ForwardCosts | None:
        """Return what forwards take, None where vLLM's runner refuses a forward without requests; the log shows it.

        It refuses by an assertion or a value, on every rank and before any of them computes. Anything else, such as
        memory that does not suffice, would meet requests as well and ends the start.
        """
        try:
            costs = self.measure(hf_config, _of_first_rank)
        except (AssertionError, ValueError):
            logger.warning("forward_costs could not be measured; auto counts on arithmetic", exc_info=True)
            self.runner.kv_connector.set_disabled(False)
            return None
        logger.info("Nemotron-Labs-Diffusion: measured forward_costs %s", as_setting(costs))
        return costs

    @torch.inference_mode()
    def draft(self, rows: int) -> ForwardOutput:
        """See `ForwardTimer.draft`."""
        if self.forward.attn_groups is None:
            self.forward.attn_groups = self.runner.attn_groups
        return super().draft(rows)

    def verify(self, rows: int) -> ForwardOutput:
        """A dummy run, uniform where the rows make whole blocks."""
        whole = rows % self.block_size == 0
        hidden, _ = self.runner._dummy_run(rows, uniform_decode=whole, skip_eplb=True)
        return HiddenOutput(hidden, self.forward.model)


def _of_first_rank(answer: bool) -> bool:
    from vllm.distributed.parallel_state import get_tp_group

    return bool(get_tp_group().broadcast_object(answer, src=0))
