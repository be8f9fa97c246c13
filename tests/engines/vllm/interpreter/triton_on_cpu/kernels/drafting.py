"""Kernels of vLLM's own speculators: what Eagle computes around its forwards, and n-gram drafting."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from torch import Tensor

_EAGLE = "vllm.v1.worker.gpu.spec_decode.target_dependent_ar.speculator."
_NGRAM = "vllm.v1.worker.gpu.spec_decode.ngram.speculator."


def prepare_prefill_inputs(
    last_token_indices: Tensor,
    draft_current_step: Tensor,
    draft_input_ids: Tensor,
    draft_positions: Tensor,
    draft_query_start_loc: Tensor,
    draft_seq_lens: Tensor,
    target_input_ids: Tensor,
    target_positions: Tensor,
    idx_mapping: Tensor,
    last_sampled: Tensor,
    next_prefill_tokens: Tensor,
    num_sampled: Tensor,
    num_rejected: Tensor,
    query_start_loc: Tensor,
    seq_lens: Tensor,
    max_num_reqs: int,
    **_launch: object,
) -> None:
    """Shift each request's accepted tokens by one, put its newest token behind them, and copy their places."""
    slots = idx_mapping.numpy()
    rows = len(slots)
    starts = query_start_loc.numpy()[: rows + 1]
    sampled, newest = num_sampled.numpy()[:rows], last_sampled.numpy().reshape(-1)[slots]
    following = np.where(sampled > 0, newest, next_prefill_tokens.numpy().reshape(-1)[slots])
    ends = starts[1:] - num_rejected.numpy()[:rows]
    ids, given = draft_input_ids.numpy(), target_input_ids.numpy()
    positions, given_positions = draft_positions.numpy(), target_positions.numpy()
    for start, end, token in zip(starts, ends, following, strict=False):
        ids[start : end - 1] = given[start + 1 : end]
        ids[end - 1] = token
        positions[start:end] = given_positions[start:end]
    last, lengths, begins = last_token_indices.numpy(), draft_seq_lens.numpy(), draft_query_start_loc.numpy()
    last[:rows], last[rows:max_num_reqs] = ends - 1, 0
    lengths[:rows], lengths[rows:max_num_reqs] = seq_lens.numpy()[:rows], 0
    begins[:rows], begins[rows : max_num_reqs + 1] = starts[:-1], starts[-1]
    draft_current_step.fill_(0)


def prepare_decode_inputs(
    draft_tokens: Tensor,
    draft_tokens_stride: int,
    target_seq_lens: Tensor,
    num_rejected: Tensor,
    input_ids: Tensor,
    positions: Tensor,
    sample_src_positions: Tensor,
    query_start_loc: Tensor,
    seq_lens: Tensor,
    max_model_len: int,
    max_num_reqs: int,
    ADVANCE_DRAFT_POSITIONS: bool = True,
    **_launch: object,
) -> None:
    """Lay out one row for each request: its first draft, at the place behind its last token."""
    rows = draft_tokens.shape[0]
    input_ids.numpy()[:rows] = draft_tokens.numpy()
    sample_src_positions.numpy()[:rows] += 1
    lengths = target_seq_lens.numpy()[:rows] - num_rejected.numpy()[:rows]
    if ADVANCE_DRAFT_POSITIONS:
        places = positions.numpy()
        places[:rows] = np.minimum(places[:rows] + 1, max_model_len - 1)
        lengths = np.minimum(lengths + 1, max_model_len)
    written = seq_lens.numpy()
    written[:rows], written[rows:max_num_reqs] = lengths, 0
    query_start_loc.numpy()[: max_num_reqs + 1] = np.minimum(np.arange(max_num_reqs + 1), rows)


def update_draft_inputs(
    output_draft_tokens: Tensor,
    output_draft_tokens_stride: int,
    next_input_hidden_states: Tensor,
    next_input_hidden_states_stride: int,
    input_ids: Tensor,
    positions: Tensor,
    sample_src_positions: Tensor,
    seq_lens: Tensor,
    draft_tokens: Tensor,
    current_draft_step: Tensor,
    hidden_states: Tensor,
    hidden_states_stride: int,
    hidden_size: int,
    max_model_len: int,
    num_speculative_steps: int,
    ADVANCE_DRAFT_POSITIONS: bool = True,
    **_launch: object,
) -> None:
    """Keep each request's draft of this step, and make it and its hidden state the input of the next one."""
    rows, step = draft_tokens.shape[0], int(current_draft_step)
    output_draft_tokens.numpy()[:rows, step] = draft_tokens.numpy()
    if step >= num_speculative_steps - 1:
        return
    sample_src_positions.numpy()[:rows] += 1
    input_ids.numpy()[:rows] = draft_tokens.numpy()
    next_input_hidden_states[:rows, :hidden_size] = hidden_states[:rows, :hidden_size]
    if ADVANCE_DRAFT_POSITIONS:
        places, lengths = positions.numpy()[:rows], seq_lens.numpy()[:rows]
        np.minimum(places + 1, max_model_len - 1, out=places)
        np.minimum(lengths + 1, max_model_len, out=lengths)


def scan_for_ngrams(
    token_ids: Tensor,
    token_ids_stride: int,
    idx_mapping: Tensor,
    total_len: Tensor,
    num_sampled: Tensor,
    scratch: Tensor,
    scratch_stride: int,
    length: int,
    MIN_N: int,
    MAX_N: int,
    MAX_N_PO2: int,
    BLOCK_L: int,
    **_launch: object,
) -> None:
    """Write for each block of positions the best earlier place of a request's last tokens.

    The longest match wins, then the latest; a match of n tokens at place p counts `n * (length + 1) + p + 1`.
    """
    tokens, sampled, lengths = token_ids.numpy(), num_sampled.numpy(), total_len.numpy()
    scores = scratch.numpy()
    blocks = scores.shape[1]
    for row, slot in enumerate(idx_mapping.numpy()):
        scores[row] = 0
        count = int(lengths[slot])
        if sampled[row] <= 0 or count < MIN_N:
            continue
        text = tokens[slot, :count]
        best = np.zeros(blocks * BLOCK_L, np.int64)
        for n in range(MIN_N, min(MAX_N, count - 1) + 1):
            windows = np.lib.stride_tricks.sliding_window_view(text[:-1], n)
            places = np.flatnonzero((windows == text[-n:]).all(1))
            best[places] = n * (length + 1) + places + 1
        scores[row] = best.reshape(blocks, BLOCK_L).max(1)


def draft_from_ngrams(
    token_ids: Tensor,
    token_ids_stride: int,
    idx_mapping: Tensor,
    total_len: Tensor,
    num_sampled: Tensor,
    last_sampled: Tensor,
    scratch: Tensor,
    scratch_stride: int,
    drafts: Tensor,
    length: int,
    N_BLOCKS: int,
    K: int,
    K_PO2: int,
    N_BLOCKS_PO2: int,
    **_launch: object,
) -> None:
    """Draft what followed the best match; where that ends, or there is none, the last token again and again."""
    tokens, lengths = token_ids.numpy(), total_len.numpy()
    sampled, newest = num_sampled.numpy(), last_sampled.numpy().reshape(-1)
    scores, written = scratch.numpy(), drafts.numpy()
    for row, slot in enumerate(idx_mapping.numpy()):
        written[row, :K] = newest[slot]
        score = int(scores[row, :N_BLOCKS].max())
        if score <= 0 or sampled[row] <= 0:
            continue
        matched, place = divmod(score - 1, length + 1)
        start = place + matched
        copied = tokens[slot, start : min(start + K, int(lengths[slot]))]
        written[row, : len(copied)] = copied


REPLACEMENTS: dict[str, Callable[..., object]] = {
    _EAGLE + "_prepare_prefill_inputs_kernel": prepare_prefill_inputs,
    _EAGLE + "_prepare_decode_inputs_kernel": prepare_decode_inputs,
    _EAGLE + "_update_draft_inputs_kernel": update_draft_inputs,
    _NGRAM + "_ngram_scan_kernel": scan_for_ngrams,
    _NGRAM + "_ngram_finalize_kernel": draft_from_ngrams,
}
