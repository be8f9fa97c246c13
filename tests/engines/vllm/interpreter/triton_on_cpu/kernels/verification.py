"""Kernels of vLLM's rejection sampler, for drafts without probabilities (as this project's are)."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
from torch import Tensor

from triton_on_cpu.kernels.interpreted import covers, original
from triton_on_cpu.kernels.logprobs import blockwise_sum
from triton_on_cpu.kernels.noise import philox_uniform
from triton_on_cpu.kernels.sampling import block_argmax, noised_block_argmax

_SAMPLER = "vllm.v1.worker.gpu.spec_decode.rejection_sampler."
_UTILS = "vllm.v1.worker.gpu.spec_decode.rejection_sampler_utils."
_STATS = _UTILS + "_compute_local_logits_stats_kernel"


def gather_draft_sampled(
    draft_sampled: Tensor,
    pos: Tensor,
    input_ids: Tensor,
    positions: Tensor,
    logits_indices: Tensor,
    expanded_idx_mapping: Tensor,
    expanded_local_pos: Tensor,
    prefill_len: Tensor,
    num_logits: int,
    **_launch: object,
) -> None:
    """Write token and position of each row with logits; drafts that start within the prompt become -1."""
    rows = logits_indices.numpy()[:num_logits]
    places = expanded_local_pos.numpy()[:num_logits]
    row_positions = positions.numpy()[rows]
    prefill = prefill_len.numpy()[expanded_idx_mapping.numpy()[:num_logits]]
    is_placeholder = (places > 0) & (row_positions - places < prefill)
    draft_sampled.numpy()[:num_logits] = np.where(is_placeholder, -1, input_ids.numpy()[rows])
    pos.numpy()[:num_logits] = row_positions


@covers(
    _STATS,
    case=lambda arguments, options: not options["HAS_DRAFT_LOGITS"],
    grid=lambda arguments: tuple(arguments[2].shape),
)
def compute_local_logits_stats(
    target_local_argmax: Tensor,
    target_local_argmax_stride: int,
    target_local_max: Tensor,
    target_local_max_stride: int,
    target_local_sumexp: Tensor,
    target_local_sumexp_stride: int,
    draft_local_max: Tensor,
    draft_local_max_stride: int,
    draft_local_sumexp: Tensor,
    draft_local_sumexp_stride: int,
    target_logits: Tensor,
    target_logits_stride: int,
    draft_logits: None,
    draft_logits_stride_0: int,
    draft_logits_stride_1: int,
    expanded_idx_mapping: Tensor,
    expanded_local_pos: Tensor,
    temp: Tensor,
    vocab_size: int,
    last: int,
    *,
    BLOCK_SIZE: int,
    **_launch: object,
) -> None:
    """Write maximum and argmax (greedy rows) or maximum and sum of exponentials of each vocabulary block.

    `last` is the number of drafts of a request in vLLM 0.32, that of all rows in 0.33.
    """
    logits = target_logits.float().numpy()[:, :vocab_size]
    is_draft = _is_draft(expanded_local_pos.numpy(), last)
    is_greedy = temp.numpy()[expanded_idx_mapping.numpy()] == 0
    values, tokens = block_argmax(logits, BLOCK_SIZE)
    target_local_max.numpy()[is_draft] = values[is_draft]
    greedy, sampling = is_draft & is_greedy, np.flatnonzero(is_draft & ~is_greedy)
    target_local_argmax.numpy()[greedy] = tokens[greedy]
    if len(sampling):
        sums = target_local_sumexp.numpy()
        for block in range(values.shape[1]):
            part = logits[sampling, block * BLOCK_SIZE : (block + 1) * BLOCK_SIZE]
            largest = values[sampling, block]
            with np.errstate(invalid="ignore"):
                total = blockwise_sum(np.exp(part - largest[:, None]), BLOCK_SIZE)
            sums[sampling, block] = np.where(largest > -np.inf, total, 0)


def _is_draft(places: np.ndarray, last: int) -> np.ndarray:
    """Which rows verify a draft, by their places within their requests: all but the last of each request."""
    if "num_logits" not in original(_STATS).arg_names:
        return places < last
    following = np.zeros_like(places)
    following[: last - 1] = places[1:last]
    return following != 0


@covers(
    _UTILS + "_rejection_kernel",
    case=lambda arguments, options: (
        not any(
            options.get(name)
            for name in ("HAS_DRAFT_LOGITS", "SYNTHETIC_MODE", "USE_BLOCK_VERIFICATION", "FLY_WINDOW_SIZE")
        )
    ),
    grid=lambda arguments: (arguments[22].shape[0],),
)
def rejection(
    sampled: Tensor,
    sampled_stride: int,
    rejected_steps: Tensor,
    target_rejected_logsumexp: Tensor,
    draft_rejected_logsumexp: Tensor,
    target_logits: Tensor,
    target_logits_stride: int,
    target_local_argmax: Tensor,
    target_local_argmax_stride: int,
    target_local_max: Tensor,
    target_local_max_stride: int,
    target_local_sumexp: Tensor,
    target_local_sumexp_stride: int,
    draft_sampled: Tensor,
    draft_logits: None,
    draft_logits_stride_0: int,
    draft_logits_stride_1: int,
    draft_local_max: Tensor,
    draft_local_max_stride: int,
    draft_local_sumexp: Tensor,
    draft_local_sumexp_stride: int,
    cu_num_logits: Tensor,
    idx_mapping: Tensor,
    temp: Tensor,
    seed: Tensor,
    pos: Tensor,
    synthetic_conditional_rates: None,
    cumulative_log_p: None,
    local_residual_mass: None,
    local_residual_mass_stride: int,
    *_rest: object,
    PADDED_VOCAB_NUM_BLOCKS: int,
    **_launch: object,
) -> None:
    """Accept drafts from the left: greedy ones that equal the argmax, others with the target's probability.

    Writes the accepted tokens and the first rejected place's token of each request (the argmax, or the draft
    to be resampled), the number accepted, and the logsumexp of the last row looked at (0 for a greedy
    request).
    """
    slots, cumulative = idx_mapping.numpy(), cu_num_logits.numpy()
    tokens, drafts = sampled.numpy(), draft_sampled.numpy()
    accepted, target_lse = rejected_steps.numpy(), target_rejected_logsumexp.numpy()
    draft_rejected_logsumexp.numpy()[: len(slots)] = 0
    largest, best = target_local_max.numpy(), target_local_argmax.numpy()
    winners = np.take_along_axis(best, _without_nan(largest).argmax(axis=1)[:, None], axis=1)[:, 0]
    greedy = temp.numpy()[slots] == 0
    for request, (begin, end) in enumerate(itertools.pairwise(cumulative)):
        proposed = drafts[begin + 1 : end]
        rows = slice(begin, end - 1)
        target_lse[request] = 0
        if greedy[request]:
            count = _leading_true((proposed == winners[rows]) & (proposed >= 0))
            tokens[request, :count] = proposed[:count]
            if count < len(proposed):
                tokens[request, count] = winners[begin + count]
        else:
            proposed = proposed[: _leading_true(proposed >= 0)]
            rows = slice(begin, begin + len(proposed))
            lse = _logsumexp(largest[rows], target_local_sumexp.numpy()[rows], PADDED_VOCAB_NUM_BLOCKS)
            logits = target_logits[rows].float().numpy()[np.arange(len(proposed)), proposed]
            uniform = philox_uniform(int(seed[slots[request]]), pos.numpy()[rows])
            count = _leading_true(logits - lse > np.log(uniform))
            seen = min(count + 1, len(proposed))
            tokens[request, :seen] = proposed[:seen]
            if seen:
                target_lse[request] = lse[seen - 1]
        accepted[request] = count


@covers(
    _UTILS + "_resample_kernel",
    case=lambda arguments, options: (
        not any(options[name] for name in ("HAS_DRAFT_LOGITS", "USE_FP64", "WATERMARK"))
    ),
    grid=lambda arguments: tuple(arguments[2].shape),
)
def resample(
    resampled_local_argmax: Tensor,
    resampled_local_argmax_stride: int,
    resampled_local_max: Tensor,
    resampled_local_max_stride: int,
    target_logits: Tensor,
    target_logits_stride: int,
    target_rejected_logsumexp: Tensor,
    draft_logits: None,
    draft_logits_stride_0: int,
    draft_logits_stride_1: int,
    draft_rejected_logsumexp: Tensor,
    rejected_step: Tensor,
    cu_num_logits: Tensor,
    expanded_idx_mapping: Tensor,
    draft_sampled: Tensor,
    temp: Tensor,
    seed: Tensor,
    pos: Tensor,
    cumulative_log_p: None,
    contexts: None,
    contexts_stride: int,
    watermarking: None,
    watermarking_skip_mask: None,
    watermark_key_0: int,
    watermark_key_1: int,
    vocab_size: int,
    *,
    BLOCK_SIZE: int,
    **_launch: object,
) -> None:
    """Draw the token after the accepted ones, never the rejected draft; greedy only after a full accept."""
    cumulative = cu_num_logits.numpy()
    rows = cumulative[:-1].astype(np.int64) + rejected_step.numpy()
    is_bonus = rows == cumulative[1:] - 1
    slots = expanded_idx_mapping.numpy()[rows]
    temperatures = temp.numpy()[slots].astype(np.float32)
    requests = np.flatnonzero((temperatures != 0) | is_bonus)
    rows, slots, is_bonus = rows[requests], slots[requests], is_bonus[requests]
    logits = target_logits.float().numpy()[rows, :vocab_size]
    drafts = draft_sampled.numpy()
    rejected = drafts[np.minimum(rows + 1, len(drafts) - 1)]
    excluded = np.flatnonzero(~is_bonus & (rejected >= 0))
    logits[excluded, rejected[excluded]] = -np.inf
    values, tokens = noised_block_argmax(
        logits,
        temperatures[requests],
        seed.numpy()[slots],
        pos.numpy()[rows],
        block_size=BLOCK_SIZE,
        apply_temperature=False,
    )
    resampled_local_max.numpy()[requests] = values
    resampled_local_argmax.numpy()[requests] = tokens


def insert_resampled(
    sampled: Tensor,
    sampled_stride: int,
    num_sampled: Tensor,
    resampled_local_argmax: Tensor,
    resampled_local_argmax_stride: int,
    resampled_local_max: Tensor,
    resampled_local_max_stride: int,
    resample_num_blocks: int,
    cu_num_logits: Tensor,
    expanded_idx_mapping: Tensor,
    temp: Tensor,
    **_launch: object,
) -> None:
    """Put the drawn token behind the accepted ones of each request and count it."""
    cumulative, counts = cu_num_logits.numpy(), num_sampled.numpy()
    before = counts.copy()
    rows = cumulative[:-1] + before
    counts += 1
    is_greedy = temp.numpy()[expanded_idx_mapping.numpy()[rows]] == 0
    requests = np.flatnonzero(~is_greedy | (rows == cumulative[1:] - 1))
    largest = _without_nan(resampled_local_max.numpy()[requests])
    drawn = resampled_local_argmax.numpy()[requests, largest.argmax(axis=1)]
    sampled.numpy()[requests, before[requests]] = drawn


def flatten_sampled(
    flat_sampled: Tensor,
    sampled: Tensor,
    sampled_stride: int,
    num_sampled: Tensor,
    cu_num_logits: Tensor,
    **_launch: object,
) -> None:
    """Write the sampled tokens of each request at its first rows, for the log-probabilities."""
    flat, tokens = flat_sampled.numpy(), sampled.numpy()
    for request, (begin, count) in enumerate(zip(cu_num_logits.tolist(), num_sampled.tolist(), strict=False)):
        flat[begin : begin + count] = tokens[request, :count]


def _leading_true(values: np.ndarray) -> int:
    """Return how many values are true before the first false one."""
    return len(values) if values.all() else int(values.argmin())


def _without_nan(values: np.ndarray) -> np.ndarray:
    return np.where(np.isnan(values), -np.inf, values)


def _logsumexp(maxima: np.ndarray, sums: np.ndarray, padded_blocks: int) -> np.ndarray:
    """Return logsumexp float32[N] from the maxima and the sums of exponentials float32[N, blocks]."""
    largest = maxima.max(axis=1)
    scaled = np.zeros((len(maxima), padded_blocks), dtype=np.float32)
    scaled[:, : maxima.shape[1]] = sums * np.exp(maxima - largest[:, None])
    return largest + np.log(scaled.sum(axis=1))


REPLACEMENTS: dict[str, Callable[..., object]] = {
    _SAMPLER + "_gather_draft_sampled_kernel": gather_draft_sampled,
    _SAMPLER + "_flatten_sampled_kernel": flatten_sampled,
    _STATS: compute_local_logits_stats,
    _UTILS + "_rejection_kernel": rejection,
    _UTILS + "_resample_kernel": resample,
    _UTILS + "_insert_resampled_kernel": insert_resampled,
}
