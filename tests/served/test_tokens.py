"""Tokens and forwards of the served model equal the reference decoder's, alone and among 15 others."""

from __future__ import annotations

import random
from typing import Any

import pytest

from tests.common.cases import (
    BLOCK,
    DIFFUSION_OPTIONS,
    SPECULATION_OPTIONS,
    Case,
    alone_cases,
    in_every_mode,
    mixed_cases,
    prompt,
)
from tests.served.running import Running
from tests.served.setups import VLLM, on

pytestmark = pytest.mark.engine
SLOWER = ("plain", "budget", "small-pool", "sync")
everywhere = on("trained", "paged", "pool", long=SLOWER)
undisturbed = on("trained", "paged", *(("pool",) if VLLM else ()), long=SLOWER)
VOCABULARY = 1024


def check_one_by_one(running: Running, cases: list[Case]) -> None:
    for case in cases:
        mode = running.reference.mode(case)
        before = running.client.settled()
        running.check_answers([case], [running.client.complete(case)])
        after = running.client.settled()
        running.check_forwards([case], before, after, [mode])
        new = after.mode("generated_tokens", mode) - before.mode("generated_tokens", mode)
        assert new == len(running.reference.generate(case).token_ids)


@everywhere
def test_alone(running: Running) -> None:
    check_one_by_one(running, alone_cases(running.reference.config.vocab_size, seed=1))


@undisturbed
def test_no_forward_is_hidden(running: Running) -> None:
    """The engine runs no other forwards than those it counts for the request.

    Where it schedules ahead, one step may be under way when it learns that the request has ended.
    """
    ahead = int(running.setup.ahead)
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
    running.check(mixed_cases(running.reference.config.vocab_size, seed))


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


def agreed_cases() -> list[Case]:
    """What both engines are asked, by one server of each in the long lane (`tests/sglang/test_cross_engine.py`)."""
    rng = random.Random(21)
    options: list[dict[str, Any]] = [{"decoding_mode": "ar"}]
    options += [{"decoding_mode": "diffusion", **chosen} for chosen in DIFFUSION_OPTIONS]
    options += [{"decoding_mode": "self_speculation", **chosen} for chosen in SPECULATION_OPTIONS]
    return [
        Case(prompt(rng, rng.choice((3, 32, 70)), VOCABULARY), 50, chosen, rng.random() < 0.7)
        for chosen in options
    ]


@on(long=["trained"])
def test_what_both_engines_are_asked(running: Running) -> None:
    """Each gives the reference decoder's tokens, reasons and forwards, and so the other's."""
    check_one_by_one(running, agreed_cases())
    running.check(mixed_cases(VOCABULARY, seed=30, most_tokens=60))
