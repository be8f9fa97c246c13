"""What the rows of a bidirectional forward are sampled with when requests have a temperature."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from nemotron_diffusion_plugin.rules import noise


@dataclass
class BlockSampling:
    """Temperature (floating point), seed, absolute position and denoise step (int64) of each row, `[T]`."""

    temperature: torch.Tensor
    seeds: torch.Tensor
    positions: torch.Tensor
    steps: torch.Tensor

    def part(self, rows: slice) -> BlockSampling:
        """Some of the rows."""
        return BlockSampling(self.temperature[rows], self.seeds[rows], self.positions[rows], self.steps[rows])

    def noise(self, vocab: int) -> Callable[[slice], torch.Tensor]:
        """The noise of slices of the rows."""

        def uniform(rows: slice) -> torch.Tensor:
            return noise.uniform(self.seeds[rows], self.positions[rows], self.steps[rows], vocab)

        return uniform
