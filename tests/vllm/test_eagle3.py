"""vLLM's own Eagle3 beside our model as its target: the tokens of `ar`, and the acceptance that was evaluated."""

from __future__ import annotations

import pytest

from tests.common.cases import Case
from tests.common.eagle3 import DEPTH, answers, cases, expected_score
from tests.vllm.client import Metrics
from tests.vllm.servers import Running

pytestmark = [
    pytest.mark.engine,
    pytest.mark.parametrize("running", ["eagle3"], indirect=True, scope="session"),
]


def counts(metrics: Metrics) -> tuple[int, list[int]]:
    """Cycles, and for each place in the draft how many of them accepted it."""
    prefix = "vllm:spec_decode_num"
    by_place = f"{prefix}_accepted_tokens_per_pos_total"
    places = [int(metrics.total(by_place, position=str(place))) for place in range(DEPTH)]
    return int(metrics.total(f"{prefix}_drafts_total")), places


def test_tokens_and_acceptance_are_those_of_the_evaluation(running: Running) -> None:
    before, before_by_place = counts(running.client.settled())
    served = running.client.complete_all(cases())
    assert [one.token_ids for one in served] == [one.emitted for one in answers()]
    expected = expected_score()
    metrics = running.client.settled(lambda metrics: counts(metrics)[0] >= before + expected.cycles)
    cycles, by_place = counts(metrics)
    assert cycles - before == expected.cycles
    places = zip(by_place, before_by_place, strict=True)
    assert [after - earlier for after, earlier in places] == expected.accepted_at
    assert expected.acceptance_length > 1.5


@pytest.mark.parametrize(
    "options", [{"decoding_mode": "diffusion"}, {"decoding_mode": "self_speculation", "block_size": 8}]
)
def test_another_mode_is_refused(running: Running, options: dict[str, object]) -> None:
    reply = running.client.post(running.client.body(Case([200, 300], 4, options)))
    assert reply.status_code == 400
    assert f"got '{options['decoding_mode']}', expected 'ar'" in reply.text
    assert "another speculator" in reply.text
