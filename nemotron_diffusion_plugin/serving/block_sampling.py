"""What the rows of a bidirectional forward are sampled with when requests have a temperature."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from nemotron_diffusion_plugin.decoding import noise
from nemotron_diffusion_plugin.decoding.pick import RowNoise


@dataclass
class BlockSampling:
    """Temperature (floating point), seed, absolute position and denoise step (int64) of each row, `[T]`."""

    temperature: torch.Tensor
    seeds: torch.Tensor
    positions: torch.Tensor
    steps: torch.Tensor

    def of(self, part: slice, vocab: int) -> tuple[torch.Tensor, RowNoise]:
        """The temperatures of some rows, and the noise of slices of them."""
        seeds, positions, steps = self.seeds[part], self.positions[part], self.steps[part]

        def uniform(rows: slice) -> torch.Tensor:
            return noise.uniform(seeds[rows], positions[rows], steps[rows], vocab)

        return self.temperature[part], uniform
