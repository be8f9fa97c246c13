"""Log-probabilities of the tokens returned: causal ones, in diffusion those by which a token was committed."""

from __future__ import annotations

import random
from typing import Any

import pytest

from tests.common.cases import MODES, Case, mixed_cases, prompt
from tests.sglang.client import Answer
from tests.sglang.servers import Running

pytestmark = [
    pytest.mark.engine,
    pytest.mark.parametrize("running", ["trained", "sync"], indirect=True, scope="session"),
]
ASKED: dict[str, Any] = {"return_logprob": True, "top_logprobs_num": 3}


def check(running: Running, case: Case, answer: Answer) -> None:
    assert answer.token_ids == running.reference.generate(case).token_ids, case
    expected = running.reference.chosen_with(case)
    assert answer.logprobs == pytest.approx(expected, abs=2e-4), case
    top = answer.meta["output_top_logprobs"]
    assert [len(alternatives) for alternatives in top] == [3] * len(answer.token_ids)
    for chosen, alternatives in zip(expected, top, strict=True):
        values = [value for value, _, _ in alternatives]
        assert values == sorted(values, reverse=True)
        assert chosen == pytest.approx(values[0], abs=2e-4), "greedy decoding takes the likeliest token"


@pytest.mark.parametrize("mode", MODES)
def test_alone(running: Running, mode: str) -> None:
    tokens = prompt(random.Random(0), 24, running.reference.config.vocab_size)
    case = Case(tokens, 70, {"decoding_mode": mode}, ignore_eos=True)
    check(running, case, running.client.complete(case, **ASKED))


def test_sixteen_at_once(running: Running) -> None:
    cases = mixed_cases(running.reference.config.vocab_size, seed=3, most_tokens=60)
    for case, answer in zip(cases, running.client.complete_all(cases, **ASKED), strict=True):
        check(running, case, answer)


@pytest.mark.parametrize("mode", MODES)
def test_of_the_prompt_and_of_given_tokens(running: Running, mode: str) -> None:
    tokens = prompt(random.Random(1), 40, running.reference.config.vocab_size)
    case = Case(tokens, 35, {"decoding_mode": mode}, ignore_eos=True)
    given = [200, 300]
    answer = running.client.complete(
        case, return_logprob=True, logprob_start_len=0, token_ids_logprob=given, top_logprobs_num=2
    )
    values = answer.meta["input_token_logprobs"]
    assert [token for _, token, _ in values] == tokens
    expected = running.reference.logprobs(tokens[:1], tokens[1:])
    assert [value for value, _, _ in values[1:]] == pytest.approx(expected, abs=2e-4)
    assert answer.logprobs == pytest.approx(running.reference.chosen_with(case), abs=2e-4)
    of_given = answer.meta["output_token_ids_logprobs"]
    assert [[token for _, token, _ in values] for values in of_given] == [given] * 35
    whole = [*tokens, *answer.token_ids]
    causal = (0, 32) if mode == "diffusion" else (0, 1, 20, 34)  # of a block only its seed is a causal pick
    for place in causal:
        expected = running.reference.logprobs(whole[: 40 + place], given[:1])
        assert of_given[place][0][0] == pytest.approx(expected[0], abs=2e-4)
    # What is named is also among the likeliest where it was chosen.
    named = running.client.complete(case, return_logprob=True, token_ids_logprob=answer.token_ids[3:4])
    assert named.meta["output_token_ids_logprobs"][3][0][0] == pytest.approx(answer.logprobs[3], abs=2e-4)


@pytest.mark.parametrize("mode", MODES)
def test_streamed(running: Running, mode: str) -> None:
    tokens = prompt(random.Random(2), 24, running.reference.config.vocab_size)
    case = Case(tokens, 40, {"decoding_mode": mode}, ignore_eos=True)
    [*_, last] = running.client.events(case, return_logprob=True)
    check_values = [value for value, _, _ in last["meta_info"]["output_token_logprobs"]]
    assert check_values == pytest.approx(running.reference.chosen_with(case), abs=2e-4)
