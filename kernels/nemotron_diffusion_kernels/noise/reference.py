"""The noise in plain torch."""

import torch

_GOLDEN = 0x9E3779B97F4A7C15 - 2**64  # 2^64 / golden ratio as a signed 64-bit integer
_MULTIPLIERS = (0xBF58476D1CE4E5B9 - 2**64, 0x94D049BB133111EB - 2**64)
_SHIFTS = (30, 27, 31)


def uniform_reference(
    seeds: torch.Tensor, positions: torch.Tensor, steps: torch.Tensor, token_ids: torch.Tensor
) -> torch.Tensor:
    """Return the noise of int64 `token_ids`, float64 in (0, 1); the arguments broadcast. With m the mixing of
    splitmix64, g the odd number next to 2^64 / golden ratio, and all in 64 bits,

        key = m(m(m(seed + g) ^ (position + 1) g) ^ (step + 1) g)
        u = (floor(m(key + (id + 1) g) / 2^12) + 1/2) / 2^52
    """
    key = _mix(seeds + _GOLDEN)
    key = _mix(key ^ (positions + 1) * _GOLDEN)
    key = _mix(key ^ (steps + 1) * _GOLDEN)
    bits = _shift(_mix(key + (token_ids + 1) * _GOLDEN), 12)
    return (bits.double() + 0.5) * 2.0**-52


def gumbel_reference(uniform: torch.Tensor) -> torch.Tensor:
    """Return -ln(-ln u): argmax of ln p + this, over independent u, is distributed as p."""
    return -torch.log(-torch.log(uniform))


def _mix(value: torch.Tensor) -> torch.Tensor:
    value = (value ^ _shift(value, _SHIFTS[0])) * _MULTIPLIERS[0]
    value = (value ^ _shift(value, _SHIFTS[1])) * _MULTIPLIERS[1]
    return value ^ _shift(value, _SHIFTS[2])


def _shift(value: torch.Tensor, count: int) -> torch.Tensor:
    return (value >> count) & ((1 << (64 - count)) - 1)
