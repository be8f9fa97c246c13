"""Kernels of `vllm.v1.worker.gpu.sample.logprob`: log-probabilities and ranks of chosen tokens."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from torch import Tensor

_MODULE = "vllm.v1.worker.gpu.sample.logprob."


def topk_log_softmax(
    output: Tensor,
    logits: Tensor,
    logits_stride: int,
    topk_ids: Tensor,
    topk_ids_stride: int,
    topk: int,
    vocab_size: int,
    *,
    BLOCK_SIZE: int,
    **_launch: object,
) -> None:
    """Write the log-probability float32 of each chosen token of each row."""
    values = logits.float().numpy()[:, :vocab_size]
    largest = values.max(axis=1)
    total = np.log(blockwise_sum(np.exp(values - largest[:, None]), BLOCK_SIZE))
    chosen = np.take_along_axis(values, topk_ids.numpy()[:, :topk], axis=1)
    output.numpy()[:, :topk] = chosen - largest[:, None] - total[:, None]


def ranks(
    output: Tensor, logits: Tensor, logits_stride: int, token_ids: Tensor, vocab_size: int, **_launch: object
) -> None:
    """Write how many tokens of each row are at least as likely as the given one."""
    values = logits.float().numpy()[:, :vocab_size]
    chosen = np.take_along_axis(values, token_ids.numpy()[:, None], axis=1)
    output.numpy()[:] = (values >= chosen).sum(axis=1)


def blockwise_sum(values: np.ndarray, block_size: int) -> np.ndarray:
    """Sum float32[N, V] along the rows block by block, in the kernels' order, so that no bit differs."""
    rows, width = values.shape
    blocks = -(-width // block_size)
    padded = np.zeros((rows, blocks * block_size), dtype=np.float32)
    padded[:, :width] = values
    total = np.zeros(rows, dtype=np.float32)
    for block in padded.reshape(rows, blocks, block_size).sum(axis=2).T:
        total += block
    return total


REPLACEMENTS: dict[str, Callable[..., object]] = {
    _MODULE + "_topk_log_softmax_kernel": topk_log_softmax,
    _MODULE + "_ranks_kernel": ranks,
}
