"""Block lengths of requests in auto: chosen by the worker at the beginning of a step."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from nemotron_diffusion_plugin.auto.choice import Engine
from nemotron_diffusion_plugin.auto.measured import as_setting
from nemotron_diffusion_plugin.auto.requests import (
    AutoBlocks,
    Drafting,
    describe,
    make_policy,
)
from nemotron_diffusion_plugin.options import MODES, DecodingMode
from nemotron_diffusion_plugin.serving.slots import SlotTable
from nemotron_diffusion_plugin.settings import MEASURED, ServerSettings
from nemotron_diffusion_plugin.sglang.log import logger
from nemotron_diffusion_plugin.sglang.worker.forward import BlockForward
from nemotron_diffusion_plugin.sglang.worker.step import DecodeStep
from nemotron_diffusion_plugin.sglang.worker.timing import SlotTimer, of_first_rank


class WorkerBlocks(AutoBlocks):
    """The policy of one worker; every tensor-parallel rank sees the same and chooses the same."""

    def __init__(
        self, settings: ServerSettings, hf_config: Any, server_args: Any, forward: BlockForward
    ) -> None:
        self._settings = settings
        self._hf_config = hf_config
        engine = Engine(rows_at_once=forward.max_tokens, ragged=forward.ragged)
        name = device_name(forward.device)
        super().__init__(make_policy(settings, hf_config, name, server_args.tp_size, engine))
        logger.info("Nemotron-Labs-Diffusion: %s", describe(settings, name))

    def begin(self, timer: SlotTimer, has_graphs: bool) -> None:
        """Note for what CUDA graphs were captured, and measure costs where no others were asked for."""
        if has_graphs:
            captured = frozenset({1, self._settings.block_size})
            self.policy.engine = replace(self.policy.engine, captured=captured)
        if self._settings.cost_source != MEASURED:
            return
        costs = timer.measure(self._hf_config, of_first_rank, has_graphs=has_graphs, singles=timer.num_slots)
        self.adopt(of_first_rank(costs))
        logger.info("Nemotron-Labs-Diffusion: measured forward_costs %s", as_setting(self.policy.costs))

    def choose_for(self, step: DecodeStep, table: SlotTable, longest: np.ndarray) -> list[int]:
        """Choose the length of the next block of each request of a step; return the lengths of those in auto.

        `longest`, host `[R]`, bounds them; requests in other modes get it.
        """
        table.choose_lengths(step.slots, longest)
        is_auto = table.is_mode(step.slots, DecodingMode.AUTO)
        if not is_auto.any():
            return []
        starts = table.start[step.slots].tolist()
        rows = [
            Drafting(req, MODES[mode], int(most), start, req.grammar is not None)
            for req, mode, most, start in zip(step.reqs, table.mode[step.slots], longest, starts, strict=True)
        ]
        chosen = np.flatnonzero(is_auto)
        others = [rows[row] for row in np.flatnonzero(~is_auto)]
        lengths = self.choose([rows[row] for row in chosen], others)
        table.choose_lengths(step.slots[chosen], np.array(lengths))
        return lengths


def device_name(device: torch.device) -> str:
    """The name of the GPU, empty where there is none."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else ""
