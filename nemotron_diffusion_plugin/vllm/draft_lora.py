"""The drafter LoRA's branch of `o_proj` as an operator that only draft forwards take (docs/model.md, 1.5)."""

from __future__ import annotations

import torch
from torch import nn
from vllm.forward_context import get_forward_context
from vllm.utils.torch_utils import (
    LayerNameType,
    _encode_layer_name,
    _resolve_layer_name,
    direct_register_custom_op,
)

from nemotron_diffusion_plugin.serving.draft_lora import LowRankBranch

ROWS = "nemotron_diffusion.draft_lora_rows"
"""Key of the forward context's `additional_kwargs`: `[num_tokens, 1]`, the model's dtype, 1 where the adapter applies.

Absent in every forward that must not take the branch.
"""


class DraftLoraBranch(LowRankBranch):
    """One layer's branch, found by its name in the forward context."""

    def __init__(self, layer: int, name: str, static_forward_context: dict[str, nn.Module]) -> None:
        super().__init__(layer)
        self.name = name
        static_forward_context[name] = self

    def forward(self, output: torch.Tensor, inputs: torch.Tensor) -> torch.Tensor:
        """Add to `output` `[T, hidden_size]`, in place, what the adapter makes of `inputs` `[T, heads * head_dim]`."""
        torch.ops.nemotron_diffusion.draft_lora(output, inputs, _encode_layer_name(self.name))
        return output


def _draft_lora(output: torch.Tensor, inputs: torch.Tensor, name: LayerNameType) -> None:
    context = get_forward_context()
    rows = context.additional_kwargs.get(ROWS)
    if rows is not None:
        context.no_compile_layers[_resolve_layer_name(name)].draft(output, inputs, rows)


def _draft_lora_fake(output: torch.Tensor, inputs: torch.Tensor, name: LayerNameType) -> None:
    return None


_library = torch.library.Library("nemotron_diffusion", "FRAGMENT")
# Opaque to torch.compile: a Python switch inside the traced forward would be frozen at its first value, and the
# adapter lost without a word.
direct_register_custom_op(
    "draft_lora",
    _draft_lora,
    mutates_args=["output"],
    fake_impl=_draft_lora_fake,
    target_lib=_library,
)
