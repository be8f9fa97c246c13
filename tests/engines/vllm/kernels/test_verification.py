"""The rejection sampler's kernels and random numbers equal the interpreted ones bit for bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from tests.engines.vllm.kernels.support import VOCAB, Batch, assert_same, kernels

SAMPLER = "vllm.v1.worker.gpu.spec_decode.rejection_sampler."
UTILS = "vllm.v1.worker.gpu.spec_decode.rejection_sampler_utils."


def test_gather_draft_sampled(monkeypatch: pytest.MonkeyPatch, batch: Batch) -> None:
    from vllm.v1.worker.gpu.spec_decode.rejection_sampler import gather_draft_sampled

    ids = batch.random.integers(0, VOCAB, batch.rows).astype(np.int32)
    positions = batch.random.integers(0, 60, batch.rows)
    rows = batch.random.integers(0, batch.rows, batch.num_logits)
    arguments = (ids, positions, rows, batch.expanded_slots, batch.local, batch.prefill)
    assert_same(monkeypatch, SAMPLER + "_gather_draft_sampled_kernel", gather_draft_sampled, *arguments)


def test_flatten_sampled(batch: Batch) -> None:
    tokens, counts = batch.sampled()
    outcomes = []
    for kernel in kernels(SAMPLER + "_flatten_sampled_kernel"):
        flat = torch.full((batch.num_logits,), -7)
        kernel[(len(batch.slots),)](
            flat, tokens, tokens.stride(0), counts, torch.from_numpy(batch.cumulative)
        )
        outcomes.append(flat)
    assert torch.equal(*outcomes)


REJECTION = [
    "_compute_local_logits_stats_kernel",
    "_rejection_kernel",
    "_resample_kernel",
    "_insert_resampled_kernel",
]


@pytest.mark.parametrize("name", REJECTION)
def test_rejection_sample(monkeypatch: pytest.MonkeyPatch, batch: Batch, name: str) -> None:
    """Acceptance of all, some and no drafts, placeholders (-1), greedy and sampling rows in one batch."""
    from vllm.v1.worker.gpu.spec_decode.rejection_sampler_utils import rejection_sample

    logits = batch.logits()
    proposed = logits.argmax(1).roll(1)
    wrong = batch.random.random(batch.num_logits)
    proposed[wrong < 0.15] = 7
    proposed[wrong > 0.95] = -1

    def accepted(*arguments: Any) -> tuple[torch.Tensor, torch.Tensor]:
        tokens, counts = rejection_sample(*arguments)
        written = torch.arange(tokens.shape[1]) < counts[:, None]
        return tokens.masked_fill(~written, -7), counts

    arguments = (
        *(logits, None, proposed, batch.cumulative, batch.positions, batch.slots),
        *(batch.expanded_slots, batch.local, batch.temperature, batch.seeds, 7),
    )
    assert_same(monkeypatch, UTILS + name, accepted, *arguments)


def test_random_numbers_are_tritons() -> None:
    import triton
    import triton.language as tl
    from triton_on_cpu.kernels.noise import philox_uniform

    @triton.jit
    def draw(out, seed, positions, SIZE: tl.constexpr):  # type: ignore[no-untyped-def]
        block = tl.arange(0, SIZE)
        tl.store(out + block, tl.maximum(tl.rand(seed, tl.load(positions + block)), 4.6566127342e-10))

    positions = torch.from_numpy(np.random.default_rng(0).integers(0, 2**40, 64))
    for seed in (0, 1, -1, 2**40 + 3, -(2**50)):
        out = torch.empty(64)
        draw[(1,)](out, seed, positions, SIZE=64)
        np.testing.assert_array_equal(out.numpy(), philox_uniform(seed, positions.numpy()))
