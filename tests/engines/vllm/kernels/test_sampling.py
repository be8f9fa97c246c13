"""Sampling and everything that changes logits equal the interpreted kernels bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.engines.vllm.kernels.support import SLOTS, VOCAB, Batch, assert_same, kernels

GUMBEL = "vllm.v1.worker.gpu.sample.gumbel."


def test_temperature(monkeypatch: pytest.MonkeyPatch, batch: Batch) -> None:
    from vllm.v1.worker.gpu.sample.gumbel import apply_temperature

    arguments = (batch.logits(), batch.expanded_slots, batch.temperature)
    assert_same(monkeypatch, GUMBEL + "_temperature_kernel", apply_temperature, *arguments)


@pytest.mark.parametrize("apply_temperature", [False, True])
@pytest.mark.parametrize("is_drafting", [False, True])
@pytest.mark.parametrize("use_fp64", [False, True])
def test_gumbel_sample(
    monkeypatch: pytest.MonkeyPatch, batch: Batch, apply_temperature: bool, is_drafting: bool, use_fp64: bool
) -> None:
    from vllm.v1.worker.gpu.sample.gumbel import gumbel_sample

    logits, slots = batch.logits(), batch.expanded_slots.copy()
    slots[-1] = -1
    arguments = (
        logits,
        slots,
        batch.temperature,
        batch.seeds,
        batch.positions,
        apply_temperature,
        is_drafting,
    )
    name = GUMBEL + "_gumbel_sample_kernel"
    assert_same(monkeypatch, name, gumbel_sample, *arguments, use_fp64=use_fp64)


def test_penalties(monkeypatch: pytest.MonkeyPatch, batch: Batch) -> None:
    from vllm.v1.worker.gpu.sample.penalties import apply_penalties

    random = batch.random
    tokens = random.integers(0, VOCAB, batch.num_logits).astype(np.int32)
    tokens[random.random(len(tokens)) < 0.2] = -1
    penalties = [random.choice([0.0, 0.4, -0.3], SLOTS).astype(np.float32) for _ in range(2)]
    repetition = random.choice([1.0, 1.3, 0.8], SLOTS).astype(np.float32)
    prompt = random.integers(-(2**31), 2**31, (SLOTS, -(-VOCAB // 32))).astype(np.int32)
    counts = random.integers(0, 3, (SLOTS, VOCAB)).astype(np.int32)
    arguments = (
        batch.logits(),
        batch.expanded_slots,
        tokens,
        batch.local,
        repetition,
        *penalties,
        prompt,
        counts,
    )
    name = "vllm.v1.worker.gpu.sample.penalties._penalties_kernel"
    assert_same(monkeypatch, name, apply_penalties, *arguments)


def test_bincount(monkeypatch: pytest.MonkeyPatch, batch: Batch) -> None:
    from vllm.v1.worker.gpu.sample.penalties import bincount

    random = batch.random
    prompts = random.integers(1, 40, SLOTS).astype(np.int32)
    prefills = (prompts + random.integers(0, 30, SLOTS)).astype(np.int32)
    prompts[:2] = prefills[:2]
    mask = random.integers(-(2**31), 2**31, (SLOTS, -(-VOCAB // 32))).astype(np.int32)
    counts = random.integers(0, 3, (SLOTS, VOCAB)).astype(np.int32)
    arguments = (batch.slots, batch.tokens, prompts, prefills, mask, counts, int(prefills.max()))
    assert_same(monkeypatch, "vllm.v1.worker.gpu.sample.penalties._bincount_kernel", bincount, *arguments)


@pytest.mark.parametrize("check_all_masked", [False, True])
def test_bias(monkeypatch: pytest.MonkeyPatch, batch: Batch, check_all_masked: bool) -> None:
    from vllm.v1.worker.gpu.sample.logit_bias import apply_logit_bias

    random = batch.random

    def ids() -> np.ndarray:
        return np.stack([random.permutation(VOCAB)[:8] for _ in range(SLOTS)]).astype(np.int32)

    def counts() -> np.ndarray:
        return random.choice([0, 0, 1, 5, 8], SLOTS).astype(np.int32)

    allowed, num_allowed = ids(), counts()
    stops, num_stops = ids(), counts()
    stops[::2], num_stops[::2] = allowed[::2], num_allowed[::2]
    biases = random.normal(0, 5, (SLOTS, 8)).astype(np.float32)
    shortest = random.integers(0, 2**20, SLOTS).astype(np.int32)
    restore = random.random(SLOTS) < 0.7
    arguments = (
        *(batch.logits(), batch.expanded_slots, batch.positions, num_allowed, allowed),
        *(counts(), ids(), biases, shortest, num_stops, restore, stops, check_all_masked),
    )
    name = "vllm.v1.worker.gpu.sample.logit_bias._bias_kernel"
    assert_same(monkeypatch, name, apply_logit_bias, *arguments)


def test_min_p(monkeypatch: pytest.MonkeyPatch, batch: Batch) -> None:
    from vllm.v1.worker.gpu.sample.min_p import apply_min_p

    values = batch.random.choice([0.0, 0.01, 0.5], SLOTS).astype(np.float32)
    arguments = (batch.logits(), batch.expanded_slots, values)
    assert_same(monkeypatch, "vllm.v1.worker.gpu.sample.min_p._min_p_kernel", apply_min_p, *arguments)


def test_grammar_bitmask(batch: Batch) -> None:
    requests, stride = len(batch.slots), 8
    mapping = np.array([r * stride + p for r in range(requests) for p in range(3)], np.int32)
    masks = batch.random.integers(-(2**31), 2**31, (len(mapping), -(-VOCAB // 32))).astype(np.int32)
    logits = batch.logits()
    outcomes = []
    for kernel in kernels("vllm.v1.worker.gpu.structured_outputs._apply_grammar_bitmask_kernel"):
        outcome = logits.clone()
        kernel[(len(mapping), 1)](
            *(outcome, VOCAB, torch.from_numpy(mapping), torch.from_numpy(batch.cumulative)),
            *(torch.from_numpy(masks), masks.shape[1], VOCAB),
            MASK_STRIDE=stride,
            BLOCK_SIZE=2048,
        )
        outcomes.append(outcome)
    assert torch.equal(*outcomes)


def test_top_k_top_p_is_vllms_own_for_a_cpu(batch: Batch) -> None:
    from triton_on_cpu.kernels.logits import apply_top_k_top_p

    logits = torch.from_numpy(batch.random.normal(0, 3, (5, VOCAB)).astype(np.float32))
    kept = torch.isfinite(apply_top_k_top_p(logits.clone(), torch.tensor([1, 2, 7, VOCAB, 3]), None)).sum(1)
    assert kept.tolist() == [1, 2, 7, VOCAB, 3]
    nucleus = apply_top_k_top_p(logits.clone(), None, torch.full((5,), 0.5)).softmax(1)
    likely = torch.where(nucleus > 0, logits.softmax(1), 0)
    assert (likely.sum(1) >= 0.5 - 1e-5).all()
    assert (likely.sum(1) - torch.where(likely > 0, likely, 2).amin(1) < 0.5 + 1e-5).all()
    with pytest.raises(ValueError, match="mask_value"):
        apply_top_k_top_p(logits, None, None, mask_value=0.0)


@pytest.mark.parametrize("count", [0, 5])
def test_logprobs_and_ranks(monkeypatch: pytest.MonkeyPatch, batch: Batch, count: int) -> None:
    from vllm.v1.worker.gpu.sample.logprob import compute_topk_scores

    def scores(logits: torch.Tensor, tokens: torch.Tensor) -> tuple[torch.Tensor, ...]:
        result = compute_topk_scores(logits, count, tokens)
        return result.logprobs, result.selected_token_ranks

    arguments = (batch.logits(), batch.random.integers(0, VOCAB, batch.num_logits))
    for name in ("_topk_log_softmax_kernel", "_ranks_kernel"):
        assert_same(monkeypatch, "vllm.v1.worker.gpu.sample.logprob." + name, scores, *arguments)
