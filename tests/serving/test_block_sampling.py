"""Noise belongs to seed, position and step of a row, wherever the row lies."""

from __future__ import annotations

import torch

from nemotron_diffusion_plugin.rules import noise
from nemotron_diffusion_plugin.serving.block_sampling import BlockSampling

VOCAB = 16


def sampling(rows: int) -> BlockSampling:
    row = torch.arange(rows)
    return BlockSampling(row / 10.0, row + 7, row * 3, row % 2)


def test_rows_keep_their_own_noise_in_parts_of_parts() -> None:
    rows = sampling(9)
    whole = noise.uniform(rows.seeds, rows.positions, rows.steps, VOCAB)
    part = rows.part(slice(2, 8))
    uniform = part.noise(VOCAB)
    assert torch.equal(part.temperature, rows.temperature[2:8])
    assert torch.equal(uniform(slice(0, 6)), whole[2:8])
    assert torch.equal(uniform(slice(4, 10)), whole[6:8])
