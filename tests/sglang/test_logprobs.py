"""Log-probabilities of the prompt, of given tokens and in streams, as SGLang's own endpoint has them."""

from __future__ import annotations

import random

import pytest

from tests.common.cases import MODES, Case, prompt
from tests.served.setups import on
from tests.sglang.servers import Running

pytestmark = [pytest.mark.engine, on("trained", "paged", long=("sync",))]


@pytest.mark.parametrize("mode", MODES)
def test_of_the_prompt_and_of_given_tokens(running: Running, mode: str) -> None:
    tokens = prompt(random.Random(1), 40, running.reference.config.vocab_size)
    case = Case(tokens, 35, {"decoding_mode": mode}, ignore_eos=True)
    given = [200, 300]
    answer = running.client.complete(
        case, return_logprob=True, logprob_start_len=0, token_ids_logprob=given, top_logprobs_num=2
    )
    values = answer.raw["input_token_logprobs"]
    assert [token for _, token, _ in values] == tokens
    expected = running.reference.logprobs(tokens[:1], tokens[1:])
    assert [value for value, _, _ in values[1:]] == pytest.approx(expected, abs=2e-4)
    assert answer.logprobs == pytest.approx(running.reference.chosen_with(case), abs=2e-4)
    of_given = answer.raw["output_token_ids_logprobs"]
    assert [[token for _, token, _ in values] for values in of_given] == [given] * 35
    whole = [*tokens, *answer.token_ids]
    causal = (0, 32) if mode == "diffusion" else (0, 1, 20, 34)  # of a block only its seed is a causal pick
    for place in causal:
        expected = running.reference.logprobs(whole[: 40 + place], given[:1])
        assert of_given[place][0][0] == pytest.approx(expected[0], abs=2e-4)
    # What is named is also among the likeliest where it was chosen.
    named = running.client.complete(case, return_logprob=True, token_ids_logprob=answer.token_ids[3:4])
    assert named.raw["output_token_ids_logprobs"][3][0][0] == pytest.approx(answer.logprobs[3], abs=2e-4)


@pytest.mark.parametrize("mode", MODES)
def test_streamed(running: Running, mode: str) -> None:
    tokens = prompt(random.Random(2), 24, running.reference.config.vocab_size)
    case = Case(tokens, 40, {"decoding_mode": mode}, ignore_eos=True)
    [*_, last] = running.client.events(case, return_logprob=True)
    check_values = [value for value, _, _ in last["meta_info"]["output_token_logprobs"]]
    assert check_values == pytest.approx(running.reference.chosen_with(case), abs=2e-4)
