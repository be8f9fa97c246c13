"""Block lengths of requests in auto: chosen by the worker at the beginning of a step."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from nemotron_diffusion_plugin.decoding.auto.choice import Engine
from nemotron_diffusion_plugin.decoding.auto.policy import BlockPolicy
from nemotron_diffusion_plugin.serving.auto import AutoBlocks, Drafting, describe, make_policy
from nemotron_diffusion_plugin.serving.request_table import MODES
from nemotron_diffusion_plugin.serving.settings import ServerSettings, default_auto_blocks
from nemotron_diffusion_plugin.sglang.block_forward import BlockForward
from nemotron_diffusion_plugin.sglang.log import logger
from nemotron_diffusion_plugin.sglang.requests import Requests
from nemotron_diffusion_plugin.sglang.step import DecodeStep


class WorkerBlocks(AutoBlocks):
    """The policy of one worker; every tensor-parallel rank sees the same and chooses the same."""

    def __init__(
        self, settings: ServerSettings, hf_config: Any, server_args: Any, forward: BlockForward
    ) -> None:
        self._settings = settings
        engine = Engine(rows_at_once=forward.max_tokens, ragged=forward.ragged)
        name = device_name(forward.device)
        super().__init__(make_policy(settings, hf_config, name, server_args.tp_size, engine))
        logger.info("Nemotron-Labs-Diffusion: %s", describe(settings, name))

    def use_captured(self) -> None:
        """Choose between what CUDA graphs were captured for: blocks of the model's length for all, or AR for all.

        A server that was given `auto_block_sizes` keeps them; lengths without a graph run without one.
        """
        block = self._settings.block_size
        if self._settings.auto_blocks != default_auto_blocks(block):
            return
        self.policy = BlockPolicy(self.policy.costs, (block,), replace(self.policy.engine, uniform=True))
        logger.info(
            "Nemotron-Labs-Diffusion: auto chooses blocks of %d or AR, as captured in CUDA graphs", block
        )

    def choose_for(self, step: DecodeStep, requests: Requests, most: np.ndarray) -> list[int]:
        """Set the length of the next block of each request in auto; `most`, host `[R]`, is the longest of each row.

        Returns the lengths chosen. A request that samples with a seed always gets the longest: what it draws must not
        depend on the load.
        """
        table = requests.table
        auto, seeded = table.auto[step.slots], requests.seeded[step.slots]
        if not auto.any():
            return []
        longest = np.minimum(most, self.policy.longest)[auto & seeded]
        table.block_size[step.slots[auto & seeded]] = longest
        auto = auto & ~seeded
        starts = step.batch.seq_lens_cpu.tolist()
        rows = [
            Drafting(req, MODES[mode], int(block), start)
            for req, mode, block, start in zip(step.reqs, table.modes(step.slots), most, starts, strict=True)
        ]
        chosen = np.flatnonzero(auto)
        others = [rows[row] for row in np.flatnonzero(~auto)]
        lengths = self.choose([rows[row] for row in chosen], others)
        table.block_size[step.slots[chosen]] = lengths
        return [*lengths, *longest.tolist()]


def device_name(device: torch.device) -> str:
    """The name of the GPU, empty where there is none."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else ""
