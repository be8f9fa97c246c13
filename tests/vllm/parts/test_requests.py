"""What vLLM's sampling parameters become in the request table, and the token planned after a position."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("vllm")

from vllm.sampling_params import SamplingParams
from vllm.v1.worker.gpu.sample.logit_bias import MAX_NUM_STOP_TOKEN_IDS

from nemotron_diffusion_plugin.options import MAX_STOP_IDS
from nemotron_diffusion_plugin.serving.slots import SlotTable
from nemotron_diffusion_plugin.settings import ServerSettings
from nemotron_diffusion_plugin.vllm.worker.acceptance import planned_successors
from nemotron_diffusion_plugin.vllm.worker.requests import read_request, stop_token_ids

MASK = 100
DIFFUSION = {"decoding_mode": "diffusion"}

pytestmark = pytest.mark.engine


@pytest.fixture
def table() -> SlotTable:
    return SlotTable(ServerSettings.read(8, None), 4, MASK, torch.device("cpu"))


def add(table: SlotTable, slot: int, prompt_len: int = 10, **parameters: Any) -> None:
    params = SamplingParams(**{"temperature": 0.0, **parameters})
    table.take(slot, read_request(table.settings, prompt_len, params, max_model_len=64))


def test_sampling_parameters(table: SlotTable) -> None:
    add(
        table,
        2,
        temperature=0.5,
        stop_token_ids=[7, 9],
        min_tokens=4,
        max_tokens=20,
        extra_args={**DIFFUSION, "block_size": 4, "threshold": 0.3, "kv_transfer_params": {}},
    )
    assert table.is_diffusion(np.array([2]))[0]
    assert (table.longest[2], table.temperature[2]) == (4, 0.5)
    assert (table.prompt_len[2], table.banned_until[2], int(table.limit[2])) == (10, 14, 30)
    assert float(table.rules.threshold[2]) == pytest.approx(0.3)
    assert table.is_stop(torch.tensor([2]), torch.tensor([[7, 8, 9]])).tolist() == [[True, False, True]]


def test_defaults(table: SlotTable) -> None:
    add(table, 0)
    assert not table.is_diffusion(np.array([0]))[0]
    assert (table.longest[0], table.banned_until[0]) == (8, 10)
    assert int(table.limit[0]) == 10 + SamplingParams().max_tokens


@pytest.mark.parametrize("max_tokens", [500, None])
def test_limit_is_that_of_the_context(table: SlotTable, max_tokens: int | None) -> None:
    add(table, 0, prompt_len=60, max_tokens=max_tokens)
    assert int(table.limit[0]) == 64


def test_options_are_read_once() -> None:
    params = SamplingParams(extra_args={"threshold": 0.3})
    settings = ServerSettings.read(8, None)
    first = read_request(settings, 10, params, 64).options
    assert first.threshold == 0.3
    assert read_request(settings, 10, params, 64).options is first


def test_the_eos_token_stops_unless_ignored() -> None:
    for ignored, expected in ((False, [2, 7]), (True, [7])):
        params = SamplingParams(stop_token_ids=[7], ignore_eos=ignored)
        params.update_from_generation_config({}, 2)
        assert stop_token_ids(params) == expected


def test_room_for_as_many_stop_tokens_as_vllm_allows() -> None:
    assert MAX_STOP_IDS == MAX_NUM_STOP_TOKEN_IDS


def test_planned_successors(table: SlotTable) -> None:
    """Inside a finished block the plan decides; after it, and for everybody else, the sampled token does."""
    for slot in range(3):
        add(table, slot, extra_args=DIFFUSION)
    table.begin_blocks(np.array([0, 1]), np.array([10, 10]), torch.tensor([1, 1]), 64)
    table.blocks.tokens[:, :] = 100 + torch.arange(8)
    index = torch.tensor([0])
    table.denoised(np.array([0]), index, table.read_blocks(index), torch.tensor([True]))
    slots = torch.tensor([0, 0, 0, 0, 1, 2])
    positions = torch.tensor([9, 10, 16, 17, 10, 10])
    sampled = torch.arange(6)
    assert planned_successors(table, slots, positions, sampled).tolist() == [0, 101, 107, 3, 4, 5]
