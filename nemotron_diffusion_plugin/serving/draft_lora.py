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

    Under tensor parallelism A holds this rank's columns. The two tensors are written in place once they are there, as
    CUDA graphs read them. They are buffers, which engines save while they sleep; steps read them from `_weights`, as
    vLLM takes all buffers off a module while it reloads weights.
    """

    def __init__(self, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.register_buffer("a", None, persistent=False)
        self.register_buffer("b", None, persistent=False)
        self._weights: tuple[torch.Tensor, torch.Tensor] | None = None
        self.scale = 1.0
        self.shard = ALONE
        self.operators: Operators = TorchOperators()

    @property
    def loaded(self) -> bool:
        """Whether there is an adapter; `shrink` and `expand` need one."""
        return self._weights is not None

    @property
    def rank(self) -> int | None:
        """The adapter's rank; None without one."""
        return None if self._weights is None else self._weights[0].shape[0]

    def load(
        self,
        lora: DrafterLora,
        like: torch.Tensor,
        shard: Shard = ALONE,
        operators: Operators | None = None,
    ) -> None:
        """Take this layer's weights, with the scale folded into B, in the dtype and on the device of `like`.

        A second adapter, which must have the rank of the first, is written over it. `operators` compute the branch from
        then on, plain torch by default.
        """
        self.shard, self.scale, self.operators = shard, lora.scale, operators or TorchOperators()
        halves = {"A": lora.a[self.layer], "B": lora.b[self.layer]}
        if self._weights is None:
            self.a, self.b = (like.new_empty(self._part(*half).shape) for half in halves.items())
            self._weights = self.a, self.b
        for half, weight in halves.items():
            self.replace(half, weight)

    def replace(self, half: str, weight: torch.Tensor) -> None:
        """Write A or B (`half`) anew: whole, without the scale, of the shape that was loaded."""
        assert self._weights is not None, "no adapter loaded"
        self._weights["AB".index(half)].copy_(self._part(half, weight))

    def _part(self, half: str, weight: torch.Tensor) -> torch.Tensor:
        weight = weight.detach()
        return weight.chunk(self.shard.ranks, dim=1)[self.shard.rank] if half == "A" else weight * self.scale

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
        assert self._weights is not None, "no adapter loaded"
        return self.operators.shrink(inputs, self._weights[0], rows)

    def expand(self, output: torch.Tensor, low: torch.Tensor, rows: torch.Tensor) -> None:
        """Add B(low) to `output` in place; `low` `[T, r]` is the sum over the ranks."""
        assert self._weights is not None, "no adapter loaded"
        self.operators.expand(output, low, self._weights[1], rows)


def branches(model: nn.Module) -> list[LowRankBranch]:
    """Return the branches of a model, one for each layer."""
    return [module for module in model.modules() if isinstance(module, LowRankBranch)]


def has_adapter(model: nn.Module) -> bool:
    """Whether a loaded model drafts with an adapter."""
    return any(branch.loaded for branch in branches(model))
