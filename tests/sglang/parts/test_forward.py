"""How blocks become SGLang's forward batches."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("sglang")

from sglang.srt.model_executor.forward_batch_info import CaptureHiddenMode, ForwardMode

from nemotron_diffusion_plugin.core import Blocks
from nemotron_diffusion_plugin.serving.picking import LOGITS_AT_ONCE
from nemotron_diffusion_plugin.sglang.spec_inputs import BlockPass
from nemotron_diffusion_plugin.sglang.worker.forward import RAGGED_BACKENDS, BlockForward, PreparedRows

pytestmark = pytest.mark.engine

SLOTS, ROW, VOCAB = 4, 32, 50
STARTS = np.array([5, 9, 12, 20])
RAGGED, UNIFORM = "cpu_ref", "triton"


class Worker:
    """SGLang's worker: it returns each row's token id as its logits, and keeps what it was given."""

    def __init__(self, vocab_size: int = VOCAB) -> None:
        self.device = "cpu"
        self.bound: list[Any] = []
        self.calls: list[dict[str, Any]] = []
        # Slot s keeps the KV of position p at 1000 * s + p.
        pool = torch.arange(SLOTS, dtype=torch.int32)[:, None] * 1000 + torch.arange(ROW, dtype=torch.int32)
        self.model_runner = SimpleNamespace(
            dtype=torch.bfloat16,
            model_config=SimpleNamespace(vocab_size=vocab_size),
            req_to_token_pool=SimpleNamespace(req_to_token=pool),
            spec_algorithm="ours",
            kv_index_translator=SimpleNamespace(bind_own_plan=self.bound.append),
        )

    def forward_batch_generation(self, **keywords: Any) -> Any:
        self.calls.append(keywords)
        ids = keywords["forward_batch"].input_ids
        logits = torch.nn.functional.one_hot(ids, VOCAB).float()
        is_full = keywords["forward_batch"].capture_hidden_mode is CaptureHiddenMode.FULL
        output = SimpleNamespace(next_token_logits=logits, hidden_states=ids[:, None] if is_full else None)
        return SimpleNamespace(logits_output=output)


def make(backend: str = RAGGED, vocab_size: int = VOCAB) -> tuple[BlockForward, Worker]:
    worker = Worker(vocab_size)
    return BlockForward(worker, 8, backend), worker


def prepare(forward: BlockForward, slots: list[int], widths: list[int], causal: bool) -> PreparedRows:
    starts, lengths = STARTS[slots], np.array(widths)
    index = torch.tensor(slots)
    blocks = Blocks(index, torch.from_numpy(starts), starts, lengths, torch.from_numpy(lengths))
    return forward.prepare(blocks, causal)


class TestChunks:
    @staticmethod
    def split(backend: str, widths: list[int], max_tokens: int = 1000) -> list[list[int]]:
        forward, _ = make(backend)
        forward.max_tokens = max_tokens
        return [widths[part] for part in forward.chunks(np.array(widths))]

    @pytest.mark.parametrize("backend", sorted(RAGGED_BACKENDS))
    def test_ragged_backends_take_any_widths(self, backend: str) -> None:
        assert self.split(backend, [8, 1, 4, 8]) == [[8, 1, 4, 8]]

    @pytest.mark.parametrize("backend", ["triton", "torch_native", "flashinfer"])
    def test_others_take_one_width_at_a_time(self, backend: str) -> None:
        assert self.split(backend, [8, 8, 1, 4, 4, 8]) == [[8, 8], [1], [4, 4], [8]]

    @pytest.mark.parametrize("backend", [RAGGED, UNIFORM])
    @pytest.mark.parametrize(
        ("widths", "expected"),
        [
            ([4, 4, 4], [[4, 4], [4]]),
            ([4, 4], [[4, 4]]),
            ([4, 4, 4, 4], [[4, 4], [4, 4]]),
            ([8, 8], [[8], [8]]),
            ([9, 9], [[9], [9]]),  # a block is never cut
            ([], []),
            ([3], [[3]]),
        ],
    )
    def test_a_bounded_number_of_logits(
        self, widths: list[int], expected: list[list[int]], backend: str
    ) -> None:
        assert self.split(backend, widths, max_tokens=8) == expected

    @pytest.mark.parametrize(
        ("vocab", "expected"), [(131072, LOGITS_AT_ONCE // 131072), (2 * LOGITS_AT_ONCE, 1)]
    )
    def test_the_bound_is_that_of_the_vocabulary(self, vocab: int, expected: int) -> None:
        assert make(vocab_size=vocab)[0].max_tokens == expected


class TestPrepare:
    def test_rows(self) -> None:
        forward, _ = make()
        blocks = prepare(forward, [2, 0], [3, 2], causal=False)
        assert blocks.offsets.tolist() == [0, 3, 5]
        assert blocks.num_tokens == 5
        assert blocks.owner.tolist() == [0, 0, 0, 1, 1]
        assert blocks.local.tolist() == [0, 1, 2, 0, 1]
        assert blocks.positions.tolist() == [12, 13, 14, 5, 6]
        assert blocks.cache_locations.tolist() == [2012, 2013, 2014, 5, 6]
        assert blocks.cache_locations.dtype == torch.int64
        assert blocks.blocks.lengths.tolist() == [3, 2]
        assert blocks.blocks.start_bounds.tolist() == blocks.blocks.starts.tolist() == [12, 5]
        assert blocks.blocks.index.tolist() == [2, 0]

    def test_ragged_layout(self) -> None:
        layout: Any = prepare(make()[0], [2, 0, 3], [3, 1, 2], causal=True).layout
        assert layout.verify_lens.tolist() == layout.verify_lens_cpu == [3, 1, 2]
        assert layout.extend_start_loc.tolist() == [0, 3, 4]
        assert layout.qo_indptr_device.tolist() == [0, 3, 4, 6]
        assert layout.total_verify_tokens == layout.graph_num_tokens == 6
        for values in (layout.verify_lens, layout.extend_start_loc, layout.qo_indptr_device):
            assert values.dtype == torch.int32

    @pytest.mark.parametrize(
        ("backend", "widths", "needs_one"),
        [
            (RAGGED, [8, 8], False),  # the server's own width
            (RAGGED, [3, 3], True),
            (RAGGED, [8, 3], True),
            (UNIFORM, [8, 8], False),
            (UNIFORM, [3, 3], False),
        ],
    )
    def test_who_needs_one(self, backend: str, widths: list[int], needs_one: bool) -> None:
        assert (prepare(make(backend)[0], [0, 2], widths, causal=True).layout is not None) is needs_one

    @pytest.mark.parametrize(
        ("widths", "causal", "expected"),
        [([1, 1], True, True), ([1, 1], False, False), ([1, 2], True, False), ([2, 2], True, False)],
    )
    def test_decode_rows(self, widths: list[int], causal: bool, expected: bool) -> None:
        assert prepare(make()[0], [0, 2], widths, causal).is_decode is expected


class TestForwardBatch:
    @pytest.mark.parametrize("causal", [True, False])
    def test_blocks(self, causal: bool) -> None:
        forward, worker = make()
        blocks = prepare(forward, [2, 0], [3, 2], causal)
        ids, lora = torch.arange(5), torch.ones(5, 1)
        batch = forward.forward_batch(blocks, ids, lora)
        assert batch.forward_mode is ForwardMode.TARGET_VERIFY
        assert batch.batch_size == 2
        assert batch.input_ids is ids
        assert batch.positions is blocks.positions
        assert batch.out_cache_loc is blocks.cache_locations
        assert batch.req_pool_indices.tolist() == [2, 0]
        assert batch.seq_lens.tolist() == batch.seq_lens_cpu.tolist() == [12, 5]
        assert batch.seq_lens_sum == 17
        assert batch.spec_algorithm == "ours"
        assert batch.capture_hidden_mode is CaptureHiddenMode.NULL
        assert worker.bound == [batch]
        info = batch.spec_info
        assert isinstance(info, BlockPass)
        assert info.bidirectional is not causal
        assert info.draft_token_num == info.num_tokens_per_req == 3
        assert info.positions is blocks.positions
        assert info.lora_rows is lora
        assert info.ragged_verify_layout is blocks.layout is not None

    def test_decode(self) -> None:
        """A decode step counts its own token as part of the sequence."""
        forward, _ = make()
        blocks = prepare(forward, [2, 0], [1, 1], causal=True)
        batch = forward.forward_batch(blocks, torch.tensor([7, 8]))
        assert batch.forward_mode is ForwardMode.DECODE
        assert batch.spec_info is None
        assert batch.seq_lens.tolist() == batch.seq_lens_cpu.tolist() == [13, 6]
        assert batch.seq_lens_sum == 19
        assert batch.positions.tolist() == [12, 5]
        assert batch.out_cache_loc.tolist() == [2012, 5]

    def test_a_draft_of_one_token_is_no_decode_step(self) -> None:
        forward, _ = make()
        batch = forward.forward_batch(prepare(forward, [2], [1], causal=False), torch.tensor([7]))
        assert batch.forward_mode is ForwardMode.TARGET_VERIFY
        assert batch.seq_lens.tolist() == [12]


def test_run() -> None:
    forward, worker = make()
    blocks = prepare(forward, [1, 3], [2, 2], causal=False)
    for count in (1, 2):
        output = forward.run(blocks, torch.tensor([4, 5, 6, 7]), hidden=count == 2)
        assert output.logits(slice(0, 4)).argmax(dim=1).tolist() == [4, 5, 6, 7]
        assert output.logits(slice(1, 3)).argmax(dim=1).tolist() == [5, 6]
        assert (output.hidden is not None) is (count == 2)
        assert forward.count == count
    [first, second] = worker.calls
    assert second["forward_batch"].spec_info.capture_hidden_mode is CaptureHiddenMode.FULL
    assert first["batch"] is None
    assert first["is_verify"] is True
    assert (forward.dtype, forward.vocab_size) == (torch.bfloat16, VOCAB)
