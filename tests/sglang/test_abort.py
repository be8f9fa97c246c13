"""Requests that are aborted take their KV slots with them."""

from __future__ import annotations

import asyncio
import random

import httpx
import pytest

from tests.common.cases import MODES, Case, mixed_cases, prompt
from tests.served.setups import on
from tests.served.test_disconnect import OPTIONS, SLOW, check_that_nothing_is_left
from tests.sglang.servers import Running

pytestmark = [pytest.mark.engine, on("trained", "pool")]


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
