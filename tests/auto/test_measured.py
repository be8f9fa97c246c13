"""What is measured at start, with a clock that only forwards move."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from nemotron_diffusion_plugin.auto.measured import (
    REPEATS,
    SECONDS,
    as_setting,
    measure,
    row_counts,
)
from nemotron_diffusion_plugin.costs import ForwardCosts

SHARE = 1e-5


class Machine:
    """Forwards take `ms(rows, bidirectional)`; every run is kept."""

    def __init__(self, ms: Callable[[int, bool], float]) -> None:
        self.ms = ms
        self.now = 100.0
        self.runs: list[tuple[int, bool]] = []

    def run(self, rows: int, bidirectional: bool) -> None:
        self.runs.append((rows, bidirectional))
        self.now += self.ms(rows, bidirectional) / 1e3

    def measure(
        self, block_size: int = 32, most: int = 256, has_graphs: bool = False, singles: int | None = None
    ) -> ForwardCosts:
        return measure(
            self.run, block_size, most, SHARE, has_graphs=has_graphs, singles=singles, clock=lambda: self.now
        )


def linear(rows: int, bidirectional: bool) -> float:
    return 4.0 + 0.02 * rows + bidirectional


@pytest.mark.parametrize(
    ("block_size", "most", "expected"),
    [
        (32, 256, [1, 32, 256, 8, 16, 24, 64, 96, 128, 192]),
        (32, 40, [1, 32, 8, 16, 24]),
        (12, 50, [1, 12, 48, 8, 24, 36]),
        (4, 1, [1, 4]),
        (1, 1, [1]),
    ],
)
def test_rows_are_a_token_a_block_the_most_and_what_lies_between(
    block_size: int, most: int, expected: list[int]
) -> None:
    assert row_counts(block_size, most) == expected


def test_costs_are_what_the_clock_says() -> None:
    machine = Machine(linear)
    costs = machine.measure()
    assert [rows for rows, _ in costs.causal] == sorted(row_counts(32, 256))
    for rows, ms in costs.causal:
        assert ms == pytest.approx(linear(rows, False))
    for rows, ms in costs.bidirectional:
        assert ms == pytest.approx(linear(rows, True))
    assert costs.ms_per_kv_token == pytest.approx(linear(1, False) * SHARE)
    assert costs.eager_ms == 0.0
    assert machine.runs.count((64, True)) == 1 + REPEATS


def test_a_slow_run_is_left_out_and_more_rows_never_cost_less() -> None:
    seen: dict[tuple[int, bool], int] = {}

    def noisy(rows: int, bidirectional: bool) -> float:
        seen[rows, bidirectional] = count = seen.get((rows, bidirectional), 0) + 1
        steady = 3.0 if rows == 64 else linear(rows, bidirectional)
        return steady if count == 4 else 5.0 * steady

    by_rows = dict(Machine(noisy).measure().causal)
    assert by_rows[32] == pytest.approx(linear(32, False))
    assert by_rows[64] == by_rows[32]


def rows_of(costs: ForwardCosts) -> list[int]:
    rows = [rows for rows, _ in costs.causal]
    assert rows == [rows for rows, _ in costs.bidirectional]
    return rows


def test_a_slow_machine_is_measured_for_a_row_a_block_and_the_most_only() -> None:
    machine = Machine(lambda rows, bidirectional: 1e3 * SECONDS)
    assert rows_of(machine.measure()) == [1, 32, 256]
    assert len(machine.runs) == 4 + 3 * 2 * 2, "first runs, then two of each: the clock has run out"


def test_a_slow_machine_bound_by_arithmetic_is_not_measured_for_the_most() -> None:
    machine = Machine(lambda rows, bidirectional: 1e3 * SECONDS * rows)
    assert rows_of(machine.measure()) == [1, 32]
    assert max(rows for rows, _ in machine.runs) == 32


def test_first_runs_that_compile_take_nothing_from_the_time_to_measure() -> None:
    compiled: set[tuple[bool, bool]] = set()

    def ms(rows: int, bidirectional: bool) -> float:
        kernel = rows >= 32, bidirectional
        is_first = kernel not in compiled
        compiled.add(kernel)
        return 1e3 * SECONDS if is_first else linear(rows, bidirectional)

    assert rows_of(Machine(ms).measure()) == sorted(row_counts(32, 256))


def test_where_graphs_were_captured_drafts_below_a_block_show_what_eager_forwards_take() -> None:
    def ms(rows: int, bidirectional: bool) -> float:
        return 9.0 if bidirectional and rows < 32 else linear(rows, bidirectional)

    costs = Machine(ms).measure(has_graphs=True)
    assert costs.eager_ms == pytest.approx(9.0)
    assert costs.bidirectional[0] == (32, pytest.approx(linear(32, True)))
    assert costs.causal[0][0] == 1


def test_with_graphs_more_rows_than_requests_are_measured_as_blocks_only() -> None:
    """They would be a part of a block, run causally, which replays no graph."""
    machine = Machine(linear)
    costs = machine.measure(has_graphs=True, singles=8)
    assert [rows for rows, _ in costs.causal][:4] == [1, 8, 32, 64]
    assert not {(16, False), (24, False)} & set(machine.runs)


def test_with_graphs_a_block_may_take_less_than_fewer_single_tokens() -> None:
    costs = Machine(lambda rows, bidirectional: 2.0 if rows >= 32 else 3.0).measure(has_graphs=True)
    by_rows = dict(costs.causal)
    assert (by_rows[24], by_rows[32]) == (pytest.approx(3.0), pytest.approx(2.0))
    without = Machine(lambda rows, bidirectional: 2.0 if rows >= 32 else 3.0).measure()
    assert dict(without.causal)[32] == pytest.approx(3.0)


def test_ranks_run_the_same_forwards() -> None:
    """A rank whose own clock stands still stops where the first rank's has run out."""
    asked: list[bool] = []

    def of_first_rank(go_on: bool) -> bool:
        asked.append(go_on)
        return False

    machine = Machine(linear)
    costs = measure(machine.run, 32, 512, SHARE, agree=of_first_rank, clock=lambda: 0.0)
    assert any(asked), "this rank would have gone on"
    assert rows_of(costs) == [1, 32]
    assert len(machine.runs) == 4 + 2 * 2 * 2


def test_the_log_s_table_can_be_given_back() -> None:
    costs = Machine(linear).measure(has_graphs=True)
    again = ForwardCosts.read(json.loads(as_setting(costs)))
    for rows in (1, 20, 100, 300):
        for bidirectional in (False, True):
            expected = costs.forward_ms(rows, 1000, bidirectional)
            assert again.forward_ms(rows, 1000, bidirectional) == pytest.approx(expected, rel=1e-3)
    assert again.eager_ms == pytest.approx(costs.eager_ms)
