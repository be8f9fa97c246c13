"""The forwards that are timed at start on SGLang: every one fits the pool of request slots."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

pytest.importorskip("sglang")

from nemotron_diffusion_plugin.auto.measured import measure, row_counts
from nemotron_diffusion_plugin.core import Blocks
from nemotron_diffusion_plugin.serving.operators import TorchOperators
from nemotron_diffusion_plugin.serving.slots import SlotTable
from nemotron_diffusion_plugin.settings import ServerSettings
from nemotron_diffusion_plugin.sglang.worker.timing import SlotTimer
from tests.serving.toy import ToyOutput

pytestmark = pytest.mark.engine

BLOCK, VOCAB, MASK = 8, 11, 3


class Forward:
    """Keeps the widths and the kind of every forward."""

    dtype = torch.float32

    def __init__(self, requests: int, max_tokens: int) -> None:
        # SGLang's pool has one slot more than requests may run at once.
        self.table = SlotTable(ServerSettings.read(BLOCK, {}), requests + 1, MASK, torch.device("cpu"))
        self.max_tokens = max_tokens
        self.widths: list[list[int]] = []
        self.has_lora_rows: list[bool] = []

    def prepare(self, blocks: Blocks, causal: bool) -> Any:
        assert blocks.index.tolist() == list(range(len(blocks.lengths)))
        assert not blocks.starts.any()
        assert not blocks.start_bounds.any()
        self.widths.append(blocks.lengths.tolist())
        return SimpleNamespace(causal=causal, num_tokens=int(blocks.lengths.sum()))

    def run(self, blocks: Any, tokens: torch.Tensor, lora_rows: torch.Tensor | None) -> ToyOutput:
        assert len(tokens) == sum(self.widths[-1])
        self.has_lora_rows.append(lora_rows is not None)
        assert not (blocks.causal and self.has_lora_rows[-1]), "verifying is without the LoRA"
        return ToyOutput(torch.zeros(len(tokens), VOCAB))


def timer_of(forward: Any, has_lora: bool = True) -> SlotTimer:
    return SlotTimer(forward, forward.table, TorchOperators(), len(forward.table.mode) - 1, has_lora)


@pytest.mark.parametrize("has_graphs", [False, True])
@pytest.mark.parametrize("max_tokens", [20, 10_000])
def test_no_forward_has_more_requests_than_may_run(has_graphs: bool, max_tokens: int) -> None:
    for requests in range(1, 41):
        forward: Any = Forward(requests, max_tokens)
        timer = timer_of(forward)
        assert timer.num_slots == requests
        assert timer.most_rows == min(max_tokens, requests * BLOCK)
        measure(
            timer.run,
            BLOCK,
            timer.most_rows,
            0.0,
            has_graphs=has_graphs,
            singles=timer.num_slots,
            clock=lambda: 0.0,
        )
        assert max(map(len, forward.widths)) <= requests
        largest = max(row_counts(BLOCK, timer.most_rows))
        assert max(map(sum, forward.widths)) == largest <= max(timer.most_rows, BLOCK)


def test_forwards_are_of_single_tokens_of_a_part_or_of_whole_blocks() -> None:
    forward: Any = Forward(3, 1000)
    timer = timer_of(forward)
    for rows, bidirectional in ((2, False), (6, False), (6, True), (8, False), (24, True)):
        timer.run(rows, bidirectional)
    assert forward.widths == [[1, 1], [6], [6], [8], [8, 8, 8]]
    assert forward.has_lora_rows == [False, False, True, False, True]
    without: Any = Forward(3, 1000)
    timer_of(without, has_lora=False).run(8, True)
    assert without.has_lora_rows == [False]
