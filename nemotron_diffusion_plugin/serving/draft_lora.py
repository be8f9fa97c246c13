"""The drafter LoRA as a low-rank branch of one layer's `o_proj` (docs/model.md, 1.5)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from nemotron_diffusion_plugin.model.lora import DrafterLora
from nemotron_diffusion_plugin.serving.operators import Operators, TorchOperators


@dataclass(frozen=True)
class Shard:
    """This process's place under tensor parallelism; `all_reduce` returns a tensor's sum over the `ranks`."""

    rank: int
    ranks: int
    all_reduce: Callable[[torch.Tensor], torch.Tensor]


ALONE = Shard(0, 1, torch.Tensor.clone)


class LowRankBranch(nn.Module):
    """Adds `scale * B(A(x))` to the output of one layer's `o_proj` for the rows that draft with the LoRA.

    Under tensor parallelism A holds this rank's columns.
    """

    def __init__(self, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.register_buffer("a", None, persistent=False)
        self.register_buffer("b", None, persistent=False)
        self.a: torch.Tensor | None
        self.b: torch.Tensor | None
        self.shard = ALONE
        self.operators: Operators = TorchOperators()

    @property
    def loaded(self) -> bool:
        """Whether there is an adapter; `shrink` and `expand` need one."""
        return self.a is not None

    def load(
        self,
        lora: DrafterLora,
        like: torch.Tensor,
        shard: Shard = ALONE,
        operators: Operators | None = None,
    ) -> None:
        """Take this layer's weights, with the scale folded into B, in the dtype and on the device of `like`.

        `operators` compute the branch from then on, plain torch by default.
        """
        a, b = lora.a[self.layer].detach(), lora.b[self.layer].detach() * lora.scale
        self.a = a.chunk(shard.ranks, dim=1)[shard.rank].to(like).contiguous()
        self.b = b.to(like).contiguous()
        self.shard = shard
        self.operators = operators or TorchOperators()

    def draft(self, output: torch.Tensor, inputs: torch.Tensor, rows: torch.Tensor) -> None:
        """Add to `output` `[T, hidden_size]`, in place, what the adapter makes of `inputs`.

        `inputs` are this rank's of `o_proj`, `[T, heads * head_dim / ranks]`. Only where `rows` (`[T, 1]`, of the dtype
        of `output`) is 1 and not 0; without an adapter nowhere.
        """
        if not self.loaded:
            return
        low = self.shrink(inputs, rows)
        if self.shard.ranks > 1:
            low = self.shard.all_reduce(low)
        self.expand(output, low, rows)

    def shrink(self, inputs: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """Return this rank's part of A(x), `[T, r]`; only rows where `rows` is not 0 mean anything."""
        assert self.a is not None, "no adapter loaded"
        return self.operators.shrink(inputs, self.a, rows)

    def expand(self, output: torch.Tensor, low: torch.Tensor, rows: torch.Tensor) -> None:
        """Add B(low) to `output` in place; `low` `[T, r]` is the sum over the ranks."""
        assert self.b is not None, "no adapter loaded"
        self.operators.expand(output, low, self.b, rows)


def branches(model: nn.Module) -> list[LowRankBranch]:
    """Return the branches of a model, one for each layer."""
    return [module for module in model.modules() if isinstance(module, LowRankBranch)]


def has_adapter(model: nn.Module) -> bool:
    """Whether a loaded model drafts with an adapter."""
    return any(branch.loaded for branch in branches(model))
