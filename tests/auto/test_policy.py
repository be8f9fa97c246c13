"""The policy over time: falling back, probing, and staying where it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from nemotron_diffusion_plugin.auto.choice import Engine
from nemotron_diffusion_plugin.auto.estimate import IDLE_MEMORY
from nemotron_diffusion_plugin.auto.policy import PROBE_SHARE, BlockPolicy, Candidate
from nemotron_diffusion_plugin.costs import ForwardCosts

POINTS = ((1, 4.4), (206, 4.4), (412, 8.8))
COSTS = ForwardCosts(POINTS, POINTS, 1e-5)


def policy() -> BlockPolicy:
    return BlockPolicy(COSTS, (8, 16, 32))


def candidates(one: BlockPolicy, count: int, most: int = 32) -> list[Candidate]:
    return [Candidate(one.estimate(), most, 100) for _ in range(count)]


def play(
    one: BlockPolicy, requests: list[Candidate], steps: int, accepts: Callable[[int], int]
) -> list[list[int]]:
    """Run steps in which each block of b has `accepts(b - 1)` drafts accepted; returns the lengths of each."""
    chosen = []
    for _ in range(steps):
        lengths = one.decide(requests)
        for request, length in zip(requests, lengths, strict=True):
            if length > 1:
                request.estimate.observe(length - 1, accepts(length - 1))
        chosen.append(lengths)
    return chosen


def test_nobody_to_choose_for() -> None:
    assert policy().decide([]) == []


@pytest.mark.parametrize(("count", "length"), [(1, 32), (4, 32), (12, 16), (32, 8), (256, 1)])
def test_load(count: int, length: int) -> None:
    one = policy()
    assert one.decide(candidates(one, count)) == [length] * count


@pytest.mark.parametrize("most", [1, 2, 5, 16, 20])
def test_a_request_may_bound_its_block(most: int) -> None:
    one = policy()
    assert one.decide([*candidates(one, 1, most), *candidates(one, 1)]) == [most, 32]


def test_a_hopeless_request_falls_to_ar_and_costs_no_more_than_its_probes() -> None:
    one = policy()
    lengths = [step[0] for step in play(one, candidates(one, 1), 1000, lambda drafts: 0)]
    assert 1 in lengths[:8]
    late = lengths[200:]
    assert 0 < sum(length > 1 for length in late) <= len(late) * 1.5 * PROBE_SHARE


def test_it_comes_back_when_drafts_are_accepted_again() -> None:
    one = policy()
    requests = candidates(one, 1)
    play(one, requests, 300, lambda drafts: 0)
    lengths = [step[0] for step in play(one, requests, 200, lambda drafts: drafts)]
    assert lengths[0] == 1
    assert lengths[-50:] == [32] * 50


def test_a_batch_comes_back_too() -> None:
    one = policy()
    requests = candidates(one, 8)
    play(one, requests, 300, lambda drafts: 0)
    lengths = play(one, requests, 400, lambda drafts: drafts)
    assert all(length > 1 for step in lengths[-20:] for length in step)


def test_a_probe_is_known_to_be_one() -> None:
    one = policy()
    [request] = candidates(one, 1)
    play(one, [request], 300, lambda drafts: 0)
    while one.decide([request]) == [1]:
        assert not request.estimate.probing
    assert request.estimate.probing
    request.estimate.observe(7, 0)
    assert not request.estimate.probing


def test_what_is_not_drafted_for_is_forgotten_slowly() -> None:
    one = policy()
    [hopeless] = candidates(one, 1)
    for _ in range(50):
        hopeless.estimate.observe(31, 0)
    seen = hopeless.estimate.evidence
    assert one.decide([hopeless]) == [1]
    assert hopeless.estimate.evidence == pytest.approx(IDLE_MEMORY * seen)
    [good] = candidates(one, 1)
    good.estimate.observe(31, 31)
    seen = good.estimate.evidence
    assert one.decide([good])[0] > 1
    assert good.estimate.evidence == seen


def test_no_probes_where_drafting_could_not_pay() -> None:
    one = policy()
    lengths = play(one, candidates(one, 400), 200, lambda drafts: drafts)
    assert {length for step in lengths for length in step} == {1}


def test_probes_stay_within_their_share_of_time() -> None:
    """64 requests that accept nothing: the expected time with probes is at most their share above AR's."""
    one = policy()
    requests = candidates(one, 64)
    play(one, requests, 200, lambda drafts: 0)
    spent = alone = 0.0
    for lengths in play(one, requests, 1000, lambda drafts: 0):
        rows = [length for length in lengths if length > 1]
        spent += COSTS.forward_ms(sum(rows), 100 * len(rows), True) + COSTS.forward_ms(
            sum(lengths), 6400, False
        )
        alone += COSTS.forward_ms(64, 6400, False)
    assert alone < spent <= alone * (1.0 + 1.1 * PROBE_SHARE)


def test_lengths_do_not_flap_at_a_border() -> None:
    one = policy()
    requests = candidates(one, 99)
    border = next(n for n in range(30, 99) if policy().decide(candidates(policy(), n)) == [1] * n)
    lengths = [one.decide(requests[: border - step % 2])[0] for step in range(20)]
    assert policy().decide(candidates(policy(), border - 1)) == [8] * (border - 1)
    assert len(set(lengths[1:])) == 1


def test_the_same_steps_give_the_same_choices() -> None:
    runs = []
    for _ in range(2):
        one = policy()
        runs.append(play(one, candidates(one, 5), 100, lambda drafts: drafts * 7 % 5))
    assert runs[0] == runs[1]


def test_all_or_none_are_probed_where_only_that_has_a_graph() -> None:
    costs = replace(COSTS, eager_ms=50.0)
    one = BlockPolicy(costs, (32,), Engine(captured=frozenset({1, 32})))
    steps = play(one, candidates(one, 20), 600, lambda drafts: 0)
    assert all(len(set(step)) == 1 for step in steps)
    late = [step[0] for step in steps[200:]]
    assert 0 < sum(length > 1 for length in late) <= len(late) * 1.5 * PROBE_SHARE
