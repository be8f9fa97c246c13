"""The kernels of vLLM's own speculators leave the same bits as the interpreted ones."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tests.engines.vllm.kernels.support import LENGTH, SLOTS, VOCAB, Batch, assert_same, kernels

EAGLE = "vllm.v1.worker.gpu.spec_decode.target_dependent_ar.speculator."
NGRAM = "vllm.v1.worker.gpu.spec_decode.ngram.speculator."


def filled(*shape: int, dtype: type = np.int32) -> np.ndarray:
    return np.full(shape, -7, dtype)


def rejected(batch: Batch) -> tuple[np.ndarray, np.ndarray]:
    """How many tokens each request sampled, 0 inside its prompt, and how many drafts it rejected."""
    logits = np.diff(batch.cumulative)
    in_prompt = batch.lengths[: len(batch.slots)] < batch.prefill[batch.slots]
    sampled = np.where(in_prompt, 0, batch.random.integers(1, logits + 1))
    return sampled.astype(np.int32), np.where(in_prompt, 0, logits - sampled).astype(np.int32)


def test_prepare_prefill_inputs(monkeypatch: pytest.MonkeyPatch, batch: Batch) -> None:
    from vllm.v1.worker.gpu.spec_decode.target_dependent_ar.speculator import prepare_prefill_inputs

    sampled, dropped = rejected(batch)
    ids = batch.random.integers(0, VOCAB, batch.rows).astype(np.int32)
    positions = batch.random.integers(0, LENGTH, batch.rows)
    last = batch.random.integers(0, VOCAB, (SLOTS, 1))
    following = batch.random.integers(0, VOCAB, SLOTS).astype(np.int32)

    def call(step: torch.Tensor, *written: torch.Tensor) -> tuple[torch.Tensor, ...]:
        buffers = dict(
            zip(("input_ids", "positions", "query_start_loc", "seq_lens"), written[1:], strict=True)
        )
        given = {
            "input_ids": ids,
            "positions": positions,
            "idx_mapping": batch.slots,
            "query_start_loc": batch.query_start,
            "seq_lens": batch.lengths,
        }
        target = SimpleNamespace(
            num_reqs=len(batch.slots), **{name: torch.from_numpy(value) for name, value in given.items()}
        )
        rest = (torch.from_numpy(value) for value in (sampled, dropped, last, following))
        prepare_prefill_inputs(written[0], step, SimpleNamespace(**buffers), target, *rest, SLOTS)
        return (step, *written)

    arguments = (
        np.array(5),
        filled(SLOTS, dtype=np.int64),
        filled(batch.rows),
        filled(batch.rows, dtype=np.int64),
    )
    name = EAGLE + "_prepare_prefill_inputs_kernel"
    assert_same(monkeypatch, name, call, *arguments, filled(SLOTS + 1), filled(SLOTS))


@pytest.mark.parametrize("advance", [True, False])
def test_prepare_decode_inputs(monkeypatch: pytest.MonkeyPatch, batch: Batch, advance: bool) -> None:
    from vllm.v1.worker.gpu.spec_decode.target_dependent_ar.speculator import prepare_decode_inputs

    rows = len(batch.slots)
    drafts = batch.random.integers(0, VOCAB, rows)
    positions = batch.random.integers(0, LENGTH, SLOTS)

    def call(*written: torch.Tensor) -> tuple[torch.Tensor, ...]:
        names = ("input_ids", "positions", "query_start_loc", "seq_lens")
        buffers = SimpleNamespace(**dict(zip(names, written[:4], strict=True)))
        given = (torch.from_numpy(value) for value in (drafts, batch.lengths, rejected_drafts))
        prepare_decode_inputs(*given, buffers, written[4], LENGTH - 20, SLOTS, advance)
        return written

    _, rejected_drafts = rejected(batch)
    arguments = (filled(SLOTS), positions, filled(SLOTS + 1), filled(SLOTS), positions + 3)
    assert_same(monkeypatch, EAGLE + "_prepare_decode_inputs_kernel", call, *arguments)


@pytest.mark.parametrize(("step", "advance"), [(0, True), (1, False), (3, True)])
def test_update_draft_inputs(monkeypatch: pytest.MonkeyPatch, batch: Batch, step: int, advance: bool) -> None:
    from vllm.v1.worker.gpu.spec_decode.target_dependent_ar.speculator import update_draft_inputs

    rows = len(batch.slots)
    drafts = batch.random.integers(0, VOCAB, rows)
    hidden = batch.random.normal(size=(rows, 24)).astype(np.float32)

    def call(*written: torch.Tensor) -> tuple[torch.Tensor, ...]:
        buffers = SimpleNamespace(input_ids=written[0], positions=written[1], seq_lens=written[2])
        update_draft_inputs(
            torch.from_numpy(drafts),
            torch.tensor(step),
            torch.from_numpy(hidden),
            *written[3:5],
            buffers,
            written[5],
            rows,
            LENGTH - 20,
            4,
            advance,
        )
        return written

    positions = batch.random.integers(0, LENGTH, SLOTS)
    outputs = (filled(SLOTS, 4, dtype=np.int64), filled(SLOTS, 24, dtype=np.float32), positions + 3)
    assert_same(
        monkeypatch,
        EAGLE + "_update_draft_inputs_kernel",
        call,
        filled(SLOTS),
        positions,
        batch.lengths,
        *outputs,
    )


@pytest.mark.parametrize(("shortest", "longest", "count"), [(1, 1, 1), (2, 4, 5), (3, 3, 8)])
def test_ngram_drafts(batch: Batch, shortest: int, longest: int, count: int) -> None:
    tokens = batch.random.integers(0, 3, (SLOTS, LENGTH)).astype(np.int32)
    lengths = batch.random.integers(1, LENGTH, SLOTS).astype(np.int32)
    sampled = batch.random.integers(0, 3, len(batch.slots)).astype(np.int32)
    last = tokens[np.arange(SLOTS), lengths - 1].astype(np.int64)
    text, slots, total, new = (torch.from_numpy(value) for value in (tokens, batch.slots, lengths, sampled))
    block, blocks = 16, LENGTH // 16
    outcomes = []
    for scan, finish in zip(
        kernels(NGRAM + "_ngram_scan_kernel"), kernels(NGRAM + "_ngram_finalize_kernel"), strict=True
    ):
        scratch = torch.full((SLOTS, blocks), -7)
        drafts = torch.full((SLOTS, count), -7)
        shared = (text, text.stride(0), slots, total, new)
        rows = len(batch.slots)
        scan[(rows, blocks)](*shared, scratch, blocks, LENGTH, shortest, longest, 4, block)
        sizes = (LENGTH, blocks, count, 8, 8)
        finish[(rows,)](*shared, torch.from_numpy(last), scratch, blocks, drafts, *sizes)
        outcomes.append((scratch, drafts))
    for interpreted, replaced in zip(*outcomes, strict=True):
        np.testing.assert_array_equal(interpreted.numpy(), replaced.numpy())
    assert bool((outcomes[0][0] > 0).any())
