import pytest

from nemotron_diffusion_plugin.tools.bench.client import Reply
from nemotron_diffusion_plugin.tools.bench.counts import Counts, count, total
from nemotron_diffusion_plugin.tools.bench.data import Prompt
from nemotron_diffusion_plugin.tools.bench.methods import find_method
from nemotron_diffusion_plugin.tools.bench.statistics import Spread, percentile, percentiles
from nemotron_diffusion_plugin.tools.client.counters import ModeCounters

PROMPTS = [Prompt("a", (), "yes"), Prompt("a", (), "no"), Prompt("a", ())]
REPLIES = [
    Reply("yes ", 5, 10, [1, 0, 2]),
    Reply("yes", 6, 7, [0, 1]),
    Reply("?", 7, 3),
]


def test_a_mode_is_counted_by_the_server():
    counted = count(find_method("self_speculation"), PROMPTS, REPLIES, ModeCounters(4, 0, 6, 20, 4, 5))
    assert (counted.requests, counted.prompt_tokens, counted.tokens) == (3, 18, 20)
    assert (counted.right, counted.checked, counted.accuracy) == (1, 2, 0.5)
    assert counted.forwards == {"prefill": 3, "draft": 4, "denoise": 0, "verify": 6}
    assert counted.tokens_per_decode_forward == 2.0
    assert counted.tokens_per_forward == pytest.approx(20 / 13)
    assert counted.acceptance_length == 1 + 5 / 4
    assert counted.by_position == [3, 2]
    assert counted.acceptance_by_position == [0.75, 0.5]


def test_another_speculator_is_counted_by_its_replies():
    counted = count(find_method("eagle3"), PROMPTS, REPLIES, None)
    assert (counted.cycles, counted.accepted) == (4, 5)
    assert counted.forwards == {"prefill": 3, "verify": 4}
    assert counted.tokens_per_decode_forward == 5.0
    assert counted.acceptance_length == 2.25


def test_another_speculator_must_report_what_it_accepted():
    with pytest.raises(
        ValueError, match=r"Eagle3: no answer says how many .* --per-request-spec-decode-metrics"
    ):
        count(find_method("eagle3"), PROMPTS[:1], [Reply("yes", 5, 10)], None)
    single = count(find_method("eagle3"), PROMPTS[:1], [Reply("yes", 5, 1)], None)
    assert (single.cycles, single.acceptance_length) == (0, 0)
    nothing = count(find_method("ngram"), PROMPTS[:1], [Reply("yes", 5, 10, [0, 0])], None)
    assert nothing.acceptance_length == 0


def test_diffusion_accepts_no_drafts():
    counted = count(find_method("diffusion@0.9"), PROMPTS, REPLIES, ModeCounters(0, 7, 3, 20, 3, 0))
    assert counted.by_position == []
    assert counted.tokens_per_decode_forward == 2.0


def test_nothing_divides_by_zero():
    empty = Counts()
    assert (empty.tokens_per_forward, empty.tokens_per_decode_forward, empty.acceptance_length) == (0, 0, 0)
    assert empty.accuracy is None
    assert empty.acceptance_by_position == []


def test_totals_add_everything_up():
    one = Counts(1, 2, 3, 1, 1, {"prefill": 1, "verify": 2}, 2, 1, [1])
    two = Counts(1, 2, 5, 0, 1, {"prefill": 1, "denoise": 4}, 3, 4, [2, 1])
    both = total([one, two])
    assert both == Counts(2, 4, 8, 1, 2, {"prefill": 2, "verify": 2, "denoise": 4}, 5, 5, [3, 1])
    assert Counts.from_json(both.to_json()) == both


def test_spreads_and_percentiles():
    assert Spread.of([3.0, 1.0, 10.0]) == Spread(3.0, 1.0, 10.0, 3)
    assert Spread.of([3.0, 1.0, 10.0]).text(1) == "3.0 (1.0–10.0)"
    assert Spread.of([3.0]).text() == "3"
    with pytest.raises(ValueError, match="at least one"):
        Spread.of([])
    assert percentile([4.0, 1.0, 3.0, 2.0, 5.0], 50) == 3.0
    assert percentile([1.0, 2.0], 90) == pytest.approx(1.9)
    assert percentiles([]) == {"p50": 0.0, "p90": 0.0, "p99": 0.0}
