"""Block lengths of requests in auto: chosen by the worker at the beginning of a step."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from nemotron_diffusion_plugin.auto.choice import Engine
from nemotron_diffusion_plugin.auto.measured import MOST_ROWS, as_setting, measure
from nemotron_diffusion_plugin.auto.requests import (
    AutoBlocks,
    Drafting,
    cached_token_share,
    describe,
    make_policy,
)
from nemotron_diffusion_plugin.serving.slots import MODES
from nemotron_diffusion_plugin.settings import MEASURED, ServerSettings
from nemotron_diffusion_plugin.sglang.log import logger
from nemotron_diffusion_plugin.sglang.worker.forward import BlockForward
from nemotron_diffusion_plugin.sglang.worker.slots import Requests
from nemotron_diffusion_plugin.sglang.worker.step import DecodeStep
from nemotron_diffusion_plugin.sglang.worker.timing import ForwardTimer, of_first_rank


class WorkerBlocks(AutoBlocks):
    """The policy of one worker; every tensor-parallel rank sees the same and chooses the same."""

    def __init__(
        self, settings: ServerSettings, hf_config: Any, server_args: Any, forward: BlockForward
    ) -> None:
        self._settings = settings
        self._token_share = cached_token_share(hf_config)
        engine = Engine(rows_at_once=forward.max_tokens, ragged=forward.ragged)
        name = device_name(forward.device)
        super().__init__(make_policy(settings, hf_config, name, server_args.tp_size, engine))
        logger.info("Nemotron-Labs-Diffusion: %s", describe(settings, name))

    def begin(self, timer: ForwardTimer, has_graphs: bool) -> None:
        """Take in for what CUDA graphs were captured, and measure costs where no others were asked for."""
        block = self._settings.block_size
        if has_graphs:
            self.policy.engine = replace(self.policy.engine, captured=frozenset({1, block}))
        if self._settings.cost_source != MEASURED:
            return
        most = min(MOST_ROWS, timer.most_rows)
        costs = measure(
            timer.run,
            block,
            most,
            self._token_share,
            has_graphs=has_graphs,
            singles=timer.slots,
            agree=of_first_rank,
        )
        self.adopt(of_first_rank(costs))
        logger.info("Nemotron-Labs-Diffusion: measured forward_costs %s", as_setting(self.policy.costs))

    def choose_for(self, step: DecodeStep, requests: Requests, most: np.ndarray) -> list[int]:
        """Set the length of the next block of each request in auto; `most`, host `[R]`, is the longest of each row.

        Returns the lengths chosen.
        """
        table = requests.table
        auto = table.auto[step.slots]
        if not auto.any():
            return []
        starts = step.batch.seq_lens_cpu.tolist()
        rows = [
            Drafting(req, MODES[mode], int(block), start, req.grammar is not None)
            for req, mode, block, start in zip(step.reqs, table.modes(step.slots), most, starts, strict=True)
        ]
        chosen = np.flatnonzero(auto)
        others = [rows[row] for row in np.flatnonzero(~auto)]
        lengths = self.choose([rows[row] for row in chosen], others)
        table.block_size[step.slots[chosen]] = lengths
        return lengths


def device_name(device: torch.device) -> str:
    """The name of the GPU, empty where there is none."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else ""
