"""A prefix written in one mode is found and right in every other, a half-generated block included."""

from __future__ import annotations

import random

import pytest

from tests.common.cases import BLOCK, MODES, Case, prompt
from tests.vllm.servers import Running

PAGE = 32

pytestmark = [
    pytest.mark.engine,
    pytest.mark.parametrize("running", ["prefixes"], indirect=True, scope="session"),
]


def hits(running: Running) -> int:
    return int(running.client.settled().total("vllm:prefix_cache_hits_total"))


def emitted_before_the_last_step(running: Running, case: Case) -> int:
    """The engine files a page once its last token is known when a step is scheduled."""
    answer = running.reference.generate(case)
    if running.reference.mode(case) == "diffusion":
        return 1 + BLOCK * (answer.verify_forwards - 1)
    if running.reference.mode(case) == "self_speculation":
        return 1 + sum(accepted + 1 for accepted in answer.accepted[:-1])
    return len(answer.token_ids) - 1


@pytest.mark.parametrize("second", MODES)
@pytest.mark.parametrize("first", MODES)
def test_next_turn_hits_prompt_and_answer(running: Running, first: str, second: str) -> None:
    """The second turn starts with the first one's prompt and answer, which ends inside a block and a page."""
    rng = random.Random(f"{first}{second}")
    vocab = running.reference.config.vocab_size
    opening = Case(prompt(rng, 75, vocab), 59, {"decoding_mode": first}, ignore_eos=True)
    answer = running.client.complete(opening)
    assert answer.token_ids == running.reference.generate(opening).token_ids

    turn = [*opening.prompt, *answer.token_ids, *prompt(rng, 9, vocab)]
    following = Case(turn, 50, {"decoding_mode": second}, ignore_eos=True)
    before = hits(running)
    found = running.client.complete(following, logprobs=1)
    known = len(opening.prompt) + emitted_before_the_last_step(running, opening)
    assert hits(running) - before == known // PAGE * PAGE
    assert found.token_ids == running.reference.generate(following).token_ids
    expected = running.reference.chosen_with(following)
    assert found.choice["logprobs"]["token_logprobs"] == pytest.approx(expected, abs=2e-4)


@pytest.mark.parametrize("mode", MODES)
def test_acceptance_does_not_change_with_a_hit(running: Running, mode: str) -> None:
    """The same request again: tokens and forwards as the first time, though its prompt is not computed."""
    case = Case(
        prompt(random.Random(mode), 130, running.reference.config.vocab_size), 70, {"decoding_mode": mode}
    )
    counts = []
    for _ in range(2):
        before, hits_before = running.client.settled().forwards(mode), hits(running)
        assert running.client.complete(case).token_ids == running.reference.generate(case).token_ids
        counts.append({kind: n - before[kind] for kind, n in running.client.settled().forwards(mode).items()})
        found = hits(running) - hits_before
    assert found == 128
    assert counts[0] == counts[1] == running.reference.totals([case], mode)
