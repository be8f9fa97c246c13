"""The simulated policy keeps its promises, and the page shows what the simulation gives."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.policy.__main__ import CONCURRENCIES, h200_costs, header, line
from benchmarks.policy.simulation import Row, compare, run
from benchmarks.policy.traces import BLOCKS, OTHER_PATH, PATH, SCENARIOS, recorded
from nemotron_diffusion_plugin.tools.training.tasks import CATEGORIES

PAGE = Path(__file__).parents[2] / "docs" / "policy-simulation.md"
MOST_REGRET = 0.08
LEAST_OF_AR = 0.95


@pytest.fixture(scope="module", params=SCENARIOS)
def rows(request: pytest.FixtureRequest) -> list[Row]:
    costs = h200_costs()
    return [compare(SCENARIOS[request.param], concurrency, costs) for concurrency in CONCURRENCIES]


def test_regret_and_ar(rows: list[Row]) -> None:
    for row in rows:
        assert row.regret <= MOST_REGRET, row
        assert row.over_ar >= LEAST_OF_AR, row


def test_the_page_shows_these_numbers(rows: list[Row]) -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert "\n".join([*header(), *map(line, rows)]) in text


@pytest.mark.parametrize("path", [PATH, OTHER_PATH])
def test_the_recordings_cover_every_category(path: Path) -> None:
    traces = recorded(path)
    assert set(traces) == set(CATEGORIES)
    for answers in traces.values():
        assert len(answers) == 3
        for trace in answers:
            assert set(trace.accepted) == set(BLOCKS)
            for block, counts in trace.accepted.items():
                assert len(counts) == trace.tokens > 3
                left = range(trace.tokens, 0, -1)
                assert all(0 <= n <= min(block - 1, most) for n, most in zip(counts, left, strict=True))


def test_a_fixed_choice_of_one_is_ar() -> None:
    costs = h200_costs()
    outcome = run(SCENARIOS["acceptance length 6.82 (drawn)"], 2, costs, fixed=1)
    assert outcome.chosen == {1: outcome.tokens}
    assert outcome.ms == pytest.approx(outcome.tokens / 2 * costs.forward_ms(2, 2250, False), rel=0.01)


def test_length_by_load() -> None:
    """At the published acceptance length: 32 to 4 requests, 16 at 8 to 16, 8 at 32 to 64, AR at 256."""
    costs, scenario = h200_costs(), SCENARIOS["acceptance length 6.82 (drawn)"]
    usual = {}
    for concurrency in (1, 4, 8, 32, 256):
        chosen = run(scenario, concurrency, costs).chosen
        usual[concurrency] = max(chosen, key=lambda block: chosen[block])
    assert usual == {1: 32, 4: 32, 8: 16, 32: 8, 256: 1}
