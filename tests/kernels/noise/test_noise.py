import pytest
import torch
import triton
import triton.language as tl

from nemotron_diffusion_kernels.noise import ACCEPTANCE, RowNoise, check_row_noise
from nemotron_diffusion_kernels.noise.reference import uniform_reference
from nemotron_diffusion_kernels.noise.triton import noise_key, uniform
from nemotron_diffusion_plugin.rules import noise as plugin_noise

EXTREMES = [0, 1, -1, 2**31, 2**62, 2**63 - 1, -(2**63)]


@triton.jit
def _uniform_kernel(seeds, positions, steps, out, first_id, columns, COLUMNS: tl.constexpr):
    row = tl.program_id(0)
    column = tl.arange(0, COLUMNS)
    key = noise_key(tl.load(seeds + row), tl.load(positions + row), tl.load(steps + row))
    noise = uniform(key, (first_id + column).to(tl.int64))
    tl.store(out + row * columns + column, noise, mask=column < columns)


def rows(count):
    generator = torch.Generator().manual_seed(3)
    limits = 2**63
    values = [torch.randint(-limits, limits - 1, (count,), generator=generator) for _ in range(3)]
    for index, extreme in enumerate(EXTREMES):
        values[index % 3][index] = extreme
    return values


@pytest.mark.parametrize("first_id", [ACCEPTANCE, 0, 131000])
def test_kernel_reference_and_plugin_draw_the_same_bits(first_id, device):
    seeds, positions, steps = rows(8)
    out = torch.full((8, 100), torch.nan, dtype=torch.float64, device=device)
    _uniform_kernel[(8,)](
        *(part.to(device) for part in (seeds, positions, steps)), out, first_id, 100, COLUMNS=128
    )
    ids = torch.arange(first_id, first_id + 100)
    wanted = uniform_reference(seeds[:, None], positions[:, None], steps[:, None], ids[None])
    assert torch.equal(out.cpu(), wanted)
    if first_id >= 0:
        assert torch.equal(
            plugin_noise.uniform(seeds, positions, steps, first_id + 100)[:, first_id:], wanted
        )


def test_every_input_changes_the_noise_and_it_stays_inside_the_interval():
    number = torch.arange(20000)
    zero = torch.zeros_like(number)
    draws = [
        uniform_reference(*(number if place == varied else zero for place in range(4))) for varied in range(4)
    ]
    for draw in draws:
        assert draw.unique().shape[0] == 20000
        assert 0.0 < draw.min() < draw.max() < 1.0
        assert abs(draw.mean() - 0.5) < 0.01
    assert all(
        abs(torch.corrcoef(torch.stack(draws))[one, other]) < 0.03 for one in range(4) for other in range(one)
    )


def test_wrong_noise_is_refused():
    good = torch.zeros(3, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"pick: noise\.positions has shape \(2,\), expected \(3\)"):
        check_row_noise("pick", RowNoise(good, good[:2], good), 3, good.device)
    with pytest.raises(ValueError, match=r"pick: noise\.steps is float32, expected int64"):
        check_row_noise("pick", RowNoise(good, good, good.float()), 3, good.device)
