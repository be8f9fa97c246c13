"""Penalties against a plain loop over rows, and whose tokens are counted."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from nemotron_diffusion_plugin.sglang.worker.penalties import NEUTRAL, OutputCounts, has_penalties

VOCAB = 9
SLOTS = 4


def params(**penalties: float) -> Any:
    return SimpleNamespace(**{**NEUTRAL, **penalties})


@pytest.fixture
def counts() -> OutputCounts:
    return OutputCounts(SLOTS, VOCAB, torch.device("cpu"))


def one_by_one(logits: torch.Tensor, emitted: list[int], chain: list[int], of: Any) -> torch.Tensor:
    """Row i as it would be in a step of its own, with the drafts before it already emitted."""
    rows = []
    for place, row in enumerate(logits.tolist()):
        seen = Counter(emitted + chain[1 : place + 1])
        for token, times in seen.items():
            value = row[token] - of.frequency_penalty * times - of.presence_penalty
            factor = of.repetition_penalty
            row[token] = value * factor if value < 0 else value / factor
        rows.append(row)
    return torch.tensor(rows)


@pytest.mark.parametrize(
    "penalties",
    [
        {"frequency_penalty": 0.7},
        {"frequency_penalty": -0.4},
        {"presence_penalty": 1.3},
        {"repetition_penalty": 1.5},
        {"repetition_penalty": 0.6},
        {"frequency_penalty": 0.5, "presence_penalty": -0.8, "repetition_penalty": 1.2},
    ],
    ids=str,
)
@pytest.mark.parametrize("chain", [[3], [3, 5, 5, 1], [3, 3, 8, 0, 8, 3]], ids=str)
def test_rows_are_those_of_single_steps(
    penalties: dict[str, float], chain: list[int], counts: OutputCounts
) -> None:
    emitted = [5, 5, 7, 3]  # the last one is the seed
    of = params(**penalties)
    counts.take(2, of, emitted)
    logits = torch.randn(len(chain), VOCAB, generator=torch.Generator().manual_seed(1)) * 3
    expected = one_by_one(logits, emitted, chain, of)
    before = logits.clone()
    counts.apply(2, logits, torch.tensor(chain))
    assert torch.allclose(logits, expected, atol=1e-5)
    assert not torch.allclose(logits, before)


def test_repetition_makes_both_signs_less_likely(counts: OutputCounts) -> None:
    counts.take(0, params(repetition_penalty=2.0), [1, 2])
    logits = torch.tensor([[0.5, 4.0, -4.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0]])
    counts.apply(0, logits, torch.tensor([2]))
    assert logits[0, :4].tolist() == [0.5, 2.0, -8.0, 1.0]


def test_forbidden_tokens_stay_forbidden(counts: OutputCounts) -> None:
    counts.take(0, params(repetition_penalty=0.5, frequency_penalty=-2.0, presence_penalty=-2.0), [1, 1])
    logits = torch.full((1, VOCAB), -torch.inf)
    counts.apply(0, logits, torch.tensor([1]))
    assert torch.isneginf(logits).all()


def test_a_retaken_slot_forgets(counts: OutputCounts) -> None:
    of = params(presence_penalty=1.0)
    counts.take(1, of, [4, 4])
    counts.add(np.array([1]), torch.tensor([[6]]), torch.tensor([1]))
    counts.take(1, of, [7])
    logits = torch.zeros(1, VOCAB)
    counts.apply(1, logits, torch.tensor([7]))
    assert logits.nonzero().tolist() == [[0, 7]]
    counts.take(1, params(), [7])
    assert not counts.active[1]


def test_slots_do_not_mix(counts: OutputCounts) -> None:
    for slot in range(SLOTS):
        counts.take(slot, params(presence_penalty=1.0 + slot), [slot])
    logits = torch.zeros(1, VOCAB)
    counts.apply(3, logits, torch.tensor([0]))
    assert logits[0].tolist() == [0, 0, 0, -4, 0, 0, 0, 0, 0]


def test_only_real_tokens_of_requests_with_penalties_are_counted(counts: OutputCounts) -> None:
    counts.take(3, params(frequency_penalty=1.0), [])
    counts.take(0, params(frequency_penalty=1.0), [])
    counts.take(1, params(), [])
    tokens = torch.tensor([[1, 1, 0, 0], [2, 2, 2, 2], [4, 5, 5, 5]])
    counts.add(np.array([3, 1, 0]), tokens, torch.tensor([2, 4, 3]))
    rows = {}
    for slot in (3, 0):
        logits = torch.zeros(1, VOCAB)
        counts.apply(slot, logits, torch.tensor([8]))
        rows[slot] = (-logits[0]).tolist()
    assert rows[3] == [0, 2, 0, 0, 0, 0, 0, 0, 0]
    assert rows[0] == [0, 0, 0, 0, 1, 2, 0, 0, 0]


def test_nobody_with_penalties_needs_no_table(counts: OutputCounts) -> None:
    counts.take(0, params(), [1, 2])
    counts.add(np.array([0]), torch.tensor([[3]]), torch.tensor([1]))
    assert not counts._counts


def test_memory_follows_the_requests_with_penalties(counts: OutputCounts) -> None:
    for slot in (0, 2):
        counts.take(slot, params(presence_penalty=1.0), [1])
    counts.take(1, params(), [1])
    assert counts._counts.keys() == {0, 2}
    counts.take(0, params(), [1])
    assert counts._counts.keys() == {2}


@pytest.mark.parametrize("name", NEUTRAL)
def test_any_of_them_counts(name: str) -> None:
    assert has_penalties(params(**{name: 0.5}))
    assert not has_penalties(params())
