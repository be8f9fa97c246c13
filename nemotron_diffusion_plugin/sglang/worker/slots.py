"""The table of request slots with what only SGLang's side of it needs."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from nemotron_diffusion_plugin.serving.slots import SlotTable
from nemotron_diffusion_plugin.settings import ServerSettings
from nemotron_diffusion_plugin.sglang.worker.acceptance import Outcome
from nemotron_diffusion_plugin.sglang.worker.penalties import OutputCounts, has_penalties
from nemotron_diffusion_plugin.sglang.worker.requests import noise_seed, read_request


class WorkerSlots:
    """What the worker keeps by SGLang's request-pool index.

    Attributes:
        table: options, limits and the block of each slot.
        counts: tokens emitted by requests with penalties.
        noise_seeds: int64 `[N]` on the device.
        ended: bool `[N]` on the device, whether a slot's request has emitted its last token.
        engine_samples: bool `[N]` on the host, whether SGLang's own sampler is exact for a slot's request.
    """

    def __init__(
        self, settings: ServerSettings, slots: int, mask_token_id: int, vocab_size: int, device: torch.device
    ) -> None:
        self.settings = settings
        self.table = SlotTable(settings, slots, mask_token_id, device)
        self.counts = OutputCounts(slots, vocab_size, device)
        self.noise_seeds = torch.zeros(slots, dtype=torch.int64, device=device)
        self.ended = torch.zeros(slots, dtype=torch.bool, device=device)
        self.engine_samples = np.ones(slots, dtype=bool)

    def take(self, req: Any, max_model_len: int) -> None:
        """Take over a slot when its request is prefilled; a retracted request comes this way again."""
        params, slot = req.sampling_params, req.kv.req_pool_idx
        request = read_request(self.settings, req, max_model_len)
        self.table.take(slot, request)
        self.counts.take(slot, params, req.output_ids)
        self.engine_samples[slot] = not (has_penalties(params) or request.min_tokens or request.seeded)
        self.noise_seeds[slot] = noise_seed(req)
        self.ended[slot] = False

    def note_ended(self, index: torch.Tensor, computed: torch.Tensor, outcome: Outcome) -> None:
        """Note on the device which of the slots `index` (int64 `[R]`) end with what they emit now."""
        total = computed + 1 + outcome.lengths
        self.ended[index] = self.table.has_ended(index, outcome.tokens, outcome.lengths, total)
