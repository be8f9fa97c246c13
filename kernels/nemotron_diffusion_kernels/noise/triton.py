"""The noise in Triton: functions for use inside kernels, the formula is that of `reference.py`."""

import triton
import triton.language as tl

_GOLDEN = tl.constexpr(0x9E3779B97F4A7C15)
_FIRST = tl.constexpr(0xBF58476D1CE4E5B9)
_SECOND = tl.constexpr(0x94D049BB133111EB)


@triton.jit
def _mix(value):
    value = (value ^ (value >> 30)) * _FIRST
    value = (value ^ (value >> 27)) * _SECOND
    return value ^ (value >> 31)


@triton.jit
def noise_key(seed, position, step):
    """The key of a row from three int64."""
    key = _mix(seed.to(tl.uint64, bitcast=True) + _GOLDEN)
    key = _mix(key ^ (position + 1).to(tl.uint64, bitcast=True) * _GOLDEN)
    return _mix(key ^ (step + 1).to(tl.uint64, bitcast=True) * _GOLDEN)


@triton.jit
def uniform(key, token):
    """float64 in (0, 1) for int64 token ids."""
    bits = _mix(key + (token + 1).to(tl.uint64, bitcast=True) * _GOLDEN) >> 12
    return (bits.to(tl.int64, bitcast=True).to(tl.float64) + 0.5) * (2.0**-52)


@triton.jit
def gumbel(key, token):
    """float64 -ln(-ln u) for int64 token ids."""
    return -tl.log(-tl.log(uniform(key, token)))
