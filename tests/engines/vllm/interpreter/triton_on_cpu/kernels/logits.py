"""What changes logits before sampling: penalties, biases, min-p, top-k and top-p, grammar masks."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from torch import Tensor

_SAMPLE = "vllm.v1.worker.gpu.sample."
_TOP_K_TOP_P = "vllm.v1.sample.ops.topk_topp_triton.apply_top_k_top_p_triton"
_GRAMMAR = "vllm.v1.worker.gpu.structured_outputs._apply_grammar_bitmask_kernel"


def penalties(
    logits: Tensor,
    logits_stride: int,
    expanded_idx_mapping: Tensor,
    token_ids: Tensor,
    expanded_local_pos: Tensor,
    repetition_penalty: Tensor,
    frequency_penalty: Tensor,
    presence_penalty: Tensor,
    prompt_bin_mask: Tensor,
    prompt_bin_mask_stride: int,
    output_bin_counts: Tensor,
    output_bin_counts_stride: int,
    vocab_size: int,
    **_launch: object,
) -> None:
    """Apply the three penalties in place.

    Row i of a verify counts its request's drafts before it as output.
    """
    values, slots = logits.numpy()[:, :vocab_size], expanded_idx_mapping.numpy()
    repetition = repetition_penalty.numpy()[slots]
    frequency = frequency_penalty.numpy()[slots]
    presence = presence_penalty.numpy()[slots]
    tokens, places = token_ids.numpy(), expanded_local_pos.numpy()
    prompts, outputs = prompt_bin_mask.numpy(), output_bin_counts.numpy()
    for row in np.flatnonzero((repetition != 1) | (frequency != 0) | (presence != 0)):
        slot, place = slots[row], places[row]
        counts = outputs[slot, :vocab_size].astype(np.int32)
        drafts = tokens[row - place + 1 : row + 1]
        np.add.at(counts, drafts[(drafts >= 0) & (drafts < vocab_size)], 1)
        line = values[row]
        if repetition[row] != 1:
            seen = _unpack(prompts[slot], vocab_size) | (counts > 0)
            scale = np.where(seen, repetition[row], np.float32(1))
            line *= np.where(line > 0, np.float32(1) / scale, scale)
        line -= frequency[row] * counts.astype(np.float32)
        line -= presence[row] * (counts > 0).astype(np.float32)


def bincount(
    expanded_idx_mapping: Tensor,
    all_token_ids: Tensor,
    all_token_ids_stride: int,
    prompt_len: Tensor,
    prefill_len: Tensor,
    prompt_bin_mask: Tensor,
    prompt_bin_mask_stride: int,
    output_bin_counts: Tensor,
    output_bin_counts_stride: int,
    **_launch: object,
) -> None:
    """Mark the tokens of each new request's prompt and count those it already generated, for the penalties."""
    tokens, masks, counts = all_token_ids.numpy(), prompt_bin_mask.numpy(), output_bin_counts.numpy()
    prompts, prefills = prompt_len.numpy(), prefill_len.numpy()
    for slot in expanded_idx_mapping.numpy():
        words, bits = np.divmod(tokens[slot, : prompts[slot]], 32)
        np.bitwise_or.at(masks[slot], words, np.left_shift(np.int32(1), bits.astype(np.int32)))
        np.add.at(counts[slot], tokens[slot, prompts[slot] : prefills[slot]], 1)


def bias(
    logits: Tensor,
    logits_stride: int,
    vocab_size: int,
    expanded_idx_mapping: Tensor,
    num_allowed_token_ids: Tensor,
    allowed_token_ids: Tensor,
    allowed_token_ids_stride: int,
    num_logit_bias: Tensor,
    bias_token_ids: Tensor,
    bias_token_ids_stride: int,
    biases: Tensor,
    bias_stride: int,
    pos: Tensor,
    min_lens: Tensor,
    num_stop_token_ids: Tensor,
    restore_when_all_masked: Tensor,
    stop_token_ids: Tensor,
    stop_token_ids_stride: int,
    *,
    CHECK_ALL_MASKED_ROWS: bool,
    **_launch: object,
) -> None:
    """Keep only allowed tokens, add logit biases, and forbid stop tokens before the shortest length, in place."""
    values, slots = logits.numpy()[:, :vocab_size], expanded_idx_mapping.numpy()
    num_allowed = num_allowed_token_ids.numpy()[slots]
    num_biased = num_logit_bias.numpy()[slots]
    num_stops = num_stop_token_ids.numpy()[slots]
    num_stops = np.where(pos.numpy() + 1 < min_lens.numpy()[slots], num_stops, 0)
    for row in np.flatnonzero((num_allowed > 0) | (num_biased > 0) | (num_stops > 0)):
        slot, line = slots[row], values[row]
        if num_allowed[row] > 0:
            allowed = allowed_token_ids.numpy()[slot, : num_allowed[row]]
            kept = line[allowed]
            line[:] = -np.inf
            line[allowed] = kept
        if num_biased[row] > 0:
            biased = bias_token_ids.numpy()[slot, : num_biased[row]]
            line[biased] = line[biased] + biases.numpy()[slot, : num_biased[row]]
        if num_stops[row] > 0:
            stops = stop_token_ids.numpy()[slot, : num_stops[row]]
            before = line[stops]
            line[stops] = -np.inf
            if CHECK_ALL_MASKED_ROWS and restore_when_all_masked[int(slot)] and line.max() == -np.inf:
                restored = np.isfinite(before)
                line[stops[restored]] = before[restored]


def min_p(
    logits: Tensor,
    logits_stride: int,
    expanded_idx_mapping: Tensor,
    min_ps: Tensor,
    vocab_size: int,
    **_launch: object,
) -> None:
    """Set logits to -inf in place where the probability is below min_p times the largest one of the row."""
    values = logits.numpy()[:, :vocab_size]
    per_row = min_ps.numpy()[expanded_idx_mapping.numpy()].astype(np.float32)
    rows = np.flatnonzero(per_row != 0)
    kept = values[rows]
    threshold = kept.max(axis=1, initial=-np.inf) + np.log(per_row[rows])
    values[rows] = np.where(kept < threshold[:, None], -np.inf, kept)


def apply_top_k_top_p(
    logits: Tensor,
    k: Tensor | None,
    p: Tensor | None,
    mask_value: float = -np.inf,
    has_topp_only_rows: bool = True,
) -> Tensor:
    """Mask all but the k likeliest tokens and the smallest set with probability p, by vLLM's PyTorch code.

    Replaces a whole function and not a kernel: Triton 3.9 cannot interpret this kernel.

    Raises:
        ValueError: `mask_value` is not -inf, the only value vLLM's PyTorch code knows.
    """
    from vllm.v1.sample.ops.topk_topp_sampler import apply_top_k_top_p_pytorch

    if mask_value != -np.inf:
        raise ValueError(f"mask_value: got {mask_value}, expected -inf")
    return apply_top_k_top_p_pytorch(logits, k, p, allow_cpu_sync=True)


def apply_grammar_bitmask(
    logits: Tensor,
    logits_stride: int,
    logits_indices: Tensor,
    cu_num_logits: Tensor,
    bitmask: Tensor,
    bitmask_stride: int,
    vocab_size: int,
    *,
    MASK_STRIDE: int,
    **_launch: object,
) -> None:
    """Set the logits of forbidden tokens to -inf; masks beyond a request's rows do nothing."""
    requests, places = np.divmod(logits_indices.numpy(), MASK_STRIDE)
    cumulative = cu_num_logits.numpy()
    masks = bitmask.numpy()
    for mask, (request, place) in enumerate(zip(requests, places, strict=True)):
        row = cumulative[request] + place
        if row < cumulative[request + 1]:
            forbidden = ~_unpack(masks[mask], vocab_size)
            logits[int(row), : len(forbidden)].numpy()[forbidden] = -np.inf


def _unpack(words: np.ndarray, count: int) -> np.ndarray:
    """Return the first `count` bits bool[count] of int32 words, lowest bit first."""
    bits = np.unpackbits(words.astype("<i4", copy=False).view(np.uint8), count=count, bitorder="little")
    return bits.astype(bool)


REPLACEMENTS: dict[str, Callable[..., object]] = {
    _SAMPLE + "penalties._penalties_kernel": penalties,
    _SAMPLE + "penalties._bincount_kernel": bincount,
    _SAMPLE + "logit_bias._bias_kernel": bias,
    _SAMPLE + "min_p._min_p_kernel": min_p,
    _TOP_K_TOP_P: apply_top_k_top_p,
    _GRAMMAR: apply_grammar_bitmask,
}
