"""Kernels of `vllm.v1.worker.gpu.sample`: temperature, and sampling as an argmax under Gumbel noise."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from torch import Tensor

from triton_on_cpu.kernels.interpreted import covers
from triton_on_cpu.kernels.noise import DRAFT_SALT, gumbel

_TEMPERATURE = "vllm.v1.worker.gpu.sample.gumbel._temperature_kernel"
_GUMBEL = "vllm.v1.worker.gpu.sample.gumbel._gumbel_sample_kernel"


def temperature(
    logits: Tensor,
    logits_stride: int,
    expanded_idx_mapping: Tensor,
    temperatures: Tensor,
    vocab_size: int,
    **_launch: object,
) -> None:
    """Divide each row of logits by its request's temperature, in place; 0 and 1 leave the row as it is."""
    values = logits.numpy()
    per_row = temperatures.numpy()[expanded_idx_mapping.numpy()].astype(np.float32)
    rows = np.flatnonzero((per_row != 0) & (per_row != 1))
    values[rows, :vocab_size] = values[rows, :vocab_size] / per_row[rows, None]


@covers(
    _GUMBEL,
    case=lambda arguments, options: arguments[4] is None and not options["USE_FP64"],
    grid=lambda arguments: tuple(arguments[2].shape),
)
def gumbel_sample(
    local_argmax: Tensor,
    local_argmax_stride: int,
    local_max: Tensor,
    local_max_stride: int,
    logits_cache: None,
    logits_cache_stride_0: int,
    logits_cache_stride_1: int,
    logits_cache_col: None,
    logits_cache_source: None,
    logits_cache_source_stride: int,
    logits: Tensor,
    logits_stride: int,
    expanded_idx_mapping: Tensor,
    seeds: Tensor,
    pos: Tensor,
    temp: Tensor,
    vocab_size: int,
    *,
    BLOCK_SIZE: int,
    IS_DRAFTING: bool,
    APPLY_TEMPERATURE: bool,
    **_launch: object,
) -> None:
    """Write, for every row and every part of the vocabulary, the largest noised logit and its token."""
    slots = expanded_idx_mapping.numpy()
    used = np.where(slots >= 0, slots, 0)
    values, tokens = noised_block_argmax(
        logits.float().numpy()[:, :vocab_size],
        np.where(slots >= 0, temp.numpy()[used], 0).astype(np.float32),
        np.where(slots >= 0, seeds.numpy()[used], 0),
        pos.numpy() + (DRAFT_SALT if IS_DRAFTING else 0),
        block_size=BLOCK_SIZE,
        apply_temperature=APPLY_TEMPERATURE,
    )
    local_max.numpy()[:] = values
    local_argmax.numpy()[:] = tokens


def noised_block_argmax(
    logits: np.ndarray,
    temperatures: np.ndarray,
    seeds: np.ndarray,
    positions: np.ndarray,
    *,
    block_size: int,
    apply_temperature: bool,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the largest value float32[N, blocks] and its token int64[N, blocks] of each block of tokens.

    Rows (logits float32[N, V]) with temperature 0 are compared as they are, others after Gumbel noise of
    their seed and position. Of equal values the first wins; NaN never does.
    """
    noisy = np.flatnonzero(temperatures != 0)
    if len(noisy):
        scores = logits[noisy] / temperatures[noisy, None] if apply_temperature else logits[noisy]
        scores = scores + gumbel(seeds[noisy], positions[noisy], np.arange(logits.shape[1]))
        if len(noisy) < len(logits):
            logits = logits.copy()
            logits[noisy] = scores
        else:
            logits = scores
    return block_argmax(logits, block_size)


def block_argmax(logits: np.ndarray, block_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the maximum float32[N, blocks] and its column int64[N, blocks] of each block of columns."""
    rows, width = logits.shape
    blocks = -(-width // block_size)
    values, columns = np.empty((rows, blocks), np.float32), np.empty((rows, blocks), np.int64)
    every_row = np.arange(rows)
    for block in range(blocks):
        begin = block * block_size
        part = logits[:, begin : begin + block_size]
        best = part.argmax(axis=1)
        top = part[every_row, best]
        if np.isnan(top).any():
            part = np.where(np.isnan(part), -np.inf, part)
            best = part.argmax(axis=1)
            top = part[every_row, best]
        values[:, block], columns[:, block] = top, best + begin
    return values, columns


REPLACEMENTS: dict[str, Callable[..., object]] = {_TEMPERATURE: temperature, _GUMBEL: gumbel_sample}
