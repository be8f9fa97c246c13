"""The drafter LoRA as a low-rank branch of `o_proj` that only draft forwards take (model description, 1.5)."""

from __future__ import annotations

import torch
from torch import nn
from vllm.distributed import get_tensor_model_parallel_rank, get_tensor_model_parallel_world_size
from vllm.distributed import tensor_model_parallel_all_reduce as all_reduce
from vllm.forward_context import get_forward_context
from vllm.utils.torch_utils import (
    LayerNameType,
    _encode_layer_name,
    _resolve_layer_name,
    direct_register_custom_op,
)

from nemotron_diffusion_plugin.checkpoint.lora import DrafterLora

ROWS = "nemotron_diffusion.draft_lora_rows"
"""Key of the forward context's `additional_kwargs`: `[num_tokens, 1]`, the model's dtype, 1 where the adapter applies.

Absent in every forward that must not take the branch.
"""


class DraftLoraBranch(nn.Module):
    """Adds `scale * B(A(x))` to the output of one layer's `o_proj` for the rows that draft with the LoRA.

    Under tensor parallelism `A` holds this rank's columns, and the `[rows, rank]` product is summed over the ranks.
    """

    def __init__(self, name: str, static_forward_context: dict[str, nn.Module]) -> None:
        super().__init__()
        self.name = name
        self.register_buffer("a", None, persistent=False)
        self.register_buffer("b", None, persistent=False)
        self.a: torch.Tensor | None
        self.b: torch.Tensor | None
        static_forward_context[name] = self

    def load(self, lora: DrafterLora, layer: int, like: torch.Tensor) -> None:
        """Take this layer's weights, with the scale folded into B, in the dtype and on the device of `like`."""
        a, b = lora.a[layer].detach(), lora.b[layer].detach() * lora.scale
        ranks, rank = get_tensor_model_parallel_world_size(), get_tensor_model_parallel_rank()
        self.a = a.chunk(ranks, dim=1)[rank].to(like).contiguous()
        self.b = b.to(like).contiguous()

    def forward(self, output: torch.Tensor, inputs: torch.Tensor) -> torch.Tensor:
        """Add to `output` `[T, hidden_size]`, in place, what the adapter makes of `inputs` `[T, heads * head_dim]`."""
        torch.ops.nemotron_diffusion.draft_lora(output, inputs, _encode_layer_name(self.name))
        return output

    def add(self, output: torch.Tensor, inputs: torch.Tensor, rows: torch.Tensor) -> None:
        """The branch itself, behind the opaque operator; `rows` is `[T, 1]`."""
        if self.a is None or self.b is None:
            return
        low = nn.functional.linear(inputs, self.a)
        if get_tensor_model_parallel_world_size() > 1:
            low = all_reduce(low)
        output.addcmul_(nn.functional.linear(low, self.b), rows)


def _draft_lora(output: torch.Tensor, inputs: torch.Tensor, name: LayerNameType) -> None:
    context = get_forward_context()
    rows = context.additional_kwargs.get(ROWS)
    if rows is not None:
        context.no_compile_layers[_resolve_layer_name(name)].add(output, inputs, rows)


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
