"""The engine's own Eagle3 beside our model as its target: the tokens of `ar`, and the acceptance that was evaluated."""

from __future__ import annotations

import pytest

from tests.common.cases import Case
from tests.common.eagle3 import DEPTH, answers, cases, expected_score
from tests.served.client import Answer
from tests.served.metrics import Metrics
from tests.served.running import Running
from tests.served.setups import VLLM, on

pytestmark = [pytest.mark.engine, on(long=["eagle3"])]


def cycles(metrics: Metrics) -> int:
    """The engine's own counter of cycles, which is not on SGLang's page before the first one."""
    name = "vllm:spec_decode_num_drafts_total" if VLLM else "sglang:spec_verify_calls_total"
    try:
        return int(metrics.total(name))
    except KeyError:
        return 0


def accepted_at(served: list[Answer], before: Metrics, after: Metrics) -> list[int]:
    """For each place in the draft how many cycles accepted it."""
    if VLLM:
        name = "vllm:spec_decode_num_accepted_tokens_per_pos_total"
        places = [str(place) for place in range(DEPTH)]
        return [int(after.total(name, position=one) - before.total(name, position=one)) for one in places]
    assert sum(one.raw["spec_verify_ct"] for one in served) == expected_score().cycles
    by_place = [0] * DEPTH
    for one in served:
        for accepted, times in enumerate(one.raw["spec_correct_drafts_histogram"]):
            for place in range(accepted):
                by_place[place] += times
    return by_place


def test_tokens_and_acceptance_are_those_of_the_evaluation(running: Running) -> None:
    before, expected = running.client.settled(), expected_score()
    served = running.client.complete_all(cases())
    assert [one.token_ids for one in served] == [one.emitted for one in answers()]
    wanted = cycles(before) + expected.cycles
    after = running.client.settled(lambda metrics: cycles(metrics) >= wanted)
    assert cycles(after) == wanted
    assert accepted_at(served, before, after) == expected.accepted_at
    assert expected.acceptance_length > 1.5


@pytest.mark.parametrize(
    "options", [{"decoding_mode": "diffusion"}, {"decoding_mode": "self_speculation", "block_size": 8}]
)
def test_another_mode_is_refused(running: Running, options: dict[str, object]) -> None:
    reply = running.client.post(running.client.body(Case([200, 300], 4, options)))
    assert reply.status_code == 400
    assert f"got '{options['decoding_mode']}', expected 'ar'" in reply.text
    assert f"another {'speculator' if VLLM else 'speculative algorithm'}" in reply.text
