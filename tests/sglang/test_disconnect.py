"""Clients that leave in mid-block, by the hundred, and requests that are aborted take their KV slots with them."""

from __future__ import annotations

import asyncio
import os
import random

import httpx
import pytest

from tests.common.cases import MODES, Case, mixed_cases, prompt
from tests.common.leaving import leave_all
from tests.sglang.servers import Running

CLIENTS = int(os.environ.get("NEMOTRON_DIFFUSION_CLIENTS", "200"))
SLOW = {"decoding_mode": "diffusion", "commit_rule": "fixed", "tokens_per_step": 1}
OPTIONS = [SLOW if mode == "diffusion" else {"decoding_mode": mode} for mode in MODES]

pytestmark = pytest.mark.engine


def check_that_nothing_is_left(running: Running) -> None:
    """Nothing runs; SGLang's memory check found every slot; answers and forwards are the reference's."""
    assert running.client.empty_cache(), "requests are still running"
    assert running.server.is_running(), running.server.log_tail()
    before = running.client.settled()
    cases = mixed_cases(running.reference.config.vocab_size, seed=8, most_tokens=100)
    for case, answer in zip(cases, running.client.complete_all(cases), strict=True):
        assert answer.token_ids == running.reference.generate(case).token_ids, case
    after = running.client.settled()
    if running.setup.retracts:
        return
    for mode in MODES:
        forwards = {kind: n - before.forwards(mode)[kind] for kind, n in after.forwards(mode).items()}
        assert forwards == running.reference.totals(cases, mode), mode


@pytest.mark.parametrize("running", ["trained", "sync"], indirect=True, scope="session")
def test_clients_leave(running: Running) -> None:
    """After the first token the next block of every request is being denoised, drafted or verified."""
    rng, vocab = random.Random(0), running.reference.config.vocab_size
    bodies = []
    for number in range(CLIENTS):
        tokens = prompt(rng, rng.choice((1, 33, 90, 150)), vocab)
        bodies.append(running.client.body(Case(tokens, 300, OPTIONS[number % 3], ignore_eos=True)))
    before = running.client.settled()
    asyncio.run(leave_all(f"{running.server.url}/generate", bodies))
    assert running.client.empty_cache(), "requests are still running"
    after = running.client.settled()
    started = sum(after.mode("requests", mode) - before.mode("requests", mode) for mode in MODES)
    new = sum(after.mode("generated_tokens", mode) - before.mode("generated_tokens", mode) for mode in MODES)
    assert started == CLIENTS
    assert new < CLIENTS * 300 / 2, "most clients must have left long before the end"
    check_that_nothing_is_left(running)


@pytest.mark.parametrize("running", ["trained", "pool"], indirect=True, scope="session")
@pytest.mark.parametrize("mode", MODES)
def test_aborted_request(running: Running, mode: str) -> None:
    """/abort_request ends a stream with the reason "abort"; the others go on as if it had not been there."""
    vocab = running.reference.config.vocab_size
    slow = SLOW if mode == "diffusion" else {"decoding_mode": mode}
    case = Case(prompt(random.Random(1), 30, vocab), 400, slow, ignore_eos=True)
    others = mixed_cases(vocab, seed=9, count=3, most_tokens=40)
    rid = f"leaves-{mode}"
    with running.client.in_background(others) as answered:
        reasons, count = [], 0
        for event in running.client.events(case, rid=rid):
            if not reasons:
                running.client.post({"rid": rid}, path="/abort_request").raise_for_status()
            reasons.append((event["meta_info"]["finish_reason"] or {}).get("type"))
            count = event["meta_info"]["completion_tokens"]
    assert reasons[-1] == "abort"
    assert count < 400
    for other, answer in zip(others, answered, strict=True):
        assert answer.token_ids == running.reference.generate(other).token_ids, other


@pytest.mark.parametrize("running", ["trained", "pool"], indirect=True, scope="session")
def test_all_aborted_at_once(running: Running) -> None:
    """Twenty requests, of which some wait for a place: all end, and nothing of them is left."""
    rng, vocab = random.Random(2), running.reference.config.vocab_size
    bodies = [
        running.client.body(Case(prompt(rng, 40, vocab), 300, OPTIONS[number % 3], ignore_eos=True))
        for number in range(20)
    ]

    async def abort_all() -> list[int]:
        async with httpx.AsyncClient(base_url=running.server.url, timeout=120) as http:
            pending = [asyncio.create_task(http.post("/generate", json=body)) for body in bodies]
            await asyncio.sleep(1.0)
            (await http.post("/abort_request", json={"abort_all": True})).raise_for_status()
            return [reply.status_code for reply in await asyncio.gather(*pending)]

    asyncio.run(abort_all())
    check_that_nothing_is_left(running)
