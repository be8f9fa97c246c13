"""The drafter LoRA as a branch of `o_proj`, taken by the rows that a draft forward marks (docs/model.md, 1.5)."""

from __future__ import annotations

from typing import Any

import torch
from sglang.srt.distributed import tensor_model_parallel_all_reduce
from sglang.srt.runtime_context import get_parallel

from nemotron_diffusion_plugin.model.lora import DrafterLora
from nemotron_diffusion_plugin.serving.draft_lora import LowRankBranch
from nemotron_diffusion_plugin.serving.operators import Operators


class DraftLoraBranch(LowRankBranch):
    """The branch with A split by columns over the tensor-parallel ranks."""

    def load_shard(
        self, lora: DrafterLora, layer: int, like: torch.Tensor, operators: Operators | None = None
    ) -> None:
        """Take this rank's part of a layer's weights, in the dtype and on the device of `like`."""
        parallel = get_parallel()
        self.load(lora, layer, like, parallel.tp_rank, parallel.tp_size, operators)

    def forward(self, output: torch.Tensor, inputs: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """Add to `output` `[T, hidden_size]`, in place, what the adapter makes of `inputs` where `rows` is 1."""
        if self.loaded:
            low = self.shrink(inputs, rows)
            if get_parallel().tp_size > 1:
                low = tensor_model_parallel_all_reduce(low)
            self.add(output, low, rows)
        return output


def has_adapter(model: Any) -> bool:
    """Whether a loaded model drafts with an adapter."""
    return any(layer.self_attn.draft_lora.loaded for layer in model.model.layers)
