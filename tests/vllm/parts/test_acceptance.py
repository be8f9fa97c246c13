"""Acceptance with a seed, and tokens in the places of their rows."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("vllm")

from nemotron_diffusion_plugin.serving.operators import TorchOperators
from nemotron_diffusion_plugin.vllm.worker.acceptance import _accept_by_seed, _by_row

# Three requests with 3, 0 and 2 drafts: rows 0…3, 4 and 5…7. What is drawn in a row is checked by the draft behind it.
BEGINS = torch.tensor([0, 4, 5, 8], dtype=torch.int32)
DRAWN = torch.tensor([10, 11, 12, 13, 20, 30, 31, 32])
UNTOUCHED = [99]
SEED = 0


@pytest.mark.parametrize(
    ("drafts", "expected"),
    [
        ([[10, 11, 12], [], [30, 31]], [[10, 11, 12, 13], [20], [30, 31, 32]]),
        ([[10, 7, 12], [], [7, 31]], [[10, 11], [20], [30]]),
        ([[10, -1, -1], [], [-1, -1]], [[10, 11], [20], [30]]),
    ],
    ids=["all agree", "up to the first that does not", "without a mask"],
)
def test_with_a_seed_drafts_are_accepted_where_ar_draws_them(
    drafts: list[list[int]], expected: list[list[int]]
) -> None:
    rows = torch.tensor([token for each in drafts for token in (SEED, *each)])
    for requests in ([0, 1, 2], [2], [1, 0]):
        sampled, num_sampled = torch.full((3, 5), 99), torch.ones(3, dtype=torch.int32)
        _accept_by_seed(TorchOperators(), DRAWN, rows, BEGINS, torch.tensor(requests), sampled, num_sampled)
        taken = [row[:count] for row, count in zip(sampled.tolist(), num_sampled.tolist(), strict=True)]
        assert taken == [expected[request] if request in requests else UNTOUCHED for request in range(3)]


def test_tokens_lie_in_the_rows_they_were_drawn_in() -> None:
    sampled = torch.tensor([[10, 11, 99, 99], [20, 99, 99, 99], [30, 31, 32, 99]])
    rows = _by_row(sampled, torch.tensor([2, 1, 3]), BEGINS, len(DRAWN))
    assert rows.tolist() == [10, 11, 0, 0, 20, 30, 31, 32]
