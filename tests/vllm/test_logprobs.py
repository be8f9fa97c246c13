"""Log-probabilities of tokens that a request names, which vLLM has."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.common.cases import MODES, Case, prompt
from tests.served.setups import on
from tests.vllm.servers import Running

pytestmark = [pytest.mark.engine, on("trained")]


@pytest.mark.parametrize("mode", MODES)
def test_of_named_tokens(running: Running, mode: str) -> None:
    """Beside a request that names none, so that the batch has both."""
    tokens = prompt(random.Random(0), 24, running.reference.config.vocab_size)
    case = Case(tokens, 70, {"decoding_mode": mode}, ignore_eos=True)
    tokens = running.reference.generate(case).token_ids
    named = [tokens[5], 300, 301]
    plain = {"logprobs": 2}
    with ThreadPoolExecutor(2) as pool:
        more = {"logprobs": 1, "logprob_token_ids": named, "return_tokens_as_token_ids": True}
        asked = pool.submit(running.client.complete, case, **more)
        other = pool.submit(running.client.complete, case, **plain)
    expected = running.reference.chosen_with(case)
    assert other.result().logprobs == pytest.approx(expected, abs=2e-4)
    answer = asked.result()
    assert answer.token_ids == tokens
    logprobs = answer.raw["logprobs"]
    assert answer.logprobs == pytest.approx(expected, abs=2e-4)
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
