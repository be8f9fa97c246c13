import pytest
import torch

from nemotron_diffusion_plugin.rules.noise import uniform


def rows(*values):
    return torch.tensor(values, dtype=torch.int64)


def test_same_alone_and_in_a_batch():
    seed, position, step = rows(1, 2, 2, -5), rows(10, 10, 11, 0), rows(0, 3, 3, 9)
    batch = uniform(seed, position, step, 100)
    for row in range(4):
        one = slice(row, row + 1)
        assert torch.equal(uniform(seed[one], position[one], step[one], 100)[0], batch[row])


def test_every_key_matters_and_none_can_be_swapped():
    keys = [
        (0, 0, 0),
        (1, 0, 0),
        (0, 1, 0),
        (0, 0, 1),
        (1, 1, 0),
        (2, 3, 4),
        (4, 3, 2),
        (3, 2, 4),
        (-1, 0, 0),
    ]
    drawn = uniform(*(torch.tensor(column) for column in zip(*keys, strict=True)), 64)
    for left in range(len(keys)):
        for right in range(left):
            assert (drawn[left] == drawn[right]).sum() == 0


def test_a_prefix_of_the_vocabulary_draws_the_same():
    assert torch.equal(uniform(rows(7), rows(8), rows(9), 10), uniform(rows(7), rows(8), rows(9), 50)[:, :10])


def splitmix(value):
    value &= WORD
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & WORD
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & WORD
    return value ^ (value >> 31)


WORD = (1 << 64) - 1
GOLDEN = 0x9E3779B97F4A7C15


@pytest.mark.parametrize("key", [(42, 5, 1), (0, 0, 0), (-1, 3, 2), (2**62, 10**6, 31)])
def test_agrees_with_unsigned_integers(key):
    seed, position, step = key
    state = splitmix(seed + GOLDEN)
    state = splitmix(state ^ ((position + 1) * GOLDEN & WORD))
    state = splitmix(state ^ ((step + 1) * GOLDEN & WORD))
    expected = [((splitmix(state + column * GOLDEN) >> 12) + 0.5) * 2.0**-52 for column in range(1, 9)]
    drawn = uniform(rows(seed), rows(position), rows(step), 8)
    assert drawn.dtype == torch.float64
    assert drawn[0].tolist() == expected


def test_open_interval_and_uniform():
    count = 400
    ramp = torch.arange(count)
    drawn = uniform(ramp, ramp * 3, ramp % 7, 1000)
    assert drawn.min() > 0.0
    assert drawn.max() < 1.0
    observed = torch.histc(drawn, bins=100, min=0.0, max=1.0)
    expected = count * 1000 / 100
    assert ((observed - expected) ** 2 / expected).sum() < 149.4  # 99 degrees of freedom, p = 0.001
    centred = drawn - 0.5
    across_columns = (centred[:, 1:] * centred[:, :-1]).mean() * 12
    across_rows = (centred[1:] * centred[:-1]).mean() * 12
    assert abs(across_columns) < 0.01
    assert abs(across_rows) < 0.01


def test_extreme_bits_stay_inside_the_interval():
    for bits in (0, (1 << 52) - 1):
        value = (torch.tensor(bits).double() + 0.5) * 2.0**-52
        assert 0.0 < value < 1.0
