"""Clients that misbehave, and load that comes and goes: the server goes on and keeps nothing of them."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
from typing import Any

import httpx
import pytest

from tests.common.cases import DIFFUSION_OPTIONS, MODES, Case, mixed_cases
from tests.served.endpoint import CHAT, COMPLETIONS, Endpoint
from tests.served.running import Running
from tests.served.setups import on

pytestmark = [pytest.mark.engine, on("trained")]

WORKERS = 64
ROUNDS = int(os.environ.get("NEMOTRON_DIFFUSION_ROUNDS", "3"))
"""Requests that each of the workers sends, one after another."""

NO_REUSE = httpx.Limits(max_connections=None, max_keepalive_connections=0)
"""A connection that a busy server closes just as it is used again is no fault of the server's."""

KILLED = 6

STREAMING_CLIENT = """
import httpx, sys
headers = {"Content-Type": "application/json"}
with httpx.stream("POST", sys.argv[1], content=sys.argv[2], headers=headers, timeout=300) as reply:
    for line in reply.iter_lines():
        if line.startswith("data: {"):
            print("first", flush=True)
"""


def check_that_nothing_is_left(running: Running) -> None:
    """No request runs, no KV is held, and requests of every mode get the reference's tokens."""
    assert running.idle(), running.server.log_tail()
    cases = mixed_cases(running.reference.config.vocab_size, seed=21, count=9, most_tokens=40)
    for case, answer in zip(cases, running.client.complete_all(cases), strict=True):
        assert answer.token_ids == running.reference.generate(case).token_ids, case


def a_request(rng: random.Random, api: Endpoint, vocab_size: int) -> tuple[str, dict[str, Any]]:
    """Path and body of a random request: any mode, greedy or sampled, some with penalties or a grammar."""
    mode = rng.choice(MODES)
    options: dict[str, Any] = {"decoding_mode": mode}
    fields: dict[str, Any] = {"max_tokens": rng.choice((1, 5, 33, 64, 100)), "stream": rng.random() < 0.8}
    fields["temperature"] = rng.choice((0.0, 0.7, 1.0))
    if mode == "diffusion":
        options |= rng.choice(DIFFUSION_OPTIONS)
    else:
        options["block_size"] = rng.choice((4, 8, 32))
        shaped: list[dict[str, Any]] = [
            {},
            {},
            {"top_p": 0.9},
            {"top_k": 5},
            {"presence_penalty": 0.5, "frequency_penalty": 0.5},
            {"logit_bias": {"300": 3.0}},
            {"stop": ["a", "1"]},
            api.regex("[a-z ]{4,40}"),
        ]
        fields |= rng.choice(shaped)
    if rng.random() < 0.3:
        fields["messages"] = [{"role": "user", "content": f"Question {rng.randrange(9)}"}]
        return CHAT, api.body(options, **fields)
    length = rng.choice((1, 20, 33, 90))
    fields |= {"prompt": [rng.randrange(101, vocab_size) for _ in range(length)], "ignore_eos": True}
    fields |= {"n": 2, "temperature": 1.0} if rng.random() < 0.1 else {}
    return COMPLETIONS, api.body(options, **fields)


async def _worker(http: httpx.AsyncClient, api: Endpoint, vocab_size: int, number: int) -> list[str]:
    rng, outcomes = random.Random(number), []
    for _ in range(ROUNDS):
        path, body = a_request(rng, api, vocab_size)
        leave_after = rng.choice((None, None, 0, 1, 3))
        async with http.stream("POST", path, json=body) as reply:
            assert reply.status_code == 200, await reply.aread()
            events, ended = 0, False
            if leave_after == 0:
                outcomes.append("left")
                continue
            async for line in reply.aiter_lines():
                events += line.startswith("data: {")
                assert '"error"' not in line[:20], line
                ended |= line == "data: [DONE]" or not body["stream"]
                if leave_after is not None and events >= leave_after and not ended:
                    break
            outcomes.append("ended" if ended else "left")
    return outcomes


@pytest.mark.timeout(1800)
def test_many_mixed_requests_with_random_cancels(running: Running) -> None:
    api, vocab_size = running.endpoint, running.reference.config.vocab_size

    async def run() -> list[list[str]]:
        async with httpx.AsyncClient(base_url=running.server.url, timeout=600, limits=NO_REUSE) as http:
            return await asyncio.gather(
                *(_worker(http, api, vocab_size, number) for number in range(WORKERS))
            )

    outcomes = [outcome for worker in asyncio.run(run()) for outcome in worker]
    assert len(outcomes) == WORKERS * ROUNDS
    assert min(outcomes.count("left"), outcomes.count("ended")) > len(outcomes) // 8
    check_that_nothing_is_left(running)


def test_killed_clients(running: Running) -> None:
    """Processes that die by SIGKILL in mid-stream, of every mode."""
    slow = {"decoding_mode": "diffusion", "commit_rule": "fixed", "tokens_per_step": 1}
    before = running.client.settled()
    clients = []
    for number in range(KILLED):
        mode = MODES[number % 3]
        options = slow if mode == "diffusion" else {"decoding_mode": mode}
        body = running.endpoint.body(
            options, prompt=[200 + number] * 20, max_tokens=400, temperature=0, ignore_eos=True, stream=True
        )
        command = [sys.executable, "-c", STREAMING_CLIENT, running.server.url + COMPLETIONS, json.dumps(body)]
        clients.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
    for client in clients:
        assert client.stdout is not None
        assert client.stdout.readline() == "first\n"
        client.send_signal(signal.SIGKILL)
        assert client.wait(30) == -signal.SIGKILL
        client.stdout.close()
    assert running.idle(), running.server.log_tail()
    after = running.client.settled()
    generated = sum(
        after.mode("generated_tokens", mode) - before.mode("generated_tokens", mode) for mode in MODES
    )
    assert generated < KILLED * 400
    check_that_nothing_is_left(running)


MALFORMED: dict[str, bytes] = {
    "empty": b"",
    "no JSON": b"hello",
    "half a body": b'{"model": "m", "prompt": "a',
    "a list": b"[]",
    "null": b"null",
    "a number": b"7",
    "no UTF-8": b'{"prompt": "\xff\xfe"}',
    "lone surrogate": b'{"prompt": "\\ud800", "max_tokens": 2}',
    "NUL": b'{"prompt": "a\\u0000b", "max_tokens": 2}',
    "not a number": b'{"prompt": "a", "temperature": NaN}',
    "infinity": b'{"prompt": "a", "temperature": Infinity, "max_tokens": 2}',
    "nested deeply": b'{"prompt": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "nested options": b'{"prompt": "a", "OPTIONS": ' + b'{"a":' * 50_000 + b"1" + b"}" * 50_001,
    "huge number": b'{"prompt": "a", "max_tokens": 1' + b"0" * 4000 + b"}",
    "options of every type": b'{"prompt": "a", "OPTIONS": {"block_size": 1e308, "threshold": [[]], "": null}}',
    "repeated field": b'{"prompt": "a", "prompt": 5, "max_tokens": 2}',
}

OVERSIZED: dict[str, dict[str, Any]] = {
    "text": {"prompt": "word " * 400_000},
    "ids": {"prompt": [300] * 200_000},
    "stop strings": {"prompt": "a", "stop": ["x" * 100_000] * 4},
    "stop ids": {"prompt": "a", "stop_token_ids": list(range(20_000))},
    "logit bias": {"prompt": "a", "logit_bias": {str(key % 1024): 1 for key in range(5000)}},
    "option name": {"prompt": "a", "OPTIONS": {"x" * 1_000_000: 1}},
    "option value": {"prompt": "a", "OPTIONS": {"decoding_mode": "x" * 1_000_000}},
    "many options": {"prompt": "a", "OPTIONS": {f"option{number}": number for number in range(50_000)}},
}


def post_bytes(running: Running, path: str, content: bytes) -> httpx.Response:
    named = content.replace(b'"OPTIONS"', json.dumps(running.endpoint.options_field).encode())
    headers = {"Content-Type": "application/json"}
    reply: httpx.Response = running.client.http.post(path, content=named, headers=headers)
    return reply


@pytest.mark.parametrize("path", [COMPLETIONS, CHAT])
@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_body(running: Running, name: str, path: str) -> None:
    reply = post_bytes(running, path, MALFORMED[name])
    assert reply.status_code < 500 or running.is_known_error(path, MALFORMED[name]), reply.text[-2000:]
    assert running.server.healthy()


@pytest.mark.parametrize("name", OVERSIZED)
def test_oversized_body(running: Running, name: str) -> None:
    fields = {"model": running.endpoint.model, "max_tokens": 2, "temperature": 0, **OVERSIZED[name]}
    reply = post_bytes(running, COMPLETIONS, json.dumps(fields).encode())
    assert reply.status_code < 500, reply.text[-2000:]
    assert len(reply.content) < 100_000, "an error repeats what was sent"
    assert running.server.healthy()
    case = Case([200, 300], 5)
    assert running.client.complete(case).token_ids == running.reference.generate(case).token_ids
