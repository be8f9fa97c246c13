"""The kernels around each forward leave the same bits as the interpreted ones."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.engines.vllm.kernels.support import SLOTS, VOCAB, Batch, assert_same

INPUTS = "vllm.v1.worker.gpu.input_batch."


def test_prepare_prefill_inputs(monkeypatch: pytest.MonkeyPatch, batch: Batch) -> None:
    from vllm.v1.worker.gpu.input_batch import prepare_prefill_inputs

    ids, lookahead = np.full(batch.rows + 5, -7, np.int32), np.full((3, SLOTS), -7, np.int32)
    arguments = (ids, lookahead, batch.slots, batch.query_start, batch.tokens, batch.prefill, batch.computed)
    assert_same(monkeypatch, INPUTS + "_prepare_prefill_inputs_kernel", prepare_prefill_inputs, *arguments)


def test_prepare_pos_seq_lens(monkeypatch: pytest.MonkeyPatch, batch: Batch) -> None:
    from vllm.v1.worker.gpu.input_batch import prepare_pos_seq_lens

    positions, lengths = np.full(batch.rows + 5, -7, np.int64), np.full(SLOTS, -7, np.int32)
    arguments = (batch.slots, batch.query_start, batch.computed, positions, lengths)
    assert_same(monkeypatch, INPUTS + "_prepare_pos_seq_lens_kernel", prepare_pos_seq_lens, *arguments)


@pytest.mark.parametrize("new_tokens", [0, 1])
def test_combine_sampled_and_draft_tokens(
    monkeypatch: pytest.MonkeyPatch, batch: Batch, new_tokens: int
) -> None:
    from vllm.v1.worker.gpu.input_batch import combine_sampled_and_draft_tokens

    ids = batch.random.integers(0, VOCAB, batch.rows).astype(np.int32)
    last = batch.random.integers(0, VOCAB, (SLOTS, 1))
    arguments = (ids, batch.slots, last, batch.query_start, batch.lengths, batch.prefill, batch.drafts)
    name = INPUTS + "_combine_sampled_and_draft_tokens_kernel"
    more = (batch.cumulative, batch.num_logits, new_tokens)
    assert_same(monkeypatch, name, combine_sampled_and_draft_tokens, *arguments, *more)


def test_get_num_sampled_and_rejected(monkeypatch: pytest.MonkeyPatch, batch: Batch) -> None:
    from vllm.v1.worker.gpu.input_batch import get_num_sampled_and_rejected

    _, counts = batch.sampled()
    arguments = (counts, batch.lengths, batch.cumulative, batch.slots, batch.prefill)
    name = INPUTS + "_get_num_sampled_and_rejected_kernel"
    assert_same(monkeypatch, name, get_num_sampled_and_rejected, *arguments)


@pytest.mark.parametrize("with_counts", [False, True])
@pytest.mark.parametrize("with_queries", [False, True])
def test_post_update(
    monkeypatch: pytest.MonkeyPatch, batch: Batch, with_counts: bool, with_queries: bool
) -> None:
    from vllm.v1.worker.gpu.input_batch import post_update

    tokens, counts = batch.sampled()
    rejected = torch.from_numpy(np.diff(batch.cumulative)) - counts
    slots = batch.slots.copy()
    slots[0] = -1 if len(slots) > 2 else slots[0]
    bins = batch.random.integers(0, 5, (SLOTS, VOCAB)).astype(np.int32) if with_counts else None
    queries = batch.query_start if with_queries else None
    last, total = (
        batch.random.integers(0, VOCAB, (SLOTS, 1)),
        batch.random.integers(1, 80, SLOTS).astype(np.int32),
    )
    arguments = (slots, batch.computed, last, bins, tokens, counts, rejected, queries, batch.tokens, total)
    assert_same(monkeypatch, INPUTS + "_post_update_kernel", post_update, *arguments)


def test_post_update_num_computed_tokens(monkeypatch: pytest.MonkeyPatch, batch: Batch) -> None:
    from vllm.v1.worker.gpu.input_batch import post_update_num_computed_tokens

    name = INPUTS + "_post_update_num_computed_tokens_kernel"
    arguments = (batch.slots, batch.computed, batch.query_start)
    assert_same(monkeypatch, name, post_update_num_computed_tokens, *arguments)


def test_expand_idx_mapping(monkeypatch: pytest.MonkeyPatch, batch: Batch) -> None:
    from vllm.v1.worker.gpu.input_batch import expand_idx_mapping

    arguments = (batch.slots, batch.num_logits, batch.cumulative, 8)
    assert_same(monkeypatch, INPUTS + "_expand_idx_mapping_kernel", expand_idx_mapping, *arguments)
