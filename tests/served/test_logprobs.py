"""Log-probabilities of the tokens returned: causal ones, in diffusion those by which a token was committed."""

from __future__ import annotations

import random

import pytest

from tests.common.cases import MODES, Case, mixed_cases, prompt
from tests.served.client import Answer
from tests.served.endpoint import COMPLETIONS
from tests.served.running import Running
from tests.served.setups import SGLANG, on

pytestmark = pytest.mark.engine
every_mode = pytest.mark.parametrize("mode", MODES)
TOP = 3


def check(running: Running, case: Case, answer: Answer) -> None:
    assert answer.token_ids == running.reference.generate(case).token_ids, case
    expected = running.reference.chosen_with(case)
    assert answer.logprobs == pytest.approx(expected, abs=2e-4), case
    assert len(answer.top_logprobs) == len(answer.token_ids)
    for chosen, alternatives in zip(expected, answer.top_logprobs, strict=True):
        assert len(alternatives) == TOP if SGLANG else len(alternatives) >= TOP  # vLLM adds the token itself
        assert alternatives == sorted(alternatives, reverse=True)
        assert chosen == pytest.approx(alternatives[0], abs=2e-4), "greedy decoding takes the likeliest token"


@on("trained", "paged", long=("sync",))
@every_mode
def test_alone(running: Running, mode: str) -> None:
    tokens = prompt(random.Random(0), 24, running.reference.config.vocab_size)
    case = Case(tokens, 70, {"decoding_mode": mode}, ignore_eos=True)
    check(running, case, running.client.complete(case, logprobs=TOP))


@on("trained", "paged", "pool", long=("auto", "budget", "small-pool", "sync"))
def test_sixteen_at_once(running: Running) -> None:
    """Also where blocks are cut by a budget of tokens, or are begun again after a preemption."""
    cases = mixed_cases(running.reference.config.vocab_size, seed=3, most_tokens=60)
    for case, answer in zip(cases, running.client.complete_all(cases, logprobs=TOP), strict=True):
        check(running, case, answer)


@on("trained")
@every_mode
def test_echo(running: Running, mode: str) -> None:
    """Prompt and answer come back with log-probabilities, the prompt's causal ones from its second token on."""
    reference, options, new = running.reference, {"decoding_mode": mode}, 40
    tokens = prompt(random.Random(4), 30, reference.config.vocab_size)
    case = Case(tokens, new, options, ignore_eos=True)
    fields = {"prompt": tokens, "max_tokens": new, "temperature": 0, "ignore_eos": True}
    [choice] = running.endpoint.choices(COMPLETIONS, options, **fields, echo=True, logprobs=2)
    values = choice["logprobs"]["token_logprobs"]
    assert len(values) == len(tokens) + new
    expected = reference.logprobs(tokens[:1], tokens[1:]) + reference.chosen_with(case)
    assert values[1:] == pytest.approx(expected, abs=2e-4)
    [alone] = running.endpoint.choices(COMPLETIONS, options, **fields)
    assert choice["text"].endswith(alone["text"])
    assert len(choice["text"]) > len(alone["text"])
