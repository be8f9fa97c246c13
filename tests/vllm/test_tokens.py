"""Tokens and forwards of the served model equal the reference decoder's, alone and among 15 others."""

from __future__ import annotations

import random

import pytest

from tests.common.cases import BLOCK, MODES, Case, alone_cases, in_every_mode, mixed_cases, prompt
from tests.vllm.servers import Running

pytestmark = [
    pytest.mark.engine,
    pytest.mark.parametrize(
        "running", ["trained", "prefixes", "budget", "pool"], indirect=True, scope="session"
    ),
]


def test_alone(running: Running) -> None:
    for case in alone_cases(running.reference.config.vocab_size, seed=1):
        expected = running.reference.generate(case)
        before = running.client.metrics()
        answer = running.client.complete(case)
        after = running.client.metrics()
        mode = running.reference.mode(case)
        assert answer.token_ids == expected.token_ids, case
        assert answer.finish_reason == expected.finish_reason, case
        forwards = {kind: n - before.forwards(mode)[kind] for kind, n in after.forwards(mode).items()}
        assert forwards == running.reference.totals([case], mode), case
        assert after.mode("generated_tokens", mode) - before.mode("generated_tokens", mode) == len(
            expected.token_ids
        )


def test_no_forward_is_hidden(running: Running) -> None:
    """The engine runs no other forwards than those it counts for the request.

    Where it schedules ahead, one step may be under way when it learns that the request has ended.
    """
    ahead = int(running.setup.asynchronous)
    rng = random.Random(5)
    prompts = prompt(rng, 20, running.reference.config.vocab_size)
    for case in in_every_mode(Case(prompts, 75, {}, ignore_eos=True)):
        expected = running.reference.generate(case)
        before = running.client.settled()
        assert running.client.complete(case).token_ids == expected.token_ids
        after = running.client.settled()
        bidirectional = after.engine("bidirectional") - before.engine("bidirectional")
        assert bidirectional == expected.draft_forwards + expected.denoise_forwards, case
        causal = after.engine("causal") - before.engine("causal") - 1
        assert expected.verify_forwards <= causal <= expected.verify_forwards + ahead, case


@pytest.mark.parametrize("seed", [0, 1])
def test_sixteen_at_once(running: Running, seed: int) -> None:
    cases = mixed_cases(running.reference.config.vocab_size, seed)
    before = running.client.metrics()
    answers = running.client.complete_all(cases)
    after = running.client.settled()
    for case, answer in zip(cases, answers, strict=True):
        expected = running.reference.generate(case)
        assert answer.token_ids == expected.token_ids, case
        assert answer.finish_reason == expected.finish_reason, case
    if after.total("vllm:num_preemptions_total") > before.total("vllm:num_preemptions_total"):
        return  # a preempted block is drafted again, which is honestly counted
    for mode in MODES:
        forwards = {kind: n - before.forwards(mode)[kind] for kind, n in after.forwards(mode).items()}
        expected_forwards = running.reference.totals(cases, mode)
        if running.name == "budget":  # a block that the budget cuts is committed in parts
            assert forwards.pop("verify") >= expected_forwards.pop("verify"), mode
            assert forwards.pop("draft") >= expected_forwards.pop("draft"), mode
        assert forwards == expected_forwards, mode


def test_self_speculation_is_ar(running: Running) -> None:
    """Greedy self-speculation gives the tokens of AR, at any block size, with and without the LoRA."""
    rng = random.Random(9)
    vocab = running.reference.config.vocab_size
    for length in (1, 40, 200):
        tokens = prompt(rng, length, vocab)
        ar = running.client.complete(Case(tokens, 64, {"decoding_mode": "ar"}, ignore_eos=True))
        for options in ({}, {"draft_lora": False}, {"block_size": 7}, {"block_size": BLOCK}):
            case = Case(tokens, 64, {"decoding_mode": "self_speculation", **options}, ignore_eos=True)
            assert running.client.complete(case).token_ids == ar.token_ids, case
