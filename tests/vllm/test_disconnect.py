"""Clients that leave in mid-block, by the hundred, take their KV blocks with them."""

from __future__ import annotations

import asyncio
import os
import random

import pytest

from tests.common.cases import MODES, Case, mixed_cases, prompt
from tests.common.leaving import leave_all
from tests.vllm.servers import Running

CLIENTS = int(os.environ.get("NEMOTRON_DIFFUSION_CLIENTS", "200"))

pytestmark = [
    pytest.mark.engine,
    pytest.mark.parametrize("running", ["prefixes", "pool"], indirect=True, scope="session"),
]


def test_clients_leave(running: Running) -> None:
    """After the first token the next block of every request is being denoised, drafted or verified."""
    rng, vocab = random.Random(0), running.reference.config.vocab_size
    slow = {"decoding_mode": "diffusion", "commit_rule": "fixed", "tokens_per_step": 1}
    options = [slow if mode == "diffusion" else {"decoding_mode": mode} for mode in MODES]
    bodies = []
    for number in range(CLIENTS):
        length = rng.choice((1, 33, 90, 150))
        case = Case(prompt(rng, length, vocab), 300, options[number % 3], ignore_eos=True)
        bodies.append(running.client.body(case))
    before = running.client.settled()
    asyncio.run(leave_all(f"{running.server.url}/v1/completions", bodies))

    metrics = running.client.settled(lambda metrics: metrics.total("vllm:kv_cache_usage_perc") == 0)
    assert metrics.total("vllm:kv_cache_usage_perc") == 0
    assert metrics.total("vllm:num_requests_running") == metrics.total("vllm:num_requests_waiting") == 0
    started = sum(metrics.mode("requests", mode) - before.mode("requests", mode) for mode in MODES)
    generated = sum(
        metrics.mode("generated_tokens", mode) - before.mode("generated_tokens", mode) for mode in MODES
    )
    assert started == CLIENTS
    assert generated < CLIENTS * 300 / 2, "most clients must have left long before the end"

    cases = mixed_cases(vocab, seed=8, most_tokens=100)
    answers = running.client.complete_all(cases)
    assert [a.token_ids for a in answers] == [running.reference.generate(c).token_ids for c in cases]
    after = running.client.settled()
    if metrics.total("vllm:num_preemptions_total") != after.total("vllm:num_preemptions_total"):
        return  # a preempted block is drafted again, which is honestly counted
    for mode in MODES:
        forwards = {kind: n - metrics.forwards(mode)[kind] for kind, n in after.forwards(mode).items()}
        assert forwards == running.reference.totals(cases, mode), mode
