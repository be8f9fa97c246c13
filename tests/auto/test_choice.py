"""The choice of block lengths as a function of load, acceptance and costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nemotron_diffusion_plugin.auto.choice import (
    SWITCH_GAIN,
    Engine,
    Load,
    Others,
    best_choice,
    evaluate,
)
from nemotron_diffusion_plugin.costs import ForwardCosts

BLOCKS = np.array([1, 8, 16, 32])
GRAPHS = frozenset({1, 32})


def free_up_to(rows: int, ms: float = 4.0, kv: float = 0.0, eager_ms: float = 0.0) -> ForwardCosts:
    """Costs of a GPU: reading weights up to `rows`, computing behind."""
    points = ((1, ms), (rows, ms), (2 * rows, 2 * ms))
    return ForwardCosts(points, points, kv, eager_ms)


def geometric(rate: float) -> list[float]:
    return [sum(rate**place for place in range(block)) for block in BLOCKS]


def load_of(rates: Sequence[float], kv: int = 0, grammar: Sequence[bool] = (), **more: Any) -> Load:
    """Requests with these rates, the first ones with a grammar as `grammar` says."""
    count = len(rates)
    tokens = np.array([geometric(rate) for rate in rates])
    has_grammar = np.array([*grammar, *[False] * count][:count], dtype=bool)
    return Load(BLOCKS, np.tile(BLOCKS, (count, 1)), tokens, np.full(count, kv), has_grammar, **more)


def common(load: Load, costs: ForwardCosts, current: int | None = None) -> int:
    return int(BLOCKS[best_choice(load, costs, current).common])


@pytest.mark.parametrize(
    ("requests", "block"), [(1, 32), (4, 32), (6, 32), (9, 16), (12, 16), (24, 8), (40, 8), (80, 1), (256, 1)]
)
def test_blocks_shorten_as_the_batch_grows(requests: int, block: int) -> None:
    """206 rows are free on an H200: 32 to about 6 requests, 16 to about 16, 8 to about 50, AR above."""
    load = load_of([0.853] * requests)
    choice = best_choice(load, free_up_to(206))
    assert (BLOCKS[choice.places] == block).all()


costs_of = st.builds(free_up_to, st.integers(2, 600), st.floats(0.1, 50.0), st.floats(0.0, 0.001))


@settings(max_examples=300, deadline=None)
@given(costs_of, st.floats(0.0, 1.0), st.integers(1, 60), st.integers(1, 60), st.integers(0, 5000))
def test_more_requests_never_lengthen_the_block(
    costs: ForwardCosts, rate: float, few: int, more: int, kv: int
) -> None:
    few, more = sorted((few, more))
    assert common(load_of([rate] * more, kv), costs) <= common(load_of([rate] * few, kv), costs)


def test_of_equally_fast_lengths_the_shortest_is_taken() -> None:
    """Where computing bounds the speed and all is accepted, the lengths differ in rounding alone."""
    load = load_of([1.0] * 36, 536)
    costs = free_up_to(229, ms=1.0)
    assert common(load, costs) == 8
    assert common(load_of([1.0] * 43, 76), free_up_to(154, ms=25.344633770736085)) == 8


any_points = st.lists(st.floats(0.1, 100.0), min_size=4, max_size=4).map(
    lambda ms: tuple(zip((1, 30, 200, 1000), ms, strict=True))
)


@settings(max_examples=300, deadline=None)
@given(
    st.builds(
        ForwardCosts, any_points, any_points, st.floats(0.0, 0.01), st.floats(0.0, 50.0), st.floats(0.0, 2.0)
    ),
    st.lists(st.floats(0.0, 1.0), min_size=1, max_size=40),
    st.sampled_from([None, 0, 1, 2, 3]),
    st.integers(0, 3000),
    st.sampled_from([None, 40, 333]),
    st.booleans(),
    st.builds(
        Others,
        st.integers(0, 200),
        st.integers(0, 200),
        st.integers(0, 900),
        st.integers(0, 900),
        st.floats(0, 99),
        masks=st.integers(0, 99),
    ),
    st.lists(st.booleans(), max_size=40),
)
def test_never_expected_to_be_slower_than_ar(
    costs: ForwardCosts,
    rates: list[float],
    current: int | None,
    kv: int,
    at_once: int | None,
    ragged: bool,
    others: Others,
    grammar: list[bool],
) -> None:
    """Beyond the margin for which a batch stays with what it has; nor slower than any one length for all."""
    load = load_of(rates, kv, grammar, engine=Engine(at_once, ragged, GRAPHS), others=others)
    choice = best_choice(load, costs, current)
    for place in range(len(BLOCKS)):
        fixed = evaluate(load, costs, np.full(len(rates), place), place)
        assert choice.speed * (1.0 + SWITCH_GAIN) >= fixed.speed * (1.0 - 1e-9)
    again = evaluate(load, costs, choice.places, choice.common)
    assert (again.ms, again.tokens) == pytest.approx((choice.ms, choice.tokens))
    if not ragged:
        assert set(choice.places) <= {0, choice.common}


def test_who_rejects_everything_decodes_token_by_token_beside_the_others() -> None:
    choice = best_choice(load_of([0.9, 0.0, 0.9, 0.0]), free_up_to(60))
    assert BLOCKS[choice.places[[1, 3]]].tolist() == [1, 1]
    assert (choice.places[[0, 2]] > 0).all()


def test_alone_it_falls_back_to_ar_where_two_forwards_give_less_than_two_tokens() -> None:
    assert common(load_of([0.45]), free_up_to(206)) == 1
    assert common(load_of([0.55]), free_up_to(206)) == 32


def test_who_rejects_early_gets_a_shorter_block() -> None:
    """Rows are scarce: the last drafts of the request that breaks off early are not worth their rows."""
    load, costs = load_of([0.98, 0.7]), free_up_to(60)
    choice = best_choice(load, costs)
    assert BLOCKS[choice.places].tolist() == [32, 8]
    for fixed in ([3, 3], [3, 0], [2, 2], [1, 1], [0, 0]):
        assert choice.speed > evaluate(load, costs, np.array(fixed), max(fixed)).speed
    one_width = best_choice(load_of([0.98, 0.7], engine=Engine(ragged=False)), costs)
    assert len(set(one_width.places.tolist()) - {0}) == 1


def test_equal_requests_are_treated_alike() -> None:
    for count in range(1, 70):
        places = best_choice(load_of([0.853] * count), free_up_to(206)).places
        assert len(set(places.tolist())) == 1


def test_a_batch_stays_where_it_is_for_a_small_gain() -> None:
    """Around the border between two lengths the present one stays; far from it the better one wins."""
    costs = free_up_to(206)
    flips = [n for n in range(1, 60) if common(load_of([0.853] * n), costs) == 16]
    border = flips[0]
    near, far = load_of([0.853] * border), load_of([0.853] * (border + 5))
    assert (common(near, costs), common(near, costs, 3), common(far, costs, 3)) == (16, 32, 16)


def test_a_draft_forward_that_runs_anyway_makes_drafting_cheaper() -> None:
    costs = free_up_to(500)
    drafting = Others(verify_rows=32, draft_rows=32, tokens=1.0)
    rates = [0.4]
    assert common(load_of(rates), costs) == 1
    assert common(load_of(rates, others=drafting), costs) > 1


def test_neighbours_in_ar_count() -> None:
    """Two hundred rows of others leave no rows for blocks, and their tokens would have to wait."""
    many = Others(verify_rows=200, tokens=200.0)
    assert common(load_of([0.853], others=many), free_up_to(206)) == 1
    assert common(load_of([0.853]), free_up_to(206)) == 32


def test_where_lengths_cannot_share_a_forward_ar_rows_cost_one_more() -> None:
    rates, costs = [0.853, 0.0], free_up_to(206)
    choice = best_choice(load_of(rates, engine=Engine(ragged=False)), costs)
    mixed = evaluate(load_of(rates, engine=Engine(ragged=False)), costs, np.array([3, 0]), 3)
    assert mixed.ms == pytest.approx(3 * 4.0)
    assert choice.speed >= mixed.speed


def test_more_rows_than_fit_take_several_forwards() -> None:
    costs = free_up_to(206)
    load = load_of([0.853] * 4, engine=Engine(rows_at_once=40))
    assert evaluate(load, costs, np.full(4, 3), 3).ms == pytest.approx(2 * 4 * 4.0)
    assert common(load, costs) == 8


WITH_GRAPHS = Engine(captured=GRAPHS)


def test_a_forward_without_a_graph_takes_its_launches() -> None:
    costs = free_up_to(206, eager_ms=20.0)

    def ms(*chosen: int, others: Others | None = None) -> float:
        load = load_of([0.9, 0.9], engine=WITH_GRAPHS, others=others or Others())
        return evaluate(load, costs, np.array(chosen), max(chosen)).ms

    assert ms(3, 3) == pytest.approx(4.0 + 4.0), "a draft and a verify forward, all whole blocks"
    assert ms(0, 0) == pytest.approx(4.0), "AR rows alone"
    assert ms(2, 2) == pytest.approx(20.0 + 20.0), "blocks that were not captured"
    assert ms(3, 0) == pytest.approx(4.0 + 20.0), (
        "the draft has a graph, the rows of unequal length have none"
    )
    whole = Others(32, 32, tokens=1.0, verify_lengths=frozenset({32}), draft_lengths=frozenset({32}))
    assert ms(3, 3, others=whole) == pytest.approx(8.0)
    assert ms(0, 0, others=whole) == pytest.approx(4.0 + 20.0)
    beside = Others(1, tokens=1.0, verify_lengths=frozenset({1}))
    assert ms(3, 3, others=beside) == pytest.approx(4.0 + 20.0)
    shorter = load_of([0.9, 0.9], engine=WITH_GRAPHS)
    shorter.rows[1] = np.minimum(shorter.rows[1], 20)
    assert evaluate(shorter, costs, np.array([3, 3]), 3).ms == pytest.approx(40.0)


def test_launches_hide_behind_enough_rows() -> None:
    costs = free_up_to(206, eager_ms=15.0)
    load = load_of([0.9] * 64, engine=WITH_GRAPHS)
    assert evaluate(load, costs, np.full(64, 2), 2).ms == pytest.approx(2 * 4.0 * 1024 / 206)


@pytest.mark.parametrize(("eager_ms", "block"), [(0.0, 16), (4.0, 16), (12.0, 32)])
def test_what_was_not_captured_is_chosen_where_it_pays_all_the_same(eager_ms: float, block: int) -> None:
    load = load_of([0.853] * 12, engine=WITH_GRAPHS)
    assert common(load, free_up_to(206, eager_ms=eager_ms)) == block


def test_requests_that_reject_all_draft_beside_others_where_only_that_has_a_graph() -> None:
    rates = [0.95, 0.95, 0.0]
    costs = free_up_to(206, eager_ms=20.0)
    assert set(best_choice(load_of(rates, engine=WITH_GRAPHS), costs).places.tolist()) == {3}
    assert best_choice(load_of(rates), costs).places.tolist()[2] == 0


WITH_MASKS = replace(free_up_to(206), ms_per_mask=0.25)


def test_masks_take_their_time() -> None:
    def ms(*chosen: int, others: Others | None = None) -> float:
        load = load_of([0.9, 0.9], grammar=[True, False], others=others or Others())
        return evaluate(load, WITH_MASKS, np.array(chosen), max(chosen)).ms

    assert ms(0, 0) == pytest.approx(4.0 + 0.25)
    assert ms(3, 3) == pytest.approx(8.0 + 32 * 0.25)
    assert ms(0, 3) == pytest.approx(8.0 + 0.25)
    assert ms(0, 0, others=Others(masks=8)) == pytest.approx(4.0 + 9 * 0.25)
    unknown = evaluate(load_of([0.9], grammar=[True]), free_up_to(206), np.array([3]), 3)
    assert unknown.ms == pytest.approx(8.0)


def test_masks_shorten_the_blocks_of_those_with_a_grammar_most() -> None:
    """A row more costs the plain request nothing, the other one a mask of the host."""
    assert BLOCKS[best_choice(load_of([0.9, 0.9]), WITH_MASKS).places].tolist() == [32, 32]
    choice = best_choice(load_of([0.9, 0.9], grammar=[True, False]), WITH_MASKS)
    assert BLOCKS[choice.places].tolist() == [8, 16]


def test_many_with_a_grammar_decode_token_by_token_and_leave_the_drafts_to_the_others() -> None:
    """Their masks would hold up everybody: though they accept more, the others go first."""
    rates, grammar = [0.9] * 64 + [0.85] * 2, [True] * 64
    costs = replace(free_up_to(400), ms_per_mask=1.0)
    for ragged in (True, False):
        places = best_choice(load_of(rates, grammar=grammar, engine=Engine(ragged=ragged)), costs).places
        assert not places[:64].any()
        assert places[64:].all()
