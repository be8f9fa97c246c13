"""What a request is expected to accept, from what it has accepted."""

from __future__ import annotations

import random

import numpy as np
import pytest

from nemotron_diffusion_plugin.auto.estimate import (
    PUBLISHED_ACCEPTANCE,
    AcceptanceEstimate,
    AcceptancePool,
)

BLOCKS = np.array([1, 8, 16, 32])


def fresh() -> AcceptanceEstimate:
    return AcceptanceEstimate(31, AcceptancePool())


def expected(rate: float) -> list[float]:
    return [sum(rate**place for place in range(block)) for block in BLOCKS]


def test_a_new_request_starts_at_the_published_acceptance() -> None:
    assert fresh().tokens(BLOCKS) == pytest.approx(expected(PUBLISHED_ACCEPTANCE))
    assert sum(PUBLISHED_ACCEPTANCE**place for place in range(10_000)) == pytest.approx(6.82)


@pytest.mark.parametrize("rate", [0.0, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("drafts", [7, 31])
def test_it_finds_the_rate_whatever_the_block_length(rate: float, drafts: int) -> None:
    """A block that was accepted to its end says nothing about the drafts that it did not have."""
    rng, estimate, sums = random.Random(1), fresh(), np.zeros(len(BLOCKS))
    for cycle in range(2200):
        accepted = 0
        while accepted < drafts and rng.random() < rate:
            accepted += 1
        estimate.observe(drafts, accepted)
        if cycle >= 200:
            sums += estimate.tokens(BLOCKS)
    assert sums / 2000 == pytest.approx(expected(rate), rel=0.03)


def test_places_differ() -> None:
    """Blocks that always break at the same place are worth no more than that."""
    estimate = fresh()
    for _ in range(100):
        estimate.observe(31, 5)
    tokens = estimate.tokens(np.arange(1, 33))
    assert 5.0 < tokens[5] < 6.0
    assert tokens[31] - tokens[5] < 1.2
    assert (np.diff(tokens) >= 0).all()


def test_the_present_outweighs_the_past() -> None:
    turned, steady = fresh(), fresh()
    for _ in range(200):
        turned.observe(31, 31)
    for estimate in (turned, steady):
        for _ in range(30):
            estimate.observe(31, 1)
    assert 2.0 < steady.tokens(BLOCKS)[-1] < turned.tokens(BLOCKS)[-1] < 4.0


def test_new_requests_learn_from_the_others() -> None:
    pool = AcceptancePool()
    first = AcceptanceEstimate(31, pool)
    for _ in range(300):
        first.observe(31, 0)
    assert AcceptanceEstimate(31, pool).tokens(BLOCKS)[-1] < 1.2


class TestProbes:
    def hopeless(self) -> AcceptanceEstimate:
        estimate = fresh()
        for _ in range(40):
            estimate.observe(31, 0)
        return estimate

    def test_one_that_went_well_outweighs_the_history(self) -> None:
        estimate, without = self.hopeless(), self.hopeless()
        estimate.probing = True
        for one in (estimate, without):
            one.observe(7, 4)
        assert estimate.tokens(BLOCKS)[1] > 1.5 * without.tokens(BLOCKS)[1]
        assert not estimate.probing

    def test_one_that_failed_changes_nothing_more(self) -> None:
        estimate, without = self.hopeless(), self.hopeless()
        estimate.probing = True
        for one in (estimate, without):
            one.observe(7, 3)
        assert estimate.tokens(BLOCKS).tolist() == without.tokens(BLOCKS).tolist()
        assert not estimate.probing


def test_rest_fades_what_was_seen() -> None:
    estimate = fresh()
    for _ in range(10):
        estimate.observe(31, 0)
    before, seen = estimate.tokens(BLOCKS)[-1], estimate.evidence
    for _ in range(300):
        estimate.rest()
    assert estimate.evidence < 0.1 * seen
    assert estimate.tokens(BLOCKS)[-1] > before
