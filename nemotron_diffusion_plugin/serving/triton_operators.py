"""The operators of `serving.operators` by the Triton kernels of `nemotron_diffusion_kernels`."""

from __future__ import annotations

from typing import Any

import torch

from nemotron_diffusion_kernels.accept import accept
from nemotron_diffusion_kernels.commit import commit
from nemotron_diffusion_kernels.low_rank import expand, shrink
from nemotron_diffusion_kernels.pick import pick, pick_tokens
from nemotron_diffusion_plugin.rules.block import BlockState
from nemotron_diffusion_plugin.rules.commit import CommitRules
from nemotron_diffusion_plugin.serving.block_sampling import BlockSampling
from nemotron_diffusion_plugin.settings import TRITON


class TritonOperators:
    """See `serving.operators.Operators`; always Triton, on a GPU or in Triton's interpreter."""

    name = TRITON

    def pick(
        self, logits: torch.Tensor, mask_token_id: int | None, sampling: BlockSampling | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """One pass over the logits; noise is computed in registers."""
        return pick(logits, mask_token_id, *_noise(sampling))

    def pick_tokens(
        self, logits: torch.Tensor, mask_token_id: int | None, sampling: BlockSampling | None
    ) -> torch.Tensor:
        """One pass over the logits; noise is computed in registers."""
        return pick_tokens(logits, mask_token_id, *_noise(sampling))

    def commit(
        self,
        blocks: BlockState,
        picked: torch.Tensor,
        confidence: torch.Tensor,
        rules: CommitRules,
        stop_ids: torch.Tensor,
    ) -> torch.Tensor:
        """One launch."""
        return commit(
            blocks.tokens,
            blocks.masked,
            blocks.step,
            blocks.length - 1,
            picked,
            confidence,
            rules.kind,
            rules.threshold,
            rules.steps,
            rules.tokens_per_step,
            stop_ids,
        )

    def accept(self, drafts: torch.Tensor, verified: torch.Tensor, num_drafts: torch.Tensor) -> torch.Tensor:
        """One launch."""
        return accept(drafts, verified, num_drafts)

    def shrink(self, inputs: torch.Tensor, a: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """One launch; float32, 0 in the other rows."""
        return shrink(inputs, a, rows[:, 0])

    def expand(self, output: torch.Tensor, low: torch.Tensor, b: torch.Tensor, rows: torch.Tensor) -> None:
        """One launch; the other rows keep every bit."""
        expand(output, low, b, rows[:, 0])


def _noise(sampling: BlockSampling | None) -> tuple[Any, ...]:
    """The last arguments of `pick`: temperature and noise, or none."""
    if sampling is None:
        return ()
    return sampling.temperature, (sampling.seeds, sampling.positions, sampling.steps)
