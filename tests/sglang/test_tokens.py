"""Tokens and forwards of the served model equal the reference decoder's, alone and among 15 others."""

from __future__ import annotations

import random

import pytest

from tests.common.cases import BLOCK, MODES, Case, alone_cases, in_every_mode, mixed_cases, prompt
from tests.common.metrics import Metrics
from tests.sglang.client import Answer
from tests.sglang.servers import Running

pytestmark = pytest.mark.engine
everywhere = pytest.mark.parametrize(
    "running", ["trained", "sync", "paged", "pool"], indirect=True, scope="session"
)
undisturbed = pytest.mark.parametrize("running", ["trained", "sync", "paged"], indirect=True, scope="session")


def counted(before: Metrics, after: Metrics, mode: str) -> dict[str, int]:
    return {kind: n - before.forwards(mode)[kind] for kind, n in after.forwards(mode).items()}


def check(running: Running, cases: list[Case], answers: list[Answer]) -> None:
    for case, answer in zip(cases, answers, strict=True):
        expected = running.reference.generate(case)
        assert answer.token_ids == expected.token_ids, case
        assert answer.finish_reason == expected.finish_reason, case


@everywhere
def test_alone(running: Running) -> None:
    for case in alone_cases(running.reference.config.vocab_size, seed=1):
        mode = running.reference.mode(case)
        before = running.client.metrics()
        check(running, [case], [running.client.complete(case)])
        after = running.client.settled()
        assert counted(before, after, mode) == running.reference.totals([case], mode), case
        new = after.mode("generated_tokens", mode) - before.mode("generated_tokens", mode)
        assert new == len(running.reference.generate(case).token_ids)


@undisturbed
def test_no_forward_is_hidden(running: Running) -> None:
    """The engine runs no other forwards than those it counts for the request.

    Where it schedules ahead, one step may be under way when it learns that the request has ended.
    """
    ahead = int(running.setup.overlap)
    tokens = prompt(random.Random(5), 14, running.reference.config.vocab_size)
    for case in in_every_mode(Case(tokens, 75, {}, ignore_eos=True)):
        expected = running.reference.generate(case)
        before = running.client.settled()
        assert running.client.complete(case).token_ids == expected.token_ids
        after = running.client.settled()
        bidirectional = after.engine("bidirectional") - before.engine("bidirectional")
        assert bidirectional == expected.draft_forwards + expected.denoise_forwards, case
        causal = after.engine("causal") - before.engine("causal") - 1
        assert expected.verify_forwards <= causal <= expected.verify_forwards + ahead, case


@everywhere
@pytest.mark.parametrize("seed", [0, 1])
def test_sixteen_at_once(running: Running, seed: int) -> None:
    cases = mixed_cases(running.reference.config.vocab_size, seed)
    before = running.client.settled()
    check(running, cases, running.client.complete_all(cases))
    if running.setup.retracts:
        return  # a retracted block is drafted again, which is honestly counted
    after = running.client.settled()
    for mode in MODES:
        assert counted(before, after, mode) == running.reference.totals(cases, mode), mode


@undisturbed
def test_self_speculation_is_ar(running: Running) -> None:
    """Greedy self-speculation gives the tokens of AR, at any block size, with and without the LoRA."""
    rng = random.Random(9)
    vocab = running.reference.config.vocab_size
    for length in (1, 40, 200):
        tokens = prompt(rng, length, vocab)
        ar = running.client.complete(Case(tokens, 64, {"decoding_mode": "ar"}, ignore_eos=True))
        cases = [
            Case(tokens, 64, {"decoding_mode": "self_speculation", **options}, ignore_eos=True)
            for options in ({}, {"draft_lora": False}, {"block_size": 7}, {"block_size": BLOCK})
        ]
        for case, answer in zip(cases, running.client.complete_all(cases), strict=True):
            assert answer.token_ids == ar.token_ids, case


@pytest.mark.parametrize("running", ["triton"], indirect=True, scope="session")
def test_another_attention_backend(running: Running) -> None:
    """The kernels of the backend that needs no GPU library, interpreted: a few tokens of each mode, alone and mixed."""
    tokens = prompt(random.Random(2), 5, running.reference.config.vocab_size)
    options = ({"decoding_mode": "self_speculation"}, {"decoding_mode": "diffusion", "block_size": 4})
    cases = [Case(tokens, 5, chosen, ignore_eos=True) for chosen in ({"decoding_mode": "ar"}, *options)]
    before = running.client.settled()
    check(running, cases, [running.client.complete(case) for case in cases])
    check(running, cases, running.client.complete_all(cases))
    after = running.client.settled()
    for mode in MODES:
        assert counted(before, after, mode) == running.reference.totals([*cases, *cases], mode), mode
