"""SGLang's own Eagle3 beside our model as its target: the tokens of `ar`, and the acceptance that was evaluated."""

from __future__ import annotations

import pytest

from tests.common.cases import Case
from tests.common.eagle3 import DEPTH, answers, cases, expected_score
from tests.common.metrics import Metrics
from tests.sglang.servers import Running

pytestmark = [
    pytest.mark.engine,
    pytest.mark.parametrize("running", ["eagle3"], indirect=True, scope="session"),
]


def verify_calls(metrics: Metrics) -> int:
    """SGLang's own counter of cycles, which is not on its page before the first one."""
    try:
        return int(metrics.total("sglang:spec_verify_calls_total"))
    except KeyError:
        return 0


def test_tokens_and_acceptance_are_those_of_the_evaluation(running: Running) -> None:
    before = verify_calls(running.client.settled())
    served = running.client.complete_all(cases())
    assert [one.token_ids for one in served] == [one.emitted for one in answers()]
    cycles, by_place = 0, [0] * DEPTH
    for one in served:
        cycles += one.meta["spec_verify_ct"]
        for accepted, times in enumerate(one.meta["spec_correct_drafts_histogram"]):
            for place in range(accepted):
                by_place[place] += times
    expected = expected_score()
    assert (cycles, by_place) == (expected.cycles, expected.accepted_at)
    counted = running.client.settled(lambda metrics: verify_calls(metrics) >= before + expected.cycles)
    assert verify_calls(counted) - before == expected.cycles
    assert expected.acceptance_length > 1.5


@pytest.mark.parametrize(
    "options", [{"decoding_mode": "diffusion"}, {"decoding_mode": "self_speculation", "block_size": 8}]
)
def test_another_mode_is_refused(running: Running, options: dict[str, object]) -> None:
    reply = running.client.post(running.client.body(Case([200, 300], 4, options)))
    assert reply.status_code == 400
    assert f"got '{options['decoding_mode']}', expected 'ar'" in reply.text
    assert "another speculative algorithm" in reply.text
