"""What auto chooses from where CUDA graphs are captured."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("sglang")

from nemotron_diffusion_plugin.serving.settings import ServerSettings
from nemotron_diffusion_plugin.sglang.auto import WorkerBlocks

SHAPE = SimpleNamespace(
    hidden_size=64,
    intermediate_size=128,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=16,
    vocab_size=256,
)


def blocks(**settings: object) -> WorkerBlocks:
    forward = SimpleNamespace(max_tokens=512, ragged=True, device=torch.device("cpu"))
    return WorkerBlocks(ServerSettings.read(32, settings), SHAPE, SimpleNamespace(tp_size=1), forward)


def test_without_graphs_every_length_is_there() -> None:
    policy = blocks().policy
    assert (policy.blocks.tolist(), policy.engine.uniform) == ([1, 8, 16, 32], False)


def test_with_graphs_only_what_was_captured() -> None:
    auto = blocks()
    costs = auto.policy.costs
    auto.use_captured()
    assert (auto.policy.blocks.tolist(), auto.policy.engine.uniform) == ([1, 32], True)
    assert auto.policy.engine.rows_at_once == 512
    assert auto.policy.costs is costs


def test_given_lengths_stay() -> None:
    auto = blocks(auto_block_sizes=[4, 16])
    auto.use_captured()
    assert (auto.policy.blocks.tolist(), auto.policy.engine.uniform) == ([1, 4, 16], False)
