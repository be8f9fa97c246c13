"""The set-ups that are meant to be tight are tight: prompts are cut, requests are retracted in every mode."""

from __future__ import annotations

import random

import pytest

from tests.common.cases import MODES, Case, prompt
from tests.served.setups import on
from tests.sglang.servers import Running

ROUNDS = 5

pytestmark = pytest.mark.engine
FULL, FORCED = "KV cache pool is full", "Testing retraction"


@on("paged", long=("sync",))
def test_prompts_are_cut(running: Running) -> None:
    vocab = running.reference.config.vocab_size
    for mode in MODES:
        long = Case(
            prompt(random.Random(f"cut {mode}"), 300, vocab), 40, {"decoding_mode": mode}, ignore_eos=True
        )
        expected = running.reference.generate(long)
        before = running.client.settled()
        assert running.client.complete(long).token_ids == expected.token_ids
        causal = running.client.settled().engine("causal") - before.engine("causal")
        assert causal == expected.verify_forwards + -(-300 // running.setup.chunk)


@on("pool")
def test_pool_retracts(running: Running) -> None:
    """A retracted request gives the tokens it would have given, whichever mode it is in and wherever it stood."""
    vocab, rng = running.reference.config.vocab_size, random.Random(4)
    full, forced = running.retractions(FULL), running.retractions(FORCED)
    retracted: set[str] = set()
    for _ in range(ROUNDS):  # whom SGLang retracts depends on the order of arrival
        cases = [
            Case(prompt(rng, 60, vocab), 150, {"decoding_mode": MODES[number % 3]}, ignore_eos=True)
            for number in range(15)
        ]
        for case, answer in zip(cases, running.client.complete_all(cases), strict=True):
            assert answer.token_ids == running.reference.generate(case).token_ids, case
            if answer.raw["num_retractions"]:
                retracted.add(case.options["decoding_mode"])
        if retracted == set(MODES):
            break
    assert retracted == set(MODES)
    assert running.retractions(FULL) > full, "the pool was never full: it is not tight enough"
    assert running.retractions(FORCED) > forced
    assert running.client.empty_cache()


@on("pool")
def test_retracted_with_logprobs(running: Running) -> None:
    """Log-probabilities of a retracted request are those of its tokens, each once."""
    vocab, rng = running.reference.config.vocab_size, random.Random(5)
    cases = [
        Case(prompt(rng, 20, vocab), 60, {"decoding_mode": MODES[number % 3]}, ignore_eos=True)
        for number in range(9)
    ]
    answers = running.client.complete_all(cases, logprobs=1)
    for case, answer in zip(cases, answers, strict=True):
        assert answer.token_ids == running.reference.generate(case).token_ids, case
        expected = running.reference.chosen_with(case)
        assert answer.logprobs == pytest.approx(expected, abs=2e-4), case
    assert any(answer.raw["num_retractions"] for answer in answers)


@on("pool")
@pytest.mark.parametrize("mode", MODES)
def test_retracted_while_streaming(running: Running, mode: str) -> None:
    """What a client has got already is never taken back."""
    vocab, rng = running.reference.config.vocab_size, random.Random(mode)
    case = Case(prompt(rng, 20, vocab), 150, {"decoding_mode": mode}, ignore_eos=True)
    others = [Case(prompt(rng, 9, vocab), 150, {"decoding_mode": "ar"}, ignore_eos=True) for _ in range(3)]
    expected = running.reference.generate(case).token_ids
    with running.client.in_background(others):
        counts = [0]
        for event in running.client.events(case):
            counts.append(event["meta_info"]["completion_tokens"])
            assert event["output_ids"] == expected[: counts[-1]]
    assert counts == sorted(counts)
    assert counts[-1] == 150
