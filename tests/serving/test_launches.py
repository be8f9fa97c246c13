"""How many launches there are beside the model's forward: one more fails here, one less belongs in docs/gpu.md."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nemotron_diffusion_plugin.serving.drafting import UNBOUNDED, Drafter, DraftStep
from nemotron_diffusion_plugin.serving.operators import make_operators
from nemotron_diffusion_plugin.serving.picking import BlockPicker
from nemotron_diffusion_plugin.settings import TORCH
from tests.serving.launches import Launches
from tests.serving.toy import BLOCK, DIFFUSION, SLOTS, ToyForward, make_table, take

SLOW = {**DIFFUSION, "commit_rule": "fixed", "tokens_per_step": 1}
DRAFT, DENOISE_STEP, BLOCK_BEGUN = 48, 27, 39
"""Launches of a self-speculation draft, of a denoise step, and once for each step that begins diffusion blocks."""


class Bench:
    def __init__(self) -> None:
        self.table, self.forward = make_table(), ToyForward()
        operators, self.launches = make_operators(TORCH, torch.device("cpu")), Launches()
        picker = BlockPicker(self.table, self.forward, torch.arange(SLOTS).__getitem__, operators)
        self.drafter = Drafter(self.table, self.forward, picker, operators)
        self.launches.watch(operators, self.forward)

    def step(self, slots: list[int], bound: int = UNBOUNDED) -> Launches:
        """Draft for slots that begin a block."""
        rows, starts = np.array(slots), np.full(len(slots), 10)
        step = DraftStep(
            *(
                rows,
                np.ones(len(slots), dtype=bool),
                torch.tensor(slots),
                torch.from_numpy(starts),
                starts,
                62,
            )
        )
        with self.launches:
            self.drafter.draft(step, bound, lambda _: {})
        return self.launches


@pytest.mark.parametrize("requests", [1, SLOTS])
def test_a_draft(requests: int) -> None:
    """The same for one request and for all."""
    bench = Bench()
    for slot in range(requests):
        take(bench.table, slot)
    launches = bench.step(list(range(requests)))
    assert bench.forward.count == 1
    assert launches.total == DRAFT, launches.by_name.most_common()


@pytest.mark.parametrize("requests", [1, SLOTS])
def test_denoise_steps(requests: int) -> None:
    bench = Bench()
    for slot in range(requests):
        take(bench.table, slot, SLOW)
    launches = bench.step(list(range(requests)))
    steps = BLOCK - 1
    assert bench.forward.count == steps
    assert launches.total == BLOCK_BEGUN + steps * DENOISE_STEP, launches.by_name.most_common()


def test_a_launch_is_counted() -> None:
    launches = Launches()
    with launches:
        torch.zeros(3)[1:].add_(1)
    assert launches.by_name == {"zeros": 1, "add_": 1}
