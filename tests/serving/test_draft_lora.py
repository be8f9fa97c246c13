"""The low-rank branch against the adapter's own arithmetic, whole and in shards."""

from __future__ import annotations

import pytest
import torch

from nemotron_diffusion_plugin.model.lora import DrafterLora
from nemotron_diffusion_plugin.serving.draft_lora import LowRankBranch

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
    branch = LowRankBranch()
    branch.load(lora, 1, inputs)
    rows = torch.tensor([1.0, 0.0, 1.0, 0.0, 0.0])[:, None]
    output = torch.full((TOKENS, HIDDEN), 0.5)
    branch.add(output, branch.shrink(inputs, rows), rows)
    torch.testing.assert_close(output, 0.5 + lora.delta(1, inputs).detach() * rows)
    assert torch.equal(output[1], torch.full((HIDDEN,), 0.5))


@pytest.mark.parametrize("ranks", [2, 3])
def test_shards_add_up(lora: DrafterLora, inputs: torch.Tensor, ranks: int) -> None:
    branches = [LowRankBranch() for _ in range(ranks)]
    for rank, branch in enumerate(branches):
        branch.load(lora, 0, inputs, rank, ranks)
    parts, every = inputs.chunk(ranks, dim=1), torch.ones(TOKENS, 1)
    low = sum(branch.shrink(part, every) for branch, part in zip(branches, parts, strict=True))
    assert isinstance(low, torch.Tensor)
    for branch in branches:
        output = torch.zeros(TOKENS, HIDDEN)
        branch.add(output, low, every)
        torch.testing.assert_close(output, lora.delta(0, inputs).detach())


def test_weights_take_the_models_dtype_and_stay_out_of_checkpoints(lora: DrafterLora) -> None:
    branch = LowRankBranch()
    assert not branch.loaded
    branch.load(lora, 0, torch.empty(0, dtype=torch.bfloat16))
    assert branch.loaded
    low = branch.shrink(torch.ones(1, INPUTS, dtype=torch.bfloat16), torch.ones(1, 1))
    assert low.dtype == torch.bfloat16
    assert branch.state_dict() == {}
    assert list(branch.parameters()) == []
