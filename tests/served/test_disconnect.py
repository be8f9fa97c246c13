"""Clients that leave in mid-block, by the hundred, take their KV with them."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Sequence

import httpx
import pytest

from tests.common.cases import MODES, Case, mixed_cases, prompt
from tests.served.running import Running
from tests.served.setups import SGLANG, on

CLIENTS = int(os.environ.get("NEMOTRON_DIFFUSION_CLIENTS", "100"))
AT_ONCE = 25
SECONDS = 300.0
SLOW = {"decoding_mode": "diffusion", "commit_rule": "fixed", "tokens_per_step": 1}
OPTIONS = [SLOW if mode == "diffusion" else {"decoding_mode": mode} for mode in MODES]

pytestmark = [
    pytest.mark.engine,
    on("trained", "paged", long=("sync",)) if SGLANG else on("paged", "pool", long=("plain", "small-pool")),
]


async def _leave_after_first_event(http: httpx.AsyncClient, url: str, body: dict[str, object]) -> None:
    async with http.stream("POST", url, json={**body, "stream": True}) as reply:
        assert reply.status_code == 200
        async for line in reply.aiter_lines():
            if line.startswith("data:"):
                return


async def leave_all(url: str, bodies: Sequence[dict[str, object]]) -> None:
    """Stream every body from `url`, a few at once, and hang up after the first event of each."""
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(http: httpx.AsyncClient, body: dict[str, object]) -> None:
        async with gate:
            await _leave_after_first_event(http, url, body)

    async with httpx.AsyncClient(timeout=SECONDS, limits=httpx.Limits(max_connections=None)) as http:
        await asyncio.gather(*(one(http, body) for body in bodies))


def check_that_nothing_is_left(running: Running) -> None:
    """Nothing runs, no KV is held; answers and forwards are the reference's."""
    assert running.idle(), running.server.log_tail()
    running.check(mixed_cases(running.reference.config.vocab_size, seed=8, most_tokens=100))


def test_clients_leave(running: Running) -> None:
    """After the first token the next block of every request is being denoised, drafted or verified."""
    rng, vocab = random.Random(0), running.reference.config.vocab_size
    bodies = []
    for number in range(CLIENTS):
        tokens = prompt(rng, rng.choice((1, 33, 90, 150)), vocab)
        bodies.append(running.client.body(Case(tokens, 300, OPTIONS[number % 3], ignore_eos=True)))
    before = running.client.settled()
    asyncio.run(leave_all(running.server.url + running.client.path, bodies))
    assert running.idle(), running.server.log_tail()
    after = running.client.settled()
    started, new = (
        sum(after.mode(name, mode) - before.mode(name, mode) for mode in MODES)
        for name in ("requests", "generated_tokens")
    )
    assert started == CLIENTS
    assert new < CLIENTS * 300 / 2, "most clients must have left long before the end"
    check_that_nothing_is_left(running)
