"""What a forward over blocks hands over on vLLM: logits of the rows that are asked for, hidden states on demand."""

from __future__ import annotations

from typing import Any

import pytest
import torch

pytest.importorskip("vllm")

from nemotron_diffusion_plugin.vllm.worker.forward import HiddenOutput

pytestmark = pytest.mark.engine


class Model(torch.nn.Module):
    """Its logits are twice the states, and it keeps how many rows it was asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[int] = []

    def compute_logits(self, states: torch.Tensor) -> torch.Tensor:
        self.asked.append(len(states))
        return 2 * states


def test_logits_are_computed_for_the_rows_that_are_asked_for() -> None:
    states, model = torch.arange(12.0).view(4, 3), Model()
    output: Any = HiddenOutput(states, model)
    assert torch.equal(output.logits(slice(1, 3)), 2 * states[1:3])
    assert model.asked == [2]
    assert output.hidden is None
    assert HiddenOutput(states, model, states).hidden is states
