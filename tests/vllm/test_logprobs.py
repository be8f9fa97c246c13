"""Log-probabilities of the tokens returned: causal ones, in diffusion those by which a token was committed."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.common.cases import MODES, Case, mixed_cases, prompt
from tests.vllm.servers import Running

pytestmark = pytest.mark.engine
on = pytest.mark.parametrize


def a_case(running: Running, mode: str) -> Case:
    tokens = prompt(random.Random(0), 24, running.reference.config.vocab_size)
    return Case(tokens, 70, {"decoding_mode": mode}, ignore_eos=True)


@on("running", ["trained"], indirect=True, scope="session")
@on("mode", MODES)
def test_of_the_tokens_returned(running: Running, mode: str) -> None:
    """Causal ones; those of a diffusion block are of the denoise steps that committed its tokens."""
    case = a_case(running, mode)
    answer = running.client.complete(case, logprobs=3)
    assert answer.token_ids == running.reference.generate(case).token_ids
    logprobs = answer.choice["logprobs"]
    expected = running.reference.chosen_with(case)
    assert logprobs["token_logprobs"] == pytest.approx(expected, abs=2e-4)
    assert len(logprobs["top_logprobs"]) == len(answer.token_ids)
    for chosen, alternatives in zip(expected, logprobs["top_logprobs"], strict=True):
        assert len(alternatives) >= 3
        assert chosen == pytest.approx(max(alternatives.values()), abs=2e-4)


@on("running", ["trained"], indirect=True, scope="session")
@on("mode", MODES)
def test_of_named_tokens(running: Running, mode: str) -> None:
    """Beside a request that names none, so that the batch has both."""
    case = a_case(running, mode)
    tokens = running.reference.generate(case).token_ids
    named = [tokens[5], 300, 301]
    plain = {"logprobs": 2}
    with ThreadPoolExecutor(2) as pool:
        more = {"logprobs": 1, "logprob_token_ids": named, "return_tokens_as_token_ids": True}
        asked = pool.submit(running.client.complete, case, **more)
        other = pool.submit(running.client.complete, case, **plain)
    expected = running.reference.chosen_with(case)
    assert other.result().choice["logprobs"]["token_logprobs"] == pytest.approx(expected, abs=2e-4)
    answer = asked.result()
    assert answer.token_ids == tokens
    logprobs = answer.choice["logprobs"]
    assert logprobs["token_logprobs"] == pytest.approx(expected, abs=2e-4)
    keys = [f"token_id:{token}" for token in named]
    for token, alternatives in zip(tokens, logprobs["top_logprobs"], strict=True):
        assert set(alternatives) == {f"token_id:{token}", *keys}
    assert logprobs["top_logprobs"][5][keys[0]] == pytest.approx(expected[5], abs=2e-4)
    causal = (
        (0, 32, 64) if mode == "diffusion" else (0, 1, 20, 69)
    )  # of a block only its seed is a causal pick
    for place in causal:
        before = [*case.prompt, *tokens[:place]]
        for token, key in zip(named, keys, strict=True):
            [value] = running.reference.logprobs(before, [token])
            assert logprobs["top_logprobs"][place][key] == pytest.approx(value, abs=2e-4)


@on("running", ["budget", "pool", "auto"], indirect=True, scope="session")
def test_sixteen_at_once(running: Running) -> None:
    """Also where blocks are cut by a budget of tokens, or are begun again behind a preemption."""
    cases = mixed_cases(running.reference.config.vocab_size, seed=3, most_tokens=60)
    for case, answer in zip(cases, running.client.complete_all(cases, logprobs=2), strict=True):
        assert answer.token_ids == running.reference.generate(case).token_ids, case
        expected = running.reference.chosen_with(case)
        assert answer.choice["logprobs"]["token_logprobs"] == pytest.approx(expected, abs=2e-4), case
