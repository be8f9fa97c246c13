"""The drafter LoRA as a low-rank branch of one layer's `o_proj` (docs/model.md, 1.5)."""

from __future__ import annotations

import torch
from torch import nn

from nemotron_diffusion_plugin.model.lora import DrafterLora
from nemotron_diffusion_plugin.serving.operators import Operators, TorchOperators


class LowRankBranch(nn.Module):
    """Adds `scale * B(A(x))` to the output of one layer's `o_proj` for the rows that draft with the LoRA.

    Under tensor parallelism A holds this rank's columns: what `shrink` returns is to be summed over the ranks before
    `add`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("a", None, persistent=False)
        self.register_buffer("b", None, persistent=False)
        self.a: torch.Tensor | None
        self.b: torch.Tensor | None
        self.operators: Operators = TorchOperators()

    @property
    def loaded(self) -> bool:
        """Whether there is an adapter; `shrink` and `add` need one."""
        return self.a is not None

    def load(
        self,
        lora: DrafterLora,
        layer: int,
        like: torch.Tensor,
        rank: int = 0,
        ranks: int = 1,
        operators: Operators | None = None,
    ) -> None:
        """Take this layer's weights, with the scale folded into B, in the dtype and on the device of `like`.

        `operators` compute the branch from then on, plain torch by default.
        """
        a, b = lora.a[layer].detach(), lora.b[layer].detach() * lora.scale
        self.a = a.chunk(ranks, dim=1)[rank].to(like).contiguous()
        self.b = b.to(like).contiguous()
        self.operators = operators or TorchOperators()

    def shrink(self, inputs: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """Return A(x), `[T, r]`, for this rank's inputs of `o_proj`, `[T, heads * head_dim / ranks]`.

        Only rows where `rows` (`[T, 1]`) is not 0 mean anything.
        """
        assert self.a is not None, "no adapter loaded"
        return self.operators.shrink(inputs, self.a, rows)

    def add(self, output: torch.Tensor, low: torch.Tensor, rows: torch.Tensor) -> None:
        """Add B(low) to `output` `[T, hidden_size]` in place, where `rows` (`[T, 1]`, of its dtype) is 1 and not 0."""
        assert self.b is not None, "no adapter loaded"
        self.operators.expand(output, low, self.b, rows)
