"""Two engines behind two API servers: whichever is asked, the page of metrics is that of the whole server."""

from __future__ import annotations

import random

import httpx
import pytest

from tests.common.cases import MODES, Case, prompt
from tests.served.metrics import Metrics
from tests.served.setups import on
from tests.vllm.servers import Running

pytestmark = [pytest.mark.engine, on(long=["several"])]

REQUESTS = 8


def pages(running: Running, count: int = 12) -> list[Metrics]:
    """The page by way of many connections, which the API servers share among them."""
    texts = [httpx.get(f"{running.server.url}/metrics", timeout=60).text for _ in range(count)]
    return [Metrics(text) for text in texts]


def test_the_metrics_of_all_engines_on_every_page(running: Running) -> None:
    rng, vocab = random.Random(1), running.reference.config.vocab_size
    cases = [
        Case(prompt(rng, 20, vocab), 33, {"decoding_mode": mode}, ignore_eos=True)
        for mode in MODES
        for _ in range(REQUESTS)
    ]
    running.check_answers(cases, running.client.complete_all(cases))
    running.client.settled()
    for metrics in pages(running):
        assert [metrics.mode("requests", mode) for mode in MODES] == [REQUESTS] * 3
        assert [metrics.mode("generated_tokens", mode) for mode in MODES] == [REQUESTS * 33] * 3
        assert metrics.total("vllm:request_success_total") == REQUESTS * 3, "the engine's own counters agree"
