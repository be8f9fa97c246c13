"""vLLM's random numbers in NumPy, bit for bit: Murmur3 for Gumbel noise, Philox for acceptance.

All arithmetic is on uint32 arrays, which wrap silently as the kernels' registers do.
"""

from __future__ import annotations

import numpy as np

DRAFT_SALT = 1 << 30
_SMALLEST_UNIFORM = np.float32(4.6566127342e-10)
_PHILOX_ROUNDS = 10
_LOW = np.uint64(0xFFFFFFFF)
_SHIFT = np.uint64(32)


def gumbel(seed: np.ndarray, position: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """Return the Gumbel noise float32[R, K] of the tokens int[K] for rows with seed and position int64[R]."""
    uniform = murmur3_uniform(seed, position, tokens)
    return -np.log(-_log1p_neg(uniform))


def murmur3_uniform(seed: np.ndarray, position: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """Return uniform numbers float32[R, K] in (0, 1)."""
    seed_words, position_words = seed.astype(np.uint64), position.astype(np.uint64)
    words = ((seed_words & _LOW), (seed_words >> _SHIFT), (position_words & _LOW))
    state = np.zeros(len(seed), dtype=np.uint32)
    for word in words:
        state = _mix(state, word.astype(np.uint32))
    hashed = _mix(state[:, None], tokens.astype(np.uint32)[None, :])
    hashed = _finish(hashed ^ np.uint32(16))
    high, low = (hashed >> np.uint32(16)).astype(np.float32), (hashed & np.uint32(0xFFFF)).astype(np.float32)
    return high * np.float32(2**-16) + (low + np.float32(0.5)) * np.float32(2**-32)


def philox_uniform(seed: int, position: np.ndarray) -> np.ndarray:
    """Return uniform numbers float32[N] in (0, 1), as `tl.rand(seed, position)` without its zeros."""
    counters = position.astype(np.uint64)
    c0, c1 = (counters & _LOW).astype(np.uint32), (counters >> _SHIFT).astype(np.uint32)
    c2 = c3 = np.zeros_like(c0)
    key = np.array([seed], dtype=np.int64).astype(np.uint64)
    k0, k1 = (key & _LOW).astype(np.uint32), (key >> _SHIFT).astype(np.uint32)
    for _ in range(_PHILOX_ROUNDS):
        high_b, low_b = _multiply(0xCD9E8D57, c2)
        high_a, low_a = _multiply(0xD2511F53, c0)
        c0, c1, c2, c3 = high_b ^ c1 ^ k0, low_b, high_a ^ c3 ^ k1, low_a
        k0, k1 = k0 + np.uint32(0x9E3779B9), k1 + np.uint32(0xBB67AE85)
    signed = c0.view(np.int32)
    uniform = np.where(signed < 0, ~signed, signed).astype(np.float32) * _SMALLEST_UNIFORM
    return np.maximum(uniform, _SMALLEST_UNIFORM)


def _mix(state: np.ndarray, key: np.ndarray) -> np.ndarray:
    key = _rotate(key * np.uint32(0xCC9E2D51), 15) * np.uint32(0x1B873593)
    return _rotate(state ^ key, 13) * np.uint32(5) + np.uint32(0xE6546B64)


def _rotate(value: np.ndarray, bits: int) -> np.ndarray:
    return (value << np.uint32(bits)) | (value >> np.uint32(32 - bits))


def _finish(value: np.ndarray) -> np.ndarray:
    value = (value ^ (value >> np.uint32(16))) * np.uint32(0x85EBCA6B)
    value = (value ^ (value >> np.uint32(13))) * np.uint32(0xC2B2AE35)
    return value ^ (value >> np.uint32(16))


def _multiply(factor: int, value: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the high and the low word of the 64-bit product."""
    product = value.astype(np.uint64) * np.uint64(factor)
    return (product >> _SHIFT).astype(np.uint32), (product & _LOW).astype(np.uint32)


def _log1p_neg(value: np.ndarray) -> np.ndarray:
    """Return log(1 - value): a series below 1/4, as the kernel does, for the exact tail."""
    polynomial = np.full_like(value, 1.0 / 8.0)
    for denominator in (7, 6, 5, 4, 3, 2, 1):
        polynomial = np.float32(1.0 / denominator) + value * polynomial
    direct = np.log(np.maximum(np.float32(1.0) - value, np.float32(5.960464477539063e-08)))
    return np.where(value < np.float32(0.25), -value * polynomial, direct)
