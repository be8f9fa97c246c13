"""Kernels of `vllm.v1.worker.gpu.input_batch`: what the runner computes around each forward."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from torch import Tensor

from triton_on_cpu.kernels.interpreted import covers

_MODULE = "vllm.v1.worker.gpu.input_batch."
_POST_UPDATE = _MODULE + "_post_update_kernel"


def prepare_prefill_inputs(
    input_ids: Tensor,
    next_prefill_tokens: Tensor,
    next_prefill_tokens_stride: int,
    num_lookahead: int,
    idx_mapping: Tensor,
    query_start_loc: Tensor,
    all_token_ids: Tensor,
    all_token_ids_stride: int,
    prefill_lens: Tensor,
    num_computed_tokens: Tensor,
    **_launch: object,
) -> None:
    """Copy each prompt's next tokens into the input, and the tokens after them into the look-ahead buffer."""
    ids, lookahead, tokens = input_ids.numpy(), next_prefill_tokens.numpy(), all_token_ids.numpy()
    slots, starts = idx_mapping.numpy(), query_start_loc.numpy()
    computed, prefill = num_computed_tokens.numpy()[slots], prefill_lens.numpy()[slots]
    for row in np.flatnonzero(computed < prefill):
        slot, begin, end = slots[row], starts[row], starts[row + 1]
        first = computed[row]
        last = first + end - begin
        ids[begin:end] = tokens[slot, first:last]
        following = tokens[slot, last : min(last + num_lookahead, prefill[row])]
        lookahead[:, slot] = 0
        lookahead[: len(following), slot] = following


def prepare_pos_seq_lens(
    pos: Tensor,
    seq_lens: Tensor,
    idx_mapping: Tensor,
    query_start_loc: Tensor,
    num_computed_tokens: Tensor,
    max_num_reqs: int,
    **_launch: object,
) -> None:
    """Write the position of every input row and the length of every sequence, 0 for unused ones."""
    slots = idx_mapping.numpy()
    rows = len(slots)
    starts = query_start_loc.numpy()[: rows + 1]
    lengths = np.diff(starts)
    computed = num_computed_tokens.numpy()[slots]
    seq_lens_out = seq_lens.numpy()
    seq_lens_out[:rows] = computed + lengths
    seq_lens_out[rows:max_num_reqs] = 0
    pos.numpy()[starts[0] : starts[-1]] = _offsets(starts) + np.repeat(computed, lengths)


def combine_sampled_and_draft_tokens(
    input_ids: Tensor,
    idx_mapping: Tensor,
    last_sampled_tokens: Tensor,
    query_start_loc: Tensor,
    seq_lens: Tensor,
    prefill_len: Tensor,
    draft_tokens: Tensor,
    draft_tokens_stride: int,
    cu_num_logits: Tensor,
    logits_indices: Tensor,
    NUM_NEW_SAMPLED_TOKENS: int = 1,
    **_launch: object,
) -> None:
    """Write each request's last sampled token and drafts into the input, and which rows need logits."""
    slots = idx_mapping.numpy()
    rows = len(slots)
    cumulative = cu_num_logits.numpy()[: rows + 1]
    num_logits = np.diff(cumulative)
    ends = query_start_loc.numpy()[1 : rows + 1]
    logits_start = ends - num_logits
    logits_indices.numpy()[cumulative[0] : cumulative[-1]] = _offsets(cumulative) + np.repeat(
        logits_start, num_logits
    )

    ids = input_ids.numpy()
    lengths, prefill = seq_lens.numpy()[:rows], prefill_len.numpy()[slots]
    decoding = lengths > prefill
    if NUM_NEW_SAMPLED_TOKENS > 0:
        sampled = decoding & (lengths - num_logits >= prefill)
        ids[logits_start[sampled]] = last_sampled_tokens.numpy().reshape(-1)[slots[sampled]]
    num_drafts = num_logits - NUM_NEW_SAMPLED_TOKENS
    drafts = draft_tokens.numpy()
    for row in np.flatnonzero(decoding & (num_drafts > 0)):
        count, end = num_drafts[row], ends[row]
        ids[end - count : end] = drafts[slots[row], :count]


def get_num_sampled_and_rejected(
    num_sampled: Tensor,
    num_rejected: Tensor,
    seq_lens: Tensor,
    cu_num_logits: Tensor,
    idx_mapping: Tensor,
    prefill_len: Tensor,
    **_launch: object,
) -> None:
    """Set both counts to 0 for requests still in their prompt; the rest rejected what they did not sample."""
    slots = idx_mapping.numpy()
    rows = len(slots)
    in_prompt = seq_lens.numpy()[:rows] < prefill_len.numpy()[slots]
    sampled = num_sampled.numpy()
    sampled[:rows][in_prompt] = 0
    rejected = np.diff(cu_num_logits.numpy()[: rows + 1]) - sampled[:rows]
    num_rejected.numpy()[:rows] = np.where(in_prompt, 0, rejected)


@covers(
    _POST_UPDATE,
    case=lambda arguments, options: all(more is None for more in arguments[13:14]),
    grid=lambda arguments: (arguments[0].shape[0],),
)
def post_update(
    idx_mapping: Tensor,
    num_computed_tokens: Tensor,
    last_sampled_tokens: Tensor,
    output_bin_counts: Tensor | None,
    output_bin_counts_stride: int,
    sampled_tokens: Tensor,
    sampled_tokens_stride: int,
    num_sampled: Tensor,
    num_rejected: Tensor,
    query_start_loc: Tensor | None,
    all_token_ids: Tensor,
    all_token_ids_stride: int,
    total_len: Tensor,
    *_of_other_ranks: object,
    **_launch: object,
) -> None:
    """Append the sampled tokens to each request and advance its counters.

    Rows with a negative slot are skipped.
    """
    slots = idx_mapping.numpy()
    rows = len(slots)
    computed, lengths, tokens = num_computed_tokens.numpy(), total_len.numpy(), all_token_ids.numpy()
    last = last_sampled_tokens.numpy().reshape(-1)
    sampled, counts = sampled_tokens.numpy(), num_sampled.numpy()
    bins = None if output_bin_counts is None else output_bin_counts.numpy()
    for row in np.flatnonzero((slots >= 0) & (counts[:rows] > 0)):
        slot, count = slots[row], counts[row]
        new, length = sampled[row, :count], lengths[slot]
        tokens[slot, length : length + count] = new
        last[slot] = new[-1]
        lengths[slot] = length + count
        if bins is not None:
            np.add.at(bins[slot], new, 1)
    delta = -num_rejected.numpy()[:rows]
    if query_start_loc is not None:
        delta = np.diff(query_start_loc.numpy()[: rows + 1]) + delta
    kept = slots >= 0
    computed[slots[kept]] += delta[kept]


def post_update_num_computed_tokens(
    idx_mapping: Tensor, num_computed_tokens: Tensor, query_start_loc: Tensor, **_launch: object
) -> None:
    """Advance each request's number of computed tokens by its number of input rows."""
    slots = idx_mapping.numpy()
    num_computed_tokens.numpy()[slots] += np.diff(query_start_loc.numpy()[: len(slots) + 1])


def expand_idx_mapping(
    idx_mapping: Tensor,
    expanded_idx_mapping: Tensor,
    expanded_local_pos: Tensor,
    cu_num_logits: Tensor,
    **_launch: object,
) -> None:
    """Write, for every row with logits, its request's slot and its place within the request."""
    slots = idx_mapping.numpy()
    cumulative = cu_num_logits.numpy()[: len(slots) + 1]
    rows = slice(cumulative[0], cumulative[-1])
    expanded_idx_mapping.numpy()[rows] = np.repeat(slots, np.diff(cumulative))
    expanded_local_pos.numpy()[rows] = _offsets(cumulative)


def _offsets(cumulative: np.ndarray) -> np.ndarray:
    """Return 0, 1, … n-1 for each of the ranges that `cumulative` bounds, one after the other."""
    return np.arange(cumulative[0], cumulative[-1]) - np.repeat(cumulative[:-1], np.diff(cumulative))


REPLACEMENTS: dict[str, Callable[..., object]] = {
    _MODULE + "_prepare_prefill_inputs_kernel": prepare_prefill_inputs,
    _MODULE + "_prepare_pos_seq_lens_kernel": prepare_pos_seq_lens,
    _MODULE + "_combine_sampled_and_draft_tokens_kernel": combine_sampled_and_draft_tokens,
    _MODULE + "_get_num_sampled_and_rejected_kernel": get_num_sampled_and_rejected,
    _POST_UPDATE: post_update,
    _MODULE + "_post_update_num_computed_tokens_kernel": post_update_num_computed_tokens,
    _MODULE + "_expand_idx_mapping_kernel": expand_idx_mapping,
}
