"""Sampled self-speculation answers as AR does: the same distribution over answers, whatever shapes it."""

from __future__ import annotations

import os
import random
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.common.cases import mixed_cases, prompt
from tests.served.distributions import CASES, DRAWS, Answers, draw, same_distribution
from tests.served.endpoint import COMPLETIONS
from tests.served.running import Running
from tests.served.setups import on

pytestmark = [pytest.mark.engine, on("trained")]

TEXT = "So 3"
"""The bundled model is unsure how to go on, and its drafts are accepted often and rejected often."""

UNLIKELY = 1e-6
IN_LONG_LANE = ("top_p 0.9", "top_k 5")
every_case = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.long) if name in IN_LONG_LANE else name for name in CASES]
)
STEPS = int(os.environ.get("NEMOTRON_DIFFUSION_STEPS", "2000"))


def answers(running: Running, mode: str, name: str) -> Answers:
    kept: dict[tuple[str, str], Answers] = running.__dict__.setdefault("drawn_answers", {})
    if (mode, name) not in kept:
        tokens = running.tokenize(TEXT)
        kept[mode, name] = draw(running.endpoint, tokens, mode, CASES[name], DRAWS)
    return kept[mode, name]


@pytest.mark.timeout(3600)
@every_case
def test_self_speculation_draws_as_ar(running: Running, name: str) -> None:
    before = running.client.settled()
    drafted = answers(running, "self_speculation", name)
    after = running.client.settled()
    causal = answers(running, "ar", name)
    assert drafted.total() == causal.total() == DRAWS
    probability = same_distribution(drafted, causal)
    print(f"{running.name}, {name}: {DRAWS} draws each, p = {probability:.3f}")
    assert probability > UNLIKELY
    cycles = after.mode("cycles", "self_speculation") - before.mode("cycles", "self_speculation")
    accepted = after.mode("accepted_drafts", "self_speculation") - before.mode(
        "accepted_drafts", "self_speculation"
    )
    assert cycles > 1.2 * DRAWS, "drafts must be rejected"
    assert accepted > 0.5 * DRAWS, "drafts must be accepted"


@every_case
def test_a_seed_draws_in_self_speculation_what_it_draws_in_ar(running: Running, name: str) -> None:
    """Token for token, whatever the blocks and whoever runs beside it; drafts are accepted and rejected on the way."""
    tokens = running.tokenize("What is 34 + 57? Show the")
    fields = {**CASES[name], "prompt": tokens, "max_tokens": 60, "ignore_eos": True, "return_token_ids": True}

    def drawn(seed: int, **options: Any) -> list[int]:
        [choice] = running.endpoint.choices(COMPLETIONS, options, seed=seed, **fields)
        ids: list[int] = choice["token_ids"]
        return ids

    before = running.client.settled()
    for seed in (3, 4):
        expected = drawn(seed, decoding_mode="ar")
        with ThreadPoolExecutor(5) as pool:
            blocks = (32, 16, 5, 2, 1)
            asked = [pool.submit(drawn, seed, decoding_mode="self_speculation", block_size=b) for b in blocks]
        assert [one.result() for one in asked] == [expected] * len(blocks)
        assert drawn(seed, decoding_mode="auto") == expected
    assert drawn(5, decoding_mode="ar") != expected
    after = running.client.settled()
    accepted, cycles = (
        after.mode(name, "self_speculation") - before.mode(name, "self_speculation")
        for name in ("accepted_drafts", "cycles")
    )
    assert 0.3 * cycles < accepted < 8 * cycles


def test_the_comparison_tells_distributions_apart(running: Running) -> None:
    warm, hot = (answers(running, "self_speculation", name) for name in ("temperature 0.7", "top_p 0.9"))
    assert same_distribution(warm, hot) < UNLIKELY


def test_thousands_of_steps_of_sampling(running: Running) -> None:
    """Sampled requests that come and go in the same slots leave a server that answers right."""
    rng, vocab_size = random.Random(0), running.reference.config.vocab_size
    fields = {"max_tokens": 100, "temperature": 1.0, "ignore_eos": True}
    while running.client.settled().mode("cycles", "self_speculation") < STEPS:
        prompts = [prompt(rng, 20, vocab_size) for _ in range(32)]
        running.endpoint.choices(COMPLETIONS, {"decoding_mode": "self_speculation"}, prompt=prompts, **fields)
    assert running.idle(), running.server.log_tail()
    cases = mixed_cases(vocab_size, seed=31, count=9, most_tokens=40)
    for case, answer in zip(cases, running.client.complete_all(cases), strict=True):
        assert answer.token_ids == running.reference.generate(case).token_ids, case
