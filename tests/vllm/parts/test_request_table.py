"""State by slot, and the token planned after a position."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("vllm")

from vllm.sampling_params import SamplingParams

from nemotron_diffusion_plugin.serving.settings import ServerSettings
from nemotron_diffusion_plugin.vllm.acceptance import planned_successors
from nemotron_diffusion_plugin.vllm.request_table import BlockPhase, RequestTable

MASK = 100
DIFFUSION = {"decoding_mode": "diffusion"}

pytestmark = pytest.mark.engine


@pytest.fixture
def table() -> RequestTable:
    return RequestTable(ServerSettings.read(8, None), 4, MASK, torch.device("cpu"))


def add(table: RequestTable, slot: int, prompt_len: int = 10, **parameters: Any) -> None:
    table.add(slot, prompt_len, SamplingParams(**{"temperature": 0.0, **parameters}), max_model_len=64)


def test_a_slot_is_taken_over_completely(table: RequestTable) -> None:
    add(
        table,
        2,
        temperature=0.5,
        stop_token_ids=[7, 9],
        min_tokens=4,
        max_tokens=20,
        extra_args={**DIFFUSION, "block_size": 4, "threshold": 0.3, "denoising_steps": 2},
    )
    assert table.is_diffusion(np.array([0, 2])).tolist() == [False, True]
    assert (table.block_size[2], table.banned_until[2], int(table.limit[2])) == (4, 14, 30)
    assert (float(table.rules.threshold[2]), int(table.rules.steps[2])) == (pytest.approx(0.3), 2)
    table.begin_blocks(np.array([2]), np.array([10]), torch.tensor([55]), last=62)
    assert table.phase[2] == BlockPhase.DENOISING

    add(table, 2, extra_args={"decoding_mode": "ar"})
    assert table.phase[2] == BlockPhase.NONE
    assert not table.planned[2]
    assert not table.is_diffusion(np.array([2]))[0]
    assert (table.block_size[2], table.temperature[2], table.banned_until[2]) == (1, 0.0, 10)
    assert not table.is_stop(torch.tensor([2]), torch.tensor([[7, 9]])).any()
    assert int(table.limit[2]) == 10 + SamplingParams().max_tokens


def test_lora_only_in_self_speculation(table: RequestTable) -> None:
    chosen = [
        ({}, True),
        ({"draft_lora": False}, False),
        ({**DIFFUSION, "draft_lora": True}, False),
        ({"decoding_mode": "ar"}, False),
    ]
    for slot, (options, _) in enumerate(chosen):
        add(table, slot, extra_args=options)
    assert table.draft_lora.tolist() == [active for _, active in chosen]


def test_limit_is_that_of_the_context(table: RequestTable) -> None:
    add(table, 0, prompt_len=60, max_tokens=500)
    assert int(table.limit[0]) == 64


def test_a_block_is_cut_at_the_last_position(table: RequestTable) -> None:
    for slot in (0, 1, 2):
        add(table, slot, extra_args=DIFFUSION)
    table.begin_blocks(np.array([0, 1, 2]), np.array([20, 58, 62]), torch.tensor([1, 2, 3]), last=62)
    index = torch.arange(3)
    blocks = table.read_blocks(index)
    assert blocks.length.tolist() == [8, 5, 1]
    assert blocks.masked.sum(dim=1).tolist() == [7, 4, 0]
    assert blocks.tokens[:, 0].tolist() == [1, 2, 3]
    assert blocks.tokens[1, 1:5].tolist() == [MASK] * 4
    assert table.start.tolist()[:3] == table.start_gpu.tolist()[:3] == [20, 58, 62]


def test_stop_tokens(table: RequestTable) -> None:
    add(table, 0, stop_token_ids=[5])
    add(table, 1, stop_token_ids=[6, 8])
    found = table.is_stop(torch.tensor([1, 0]), torch.tensor([[5, 6, 8], [5, 6, 8]]))
    assert found.tolist() == [[False, True, True], [True, False, False]]


def test_planned_successors(table: RequestTable) -> None:
    """Inside a finished block the plan decides; behind it, and for everybody else, the sampled token does."""
    for slot in range(3):
        add(table, slot, extra_args=DIFFUSION)
    table.begin_blocks(np.array([0, 1]), np.array([10, 10]), torch.tensor([1, 1]), last=62)
    table.blocks.tokens[:, :] = 100 + torch.arange(8)
    table.planned[0] = True
    slots = torch.tensor([0, 0, 0, 0, 1, 2])
    positions = torch.tensor([9, 10, 16, 17, 10, 10])
    sampled = torch.arange(6)
    assert planned_successors(table, slots, positions, sampled).tolist() == [0, 101, 107, 3, 4, 5]


def test_size_is_fixed(table: RequestTable) -> None:
    """Many requests through four slots leave every array as large as it was."""
    sizes = {name: value.shape for name, value in vars(table).items() if hasattr(value, "shape")}
    for number in range(200):
        add(table, number % 4, stop_token_ids=list(range(number % 9)), extra_args=DIFFUSION)
    assert {name: value.shape for name, value in vars(table).items() if hasattr(value, "shape")} == sizes
