"""Every replacement leaves the same bits as the interpreted kernel, on random inputs."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

pytestmark = [
    pytest.mark.engine,
    pytest.mark.skipif(
        os.environ.get("TRITON_INTERPRET") != "1", reason="needs the interpreter: make test-engine"
    ),
]

SLOTS = 9
VOCAB = 1300
LENGTH = 96
SEEDS = range(3)


class Batch:
    """A random batch: some requests in their prompt, some decoding with 0 to 7 drafts."""

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        requests = int(self.random.integers(1, SLOTS))
        self.slots = self.random.permutation(SLOTS)[:requests].astype(np.int32)
        self.prefill = self.random.integers(4, 40, SLOTS).astype(np.int32)
        self.computed = np.empty(SLOTS, np.int32)
        queries, logits = [], []
        for slot in range(SLOTS):
            if self.random.random() < 0.4:
                self.computed[slot] = self.random.integers(0, self.prefill[slot])
            else:
                self.computed[slot] = self.random.integers(self.prefill[slot], LENGTH - 10)
        for slot in self.slots:
            left = self.prefill[slot] - self.computed[slot]
            drafts = int(self.random.integers(0, 8))
            queries.append(int(self.random.integers(1, left + 1)) if left > 0 else drafts + 1)
            logits.append(1 if left > 0 else drafts + 1)
        self.query_start = np.concatenate([[0], np.cumsum(queries)]).astype(np.int32)
        self.cumulative = np.concatenate([[0], np.cumsum(logits)]).astype(np.int32)
        self.rows = int(self.query_start[-1])
        self.num_logits = int(self.cumulative[-1])
        self.expanded_slots = np.repeat(self.slots, logits)
        self.local = np.concatenate([np.arange(n) for n in logits]).astype(np.int32)
        self.lengths = np.zeros(SLOTS, np.int32)
        self.lengths[:requests] = self.computed[self.slots] + np.array(queries)
        self.tokens = self.random.integers(0, VOCAB, (SLOTS, LENGTH)).astype(np.int32)
        self.drafts = self.random.integers(0, VOCAB, (SLOTS, 8)).astype(np.int64)
        self.temperature = self.random.choice([0.0, 1.0, 0.7, 1.3], SLOTS).astype(np.float32)
        self.seeds = self.random.integers(-(2**62), 2**62, SLOTS)
        self.positions = self.random.integers(0, 2**20, self.num_logits)

    def logits(self, rows: int | None = None) -> torch.Tensor:
        values = self.random.normal(0, 3, (self.num_logits if rows is None else rows, VOCAB)).astype(
            np.float32
        )
        values[self.random.random(values.shape) < 0.01] = -np.inf
        values[:, 1::2][self.random.random((len(values), VOCAB // 2)) < 0.2] = 12.5  # ties
        return torch.from_numpy(values)

    def sampled(self) -> tuple[torch.Tensor, torch.Tensor]:
        counts = np.array([self.random.integers(0, n + 1) for n in np.diff(self.cumulative)], np.int32)
        tokens = self.random.integers(0, VOCAB, (len(self.slots), 8))
        return torch.from_numpy(tokens), torch.from_numpy(counts)


@pytest.fixture(autouse=True)
def interpreter() -> None:
    from triton_on_cpu.masks import accept_integer_masks

    accept_integer_masks()


@pytest.fixture(params=SEEDS)
def batch(request: pytest.FixtureRequest) -> Batch:
    return Batch(request.param)


def kernels(name: str) -> tuple[Any, Any]:
    """Return the interpreted kernel and its replacement, both to be launched as kernel[grid](…)."""
    from triton_on_cpu.kernels import REPLACEMENTS
    from triton_on_cpu.kernels.interpreted import original
    from vllm.triton_utils.dispatcher import KernelOverride

    return original(name), KernelOverride(original(name), REPLACEMENTS[name])


def assert_same(
    monkeypatch: pytest.MonkeyPatch, name: str, call: Callable[..., Any], *arguments: Any, **options: Any
) -> None:
    """Call vLLM's launcher with each kernel on copies of the arguments; everything it wrote must agree."""
    outcomes = []
    module, _, attribute = name.rpartition(".")
    for kernel in kernels(name):
        monkeypatch.setattr(importlib.import_module(module), attribute, kernel)
        copies = [copy(argument) for argument in arguments]
        result = call(*copies, **{key: copy(value) for key, value in options.items()})
        outcomes.append([*tensors(result), *(value for item in copies for value in tensors(item))])
    for interpreted, replaced in zip(*outcomes, strict=True):
        assert interpreted.dtype == replaced.dtype
        np.testing.assert_array_equal(interpreted.numpy(), replaced.numpy())


def copy(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value.copy())
    return value.clone() if isinstance(value, torch.Tensor) else value


def tensors(value: Any) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    return [item for item in value if isinstance(item, torch.Tensor)] if isinstance(value, tuple) else []


INPUTS = "vllm.v1.worker.gpu.input_batch."
TABLES = "vllm.v1.worker.gpu.block_table."


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


class Tables:
    """Block tables of two cache groups at fixed addresses."""

    def __init__(self, random: np.random.Generator) -> None:
        self.block_sizes = torch.tensor([16, 32], dtype=torch.int32)
        widths = (LENGTH // 16 + 1, LENGTH // 32 + 1)
        self.tables = [
            torch.from_numpy(random.integers(0, 1000, (SLOTS, width)).astype(np.int32)) for width in widths
        ]
        self.strides = torch.tensor(widths)
        self.counts = torch.from_numpy(
            np.stack([random.integers(0, width + 1, SLOTS) for width in widths]).astype(np.int32)
        )

    @staticmethod
    def addresses(tables: list[torch.Tensor]) -> torch.Tensor:
        return torch.tensor([table.data_ptr() for table in tables], dtype=torch.uint64)


def test_gather_block_tables(batch: Batch) -> None:
    tables = Tables(batch.random)
    requests = len(batch.slots)
    outcomes = []
    for kernel in kernels(TABLES + "_gather_block_tables_kernel"):
        targets = [torch.full_like(table, -7) for table in tables.tables]
        kernel[(2, requests)](
            *(torch.from_numpy(batch.slots), Tables.addresses(tables.tables), Tables.addresses(targets)),
            *(tables.strides, tables.counts, tables.counts.stride(0), requests),
            BLOCK_SIZE=64,
        )
        outcomes.append(targets)
    for interpreted, replaced in zip(*outcomes, strict=True):
        assert torch.equal(interpreted, replaced)


@pytest.mark.parametrize("dummies", ["none", "one", "all"])
@pytest.mark.parametrize("ranks", [1, 2])
def test_compute_slot_mappings(batch: Batch, dummies: str, ranks: int) -> None:
    tables = Tables(batch.random)
    slots, requests = batch.slots.copy(), len(batch.slots)
    if dummies != "none":
        slots[: 1 if dummies == "one" else None] = -1
    positions = torch.from_numpy(batch.random.integers(0, LENGTH, batch.rows))
    outcomes = []
    for kernel in kernels(TABLES + "_compute_slot_mappings_kernel"):
        mappings = torch.full((2, 300), -7)
        kernel[(2, requests + 1)](
            *(300, torch.from_numpy(slots), torch.from_numpy(batch.query_start), positions),
            *(Tables.addresses(tables.tables), tables.strides, tables.block_sizes),
            *(torch.tensor([True, bool(batch.rows % 2)]), torch.tensor([True, False]), mappings, 300, 0),
            CP_SIZE=ranks,
            CP_INTERLEAVE=1,
            PAD_ID=-1,
            TRITON_BLOCK_SIZE=64,
        )
        outcomes.append(mappings)
    assert torch.equal(*outcomes)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64, torch.float32])
def test_apply_write(batch: Batch, dtype: torch.dtype) -> None:
    lengths = batch.random.integers(1, 9, 12)
    ends = torch.from_numpy(np.cumsum(lengths).astype(np.int32))
    rows = torch.from_numpy(batch.random.integers(0, SLOTS, 12).astype(np.int32))
    starts = torch.from_numpy(batch.random.integers(0, 31, 12).astype(np.int32))
    contents = torch.from_numpy(batch.random.integers(0, 1000, lengths.sum())).to(dtype)
    outcomes = []
    for kernel in kernels("vllm.v1.worker.gpu.buffer_utils._apply_write_kernel"):
        buffer = torch.zeros(SLOTS, 40, dtype=dtype)
        arguments = (buffer, buffer.stride(0), rows, starts, contents, ends, None)
        kernel[(12,)](*arguments, BLOCK_SIZE=16, MULTI_GROUP=False)
        outcomes.append(buffer)
    assert torch.equal(*outcomes)


def test_apply_write_to_several_tables(batch: Batch) -> None:
    outcomes = []
    for kernel in kernels("vllm.v1.worker.gpu.buffer_utils._apply_write_kernel"):
        targets = [torch.zeros(SLOTS, 20, dtype=torch.int32), torch.zeros(SLOTS, 10, dtype=torch.int32)]
        kernel[(3,)](
            *(Tables.addresses(targets), torch.tensor([20, 10])),
            *(torch.tensor([2, 0, 5], dtype=torch.int32), torch.tensor([0, 4, 3], dtype=torch.int32)),
            *(torch.arange(9, dtype=torch.int32), torch.tensor([2, 5, 9], dtype=torch.int32)),
            torch.tensor([0, 1, 0], dtype=torch.int32),
            BLOCK_SIZE=16,
            MULTI_GROUP=True,
        )
        outcomes.append(torch.cat([target.flatten() for target in targets]))
    assert torch.equal(*outcomes)


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


def test_a_case_that_is_not_covered_goes_to_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    from triton_on_cpu.kernels import interpreted

    launches: list[Any] = []

    class Kernel:
        def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
            return lambda *arguments, **options: launches.append((grid, arguments, options))

    @interpreted.covers(
        "a.kernel", lambda arguments, options: options["EASY"], lambda arguments: (arguments[0],)
    )
    def replacement(*arguments: Any, **options: Any) -> None:
        launches.append("replacement")

    monkeypatch.setitem(interpreted._originals, "a.kernel", Kernel())
    replacement(3, EASY=True)
    replacement(3, EASY=False)
    assert launches == ["replacement", ((3,), (3,), {"EASY": False})]


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


def test_all_replacements_are_registered() -> None:
    from triton_on_cpu import register
    from triton_on_cpu.kernels import REPLACEMENTS
    from vllm.triton_utils.dispatcher import KernelOverride

    register()
    register()
    for name in REPLACEMENTS:
        module, _, attribute = name.rpartition(".")
        assert isinstance(getattr(importlib.import_module(module), attribute), KernelOverride), name
