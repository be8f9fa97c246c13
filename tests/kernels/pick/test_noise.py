import pytest
import torch
import triton
import triton.language as tl

from nemotron_diffusion_kernels.pick.triton import noise_key
from nemotron_diffusion_kernels.pick.triton import uniform as drawn_in_a_kernel
from nemotron_diffusion_plugin.rules.noise import uniform

EXTREMES = [0, 1, -1, 2**31, 2**62, 2**63 - 1, -(2**63)]


@triton.jit
def _uniform_kernel(seeds, positions, steps, out, first_id, columns, COLUMNS: tl.constexpr):
    row = tl.program_id(0)
    column = tl.arange(0, COLUMNS)
    key = noise_key(tl.load(seeds + row), tl.load(positions + row), tl.load(steps + row))
    noise = drawn_in_a_kernel(key, (first_id + column).to(tl.int64))
    tl.store(out + row * columns + column, noise, mask=column < columns)


def rows(count):
    generator = torch.Generator().manual_seed(3)
    limits = 2**63
    values = [torch.randint(-limits, limits - 1, (count,), generator=generator) for _ in range(3)]
    for index, extreme in enumerate(EXTREMES):
        values[index % 3][index] = extreme
    return values


@pytest.mark.parametrize("first_id", [0, 131000])
def test_the_kernel_draws_the_bits_of_the_rule(first_id, device):
    keys = rows(8)
    out = torch.full((8, 100), torch.nan, dtype=torch.float64, device=device)
    _uniform_kernel[(8,)](*(part.to(device) for part in keys), out, first_id, 100, COLUMNS=128)
    assert torch.equal(out.cpu(), uniform(*keys, first_id + 100)[:, first_id:])
