"""What auto is told at start: costs, and for what CUDA graphs were captured."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("sglang")

from nemotron_diffusion_plugin.settings import ServerSettings
from nemotron_diffusion_plugin.sglang.worker import auto
from nemotron_diffusion_plugin.sglang.worker.auto import WorkerBlocks
from nemotron_diffusion_plugin.sglang.worker.timing import SlotTimer

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
    assert (policy.lengths.tolist(), policy.engine.captured) == ([1, 8, 16, 32], None)


class Timer(SlotTimer):
    """Forwards that take no time; what was run is kept."""

    most_rows = 96  # type: ignore[assignment]
    num_slots = 3
    block_size = 32

    def __init__(self) -> None:
        self.runs: list[tuple[int, bool]] = []

    def run(self, rows: int, bidirectional: bool) -> None:
        self.runs.append((rows, bidirectional))


@pytest.fixture(autouse=True)
def _one_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auto, "of_first_rank", lambda answer: answer)


@pytest.mark.parametrize("has_graphs", [False, True])
def test_costs_are_measured_before_the_first_request(has_graphs: bool) -> None:
    chosen, timer = blocks(), Timer()
    arithmetic = chosen.policy.costs
    chosen.begin(timer, has_graphs)
    assert chosen.policy.costs != arithmetic
    assert max(rows for rows, _ in timer.runs) == 96
    assert chosen.policy.lengths.tolist() == [1, 8, 16, 32]
    assert chosen.policy.engine.captured == ({1, 32} if has_graphs else None)
    assert (chosen.policy.costs.bidirectional[0][0] == 32) is has_graphs
    assert ((8, False) in timer.runs) is not has_graphs, "eight single tokens of three requests"


@pytest.mark.parametrize("costs", ["arithmetic", {"causal": [[1, 2.0]]}])
def test_nothing_is_measured_where_costs_are_given(costs: object) -> None:
    chosen, timer = blocks(forward_costs=costs), Timer()
    before = chosen.policy.costs
    chosen.begin(timer, True)
    assert chosen.policy.costs is before
    assert not timer.runs
