"""The distributions of the rows of a batch against a plain implementation."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("sglang")

from nemotron_diffusion_plugin.sglang.worker.probabilities import probabilities
from tests.sglang.parts.sampled import ALL, batch_of, distribution, params

pytestmark = pytest.mark.engine

VOCAB = 40
GRID = [
    {"temperature": temperature, "top_p": top_p, "top_k": top_k, "min_p": min_p}
    for temperature, top_p, top_k, min_p in product(
        (0.3, 0.8, 1.7), (1.0, 0.7, 0.05), (ALL, 1, 5, VOCAB), (0.0, 0.2)
    )
]


def some_logits(rows: int) -> torch.Tensor:
    return torch.randn(rows, VOCAB, generator=torch.Generator().manual_seed(rows)) * 2


def check(requests: list[Any], rows: list[int], widths: list[int]) -> None:
    owner = np.repeat(np.arange(len(rows)), widths)
    logits = some_logits(len(owner))
    before = logits.clone()
    found = probabilities(batch_of(requests), np.array(rows), owner, logits)
    for place, row in enumerate(owner.tolist()):
        expected = torch.tensor(distribution(logits[place].tolist(), requests[rows[row]]))
        assert torch.allclose(found[place], expected, atol=1e-5), (place, requests[rows[row]])
        assert torch.equal(found[place] > 0, expected > 0)
    assert torch.equal(logits, before)


@pytest.mark.parametrize("values", GRID, ids=str)
def test_alone(values: dict[str, float]) -> None:
    check([params(**values)], [0], [3])


def test_every_row_has_its_own_parameters() -> None:
    requests = [params(**values) for values in GRID]
    check(requests, list(range(len(requests))), [1 + place % 3 for place in range(len(requests))])


def test_small_top_k_only() -> None:
    """SGLang takes another way where nobody asks for the whole vocabulary."""
    check([params(**values) for values in GRID if values["top_k"] < VOCAB], [3, 0, 7, 11], [2, 1, 4, 1])


def test_rows_are_picked_from_the_batch() -> None:
    requests = [params(temperature=0.2), params(temperature=2.0, top_k=3), params(top_p=0.5), params()]
    check(requests, [3, 1], [2, 2])
    check(requests, [2], [1])


@pytest.mark.parametrize("values", GRID, ids=str)
def test_the_company_changes_nothing_not_even_where_tokens_tie(values: dict[str, float]) -> None:
    logits = some_logits(2).round(decimals=0)
    alone = probabilities(batch_of([params(**values)]), np.array([0]), np.array([0]), logits[:1])
    for other in GRID:
        batch = batch_of([params(**other), params(**values)])
        both = probabilities(batch, np.array([1, 0]), np.array([0, 1]), logits)
        assert torch.equal(both[0], alone[0])


def test_a_forbidden_token_has_no_probability() -> None:
    logits = some_logits(1)
    logits[0, :30] = -torch.inf
    found = probabilities(batch_of([params(top_k=35)]), np.array([0]), np.array([0]), logits)
    assert not found[0, :30].any()
    assert found.sum() == pytest.approx(1)
