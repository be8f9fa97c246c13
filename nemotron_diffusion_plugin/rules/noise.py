"""Reproducible uniform noise for sampling in a block, a pure function of seed, position and step."""

import torch

_GOLDEN = -0x61C8864680B583EB  # 2^64 / golden ratio as a signed 64-bit integer
_MULTIPLIERS = (-0x40A7B892E31B1A47, -0x6B2FB644ECCEEE15)
_SHIFTS = (30, 27, 31)


def uniform(seed: torch.Tensor, position: torch.Tensor, step: torch.Tensor, vocab: int) -> torch.Tensor:
    """Return float64 `[N, vocab]`, uniform in the open interval (0, 1).

    A row depends only on its own int64 `seed`, `position` and `step` (each `[N]`), never on the rows beside
    it, so a request draws the same noise alone and in a batch. The mixing is that of splitmix64, 52 bits are
    used.
    """
    key = _mix(seed + _GOLDEN)
    key = _mix(key ^ (position + 1) * _GOLDEN)
    key = _mix(key ^ (step + 1) * _GOLDEN)
    columns = torch.arange(1, vocab + 1, dtype=torch.int64, device=seed.device) * _GOLDEN
    bits = _shift(_mix(key[:, None] + columns), 12)
    return (bits.double() + 0.5) * 2.0**-52


def _mix(value: torch.Tensor) -> torch.Tensor:
    value = (value ^ _shift(value, _SHIFTS[0])) * _MULTIPLIERS[0]
    value = (value ^ _shift(value, _SHIFTS[1])) * _MULTIPLIERS[1]
    return value ^ _shift(value, _SHIFTS[2])


def _shift(value: torch.Tensor, count: int) -> torch.Tensor:
    return (value >> count) & ((1 << (64 - count)) - 1)
