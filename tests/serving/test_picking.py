"""Picking for the rows of a forward: what is banned, what is sampled, and that neighbours do not matter."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from nemotron_diffusion_plugin.core import lay_out_rows
from nemotron_diffusion_plugin.rules import noise
from nemotron_diffusion_plugin.serving import picking
from nemotron_diffusion_plugin.serving.operators import make_operators
from nemotron_diffusion_plugin.serving.picking import BlockPicker
from nemotron_diffusion_plugin.serving.slots import SlotTable
from nemotron_diffusion_plugin.settings import KERNELS, TORCH
from tests.serving.toy import BLOCK, DIFFUSION, MASK, SLOTS, VOCAB, ToyForward, ToyOutput, make_table, take

PROMPT = 10
STOPS = (5, 9)


class Bench:
    """Requests whose blocks begin behind their prompts, and logits for their rows."""

    def __init__(self, kernels: str = TORCH) -> None:
        self.table: SlotTable = make_table()
        self.seeds = torch.arange(SLOTS) + 100
        operators = make_operators(kernels, torch.device("cpu"))
        self.picker = BlockPicker(self.table, ToyForward(), lambda index: self.seeds[index], operators)

    def begin(self, slot: int, options: dict[str, object], **request: float) -> None:
        take(self.table, slot, options, stop_ids=STOPS, prompt_len=PROMPT, **request)  # type: ignore[arg-type]
        seeds = torch.tensor([slot])
        self.table.begin_blocks(np.array([slot]), np.array([PROMPT]), seeds, 62)

    def pick(self, slots: list[int], logits: torch.Tensor | ToyOutput) -> tuple[torch.Tensor, Any]:
        blocks = self.table.forward_blocks(np.array(slots), torch.tensor(slots))
        output = logits if isinstance(logits, ToyOutput) else ToyOutput(logits)
        return self.picker.pick(np.array(slots), blocks, lay_out_rows(blocks), output)


def random_logits(blocks: int) -> torch.Tensor:
    return torch.randn(blocks * BLOCK, VOCAB, generator=torch.Generator().manual_seed(8))


def in_parts_of(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(picking, "LOGITS_AT_ONCE", rows * VOCAB)


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("rows", [1, 3, 5, 100])
def test_stop_tokens_are_banned_before_min_tokens(
    rows: int, kernels: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever the rows are cut into parts."""
    in_parts_of(rows, monkeypatch)
    bench = Bench(kernels)
    bench.begin(0, DIFFUSION)
    bench.begin(1, DIFFUSION, min_tokens=4)
    bench.begin(2, {}, min_tokens=4)  # its verify forward bans them
    bench.begin(3, DIFFUSION, min_tokens=100)
    logits = torch.zeros(4 * BLOCK, VOCAB)
    logits[:, STOPS[0]], logits[:, STOPS[1]], logits[:, 20] = 9.0, 8.0, 7.0
    tokens, confidence = bench.pick([0, 1, 2, 3], logits)
    stop, other = [STOPS[0]], [20]
    assert tokens.view(4, BLOCK).tolist() == [
        stop * BLOCK,
        other * 4 + stop * (BLOCK - 4),
        stop * BLOCK,
        other * BLOCK,
    ]
    allowed = logits[0].clone()
    allowed[list(STOPS)] = -torch.inf
    torch.testing.assert_close(confidence[BLOCK], allowed.softmax(dim=0)[20])


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_the_mask_id_is_never_picked(temperature: float, kernels: str) -> None:
    """Yet it counts in the confidence."""
    bench = Bench(kernels)
    bench.begin(0, DIFFUSION, temperature=temperature)
    bench.begin(1, {})
    logits = random_logits(2)
    logits[:, MASK] = 12.0
    tokens, confidence = bench.pick([0, 1], logits)
    assert MASK not in tokens.tolist()
    assert confidence.max() < 0.01
    expected = logits.softmax(dim=1).gather(1, tokens[:, None])[:, 0]
    torch.testing.assert_close(confidence, expected)


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("rows", [3, 100])
def test_a_sampled_request_gives_the_same_alone_and_beside_others(
    rows: int, kernels: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_parts_of(rows, monkeypatch)
    bench = Bench(kernels)
    bench.begin(0, DIFFUSION)
    bench.begin(1, DIFFUSION, temperature=1.5)
    bench.begin(2, {}, temperature=1.5)
    bench.begin(3, DIFFUSION, temperature=0.4)
    logits = random_logits(4)
    together, confidence = (values.view(4, BLOCK) for values in bench.pick([0, 1, 2, 3], logits))
    by_slot = logits.view(4, BLOCK, VOCAB)
    for slot in range(4):
        tokens, sure = bench.pick([slot], by_slot[slot])
        assert torch.equal(tokens, together[slot]), slot
        if slot != 2:  # nobody reads how sure a draft of self-speculation is
            torch.testing.assert_close(sure, confidence[slot])

    best = by_slot.clone()
    best[:, :, MASK] = -torch.inf
    greedy = best.argmax(dim=2)
    assert [torch.equal(together[slot], greedy[slot]) for slot in range(4)] == [True, False, True, False]


@pytest.mark.parametrize("kernels", KERNELS)
def test_noise_is_that_of_seed_position_and_step(kernels: str) -> None:
    bench = Bench(kernels)
    bench.begin(2, DIFFUSION, temperature=0.8)
    bench.table.blocks.step[2] = 3
    logits = random_logits(1)
    tokens, _ = bench.pick([2], logits)
    positions = torch.arange(PROMPT, PROMPT + BLOCK)
    uniform = noise.uniform(torch.full((BLOCK,), 102), positions, torch.full((BLOCK,), 4), VOCAB)
    scores = logits.double() - 0.8 * torch.log(-torch.log(uniform))
    scores[:, MASK] = -torch.inf
    assert torch.equal(tokens, scores.argmax(dim=1))


def test_seeds_are_read_at_use() -> None:
    bench = Bench()
    bench.begin(0, DIFFUSION, temperature=2.0)
    logits = random_logits(1)
    before, _ = bench.pick([0], logits)
    bench.seeds = bench.seeds + 50
    other, _ = bench.pick([0], logits)
    bench.seeds = bench.seeds - 50
    again, _ = bench.pick([0], logits)
    assert torch.equal(before, again)
    assert not torch.equal(before, other)


def test_logits_come_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    in_parts_of(3, monkeypatch)
    bench = Bench()
    bench.begin(0, DIFFUSION)
    output = ToyOutput(random_logits(1))
    bench.pick([0], output)
    assert output.sizes == [3, 3, 2]


def test_confidences_are_computed_where_a_commit_rule_reads_them() -> None:
    bench = Bench()
    bench.begin(0, DIFFUSION)
    bench.begin(1, {"decoding_mode": "self_speculation"})
    logits = random_logits(2)
    together, sure = bench.pick([0, 1], logits)
    assert sure.shape == together.shape
    alone, none = bench.pick([1], logits[BLOCK:])
    assert none is None
    assert torch.equal(alone, together[BLOCK:])
