"""The low-rank branch against the adapter's own arithmetic, whole and in shards."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from nemotron_diffusion_plugin.model.lora import DrafterLora
from nemotron_diffusion_plugin.serving.draft_lora import LowRankBranch, Shard, branches, has_adapter

TOKENS, INPUTS, HIDDEN, RANK = 5, 12, 7, 3


@pytest.fixture
def lora() -> DrafterLora:
    random = torch.Generator().manual_seed(1)
    a = [torch.randn(RANK, INPUTS, generator=random) for _ in range(2)]
    b = [torch.randn(HIDDEN, RANK, generator=random) for _ in range(2)]
    return DrafterLora(a, b, alpha=6.0)


@pytest.fixture
def inputs() -> torch.Tensor:
    return torch.randn(TOKENS, INPUTS, generator=torch.Generator().manual_seed(2))


def test_only_the_rows_that_draft(lora: DrafterLora, inputs: torch.Tensor) -> None:
    branch = LowRankBranch(1)
    branch.load(lora, inputs)
    rows = torch.tensor([1.0, 0.0, 1.0, 0.0, 0.0])[:, None]
    output = torch.full((TOKENS, HIDDEN), 0.5)
    branch.draft(output, inputs, rows)
    torch.testing.assert_close(output, 0.5 + lora.delta(1, inputs).detach() * rows)
    assert torch.equal(output[1], torch.full((HIDDEN,), 0.5))


@pytest.mark.parametrize("ranks", [2, 3])
def test_shards_add_up(lora: DrafterLora, inputs: torch.Tensor, ranks: int) -> None:
    parts, every = inputs.chunk(ranks, dim=1), torch.ones(TOKENS, 1)
    shards: list[LowRankBranch] = []

    def all_reduce(low: torch.Tensor) -> torch.Tensor:
        lows = [shard.shrink(part, every) for shard, part in zip(shards, parts, strict=True)]
        assert any(torch.equal(low, other) for other in lows)
        return torch.stack(lows).sum(0)

    for rank in range(ranks):
        shards.append(LowRankBranch(0))
        shards[-1].load(lora, inputs, Shard(rank, ranks, all_reduce))
    for shard, part in zip(shards, parts, strict=True):
        output = torch.zeros(TOKENS, HIDDEN)
        shard.draft(output, part, every)
        torch.testing.assert_close(output, lora.delta(0, inputs).detach())


def test_one_rank_sums_nothing(lora: DrafterLora, inputs: torch.Tensor) -> None:
    def all_reduce(low: torch.Tensor) -> torch.Tensor:
        raise AssertionError("there is nobody to sum with")

    branch = LowRankBranch(0)
    branch.load(lora, inputs, Shard(0, 1, all_reduce))
    branch.draft(torch.zeros(TOKENS, HIDDEN), inputs, torch.ones(TOKENS, 1))


def test_without_an_adapter_nothing_is_added(inputs: torch.Tensor) -> None:
    output = torch.full((TOKENS, HIDDEN), 0.5)
    LowRankBranch(0).draft(output, inputs, torch.ones(TOKENS, 1))
    assert torch.equal(output, torch.full((TOKENS, HIDDEN), 0.5))


def test_the_branches_of_a_model(lora: DrafterLora, inputs: torch.Tensor) -> None:
    layers = [nn.ModuleList([nn.Linear(2, 2), LowRankBranch(layer)]) for layer in range(2)]
    model = nn.Sequential(*layers)
    assert [branch.layer for branch in branches(model)] == [0, 1]
    assert not has_adapter(model)
    branches(model)[1].load(lora, inputs)
    assert has_adapter(model)


def test_a_second_adapter_is_written_over_the_first(lora: DrafterLora, inputs: torch.Tensor) -> None:
    """CUDA graphs read the tensors; the file that the first one came from is not written to."""
    branch, second = LowRankBranch(1), DrafterLora([-a for a in lora.a], list(lora.b), alpha=3.0)
    first = [weight.detach().clone() for weight in (*lora.a, *lora.b)]
    branch.load(lora, inputs)
    a, b = branch.a, branch.b
    branch.load(second, torch.empty(0, device="meta"))
    assert branch.a is a
    assert branch.b is b
    output = torch.zeros(TOKENS, HIDDEN)
    branch.draft(output, inputs, torch.ones(TOKENS, 1))
    torch.testing.assert_close(output, second.delta(1, inputs).detach())
    assert all(map(torch.equal, first, (*lora.a, *lora.b)))


def test_one_half_alone(lora: DrafterLora, inputs: torch.Tensor) -> None:
    """Without the scale, as it is stored; a half may be a parameter that is being trained."""
    branch, b = LowRankBranch(0), nn.Parameter(torch.rand(HIDDEN, RANK))
    branch.load(lora, inputs)
    branch.replace("B", b)
    output = torch.zeros(TOKENS, HIDDEN)
    branch.draft(output, inputs, torch.ones(TOKENS, 1))
    torch.testing.assert_close(output, DrafterLora(list(lora.a), [b, b], 6.0).delta(0, inputs).detach())
    assert not output.requires_grad


def test_what_an_engine_saves_while_it_sleeps_comes_back(lora: DrafterLora, inputs: torch.Tensor) -> None:
    """Engines keep copies of the buffers, lose their memory, and write the copies back."""
    branch = LowRankBranch(1)
    branch.load(lora, inputs)
    saved = {name: buffer.clone() for name, buffer in branch.named_buffers()}
    for buffer in branch.buffers():
        buffer.fill_(torch.nan)
    for name, buffer in branch.named_buffers():
        buffer.copy_(saved[name])
    output = torch.zeros(TOKENS, HIDDEN)
    branch.draft(output, inputs, torch.ones(TOKENS, 1))
    torch.testing.assert_close(output, lora.delta(1, inputs).detach())


def test_weights_take_the_models_dtype_and_stay_out_of_checkpoints(lora: DrafterLora) -> None:
    branch = LowRankBranch(0)
    assert not branch.loaded
    branch.load(lora, torch.empty(0, dtype=torch.bfloat16))
    assert branch.loaded
    low = branch.shrink(torch.ones(1, INPUTS, dtype=torch.bfloat16), torch.ones(1, 1))
    assert low.dtype == torch.bfloat16
    assert branch.state_dict() == {}
    assert list(branch.parameters()) == []
