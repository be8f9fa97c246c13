"""Servers that take our kernels wherever they can, and the Triton backend of SGLang, all of it interpreted."""

from __future__ import annotations

import random

import pytest

from tests.common.cases import MODES, Case, prompt
from tests.served.running import Running
from tests.served.setups import VLLM, on

pytestmark = [pytest.mark.engine, on(long=("kernels", "triton"))]


def test_a_few_tokens_of_each_mode(running: Running) -> None:
    """Alone and together, after prompts of one piece and of two."""
    rng, vocab = random.Random(2), running.reference.config.vocab_size
    short, long = (prompt(rng, length, vocab) for length in ((3, 34) if VLLM else (5, 5)))
    cases = [
        Case(tokens, 5, {"decoding_mode": mode, **more}, ignore_eos=True)
        for tokens, mode, more in (
            (short, "ar", {}),
            (long, "self_speculation", {"block_size": 6}),
            (long, "diffusion", {"block_size": 4, "threshold": 0.02} if VLLM else {"block_size": 4}),
        )
    ]
    before = running.client.settled()
    running.check_answers(cases, [running.client.complete(case) for case in cases])
    running.check_answers(cases, running.client.complete_all(cases))
    running.check_forwards([*cases, *cases], before, running.client.settled(), MODES)
    log = running.server.log.read_text()
    assert ("operators by triton" in log) is (running.name == "kernels")
    assert not VLLM or "Using AttentionBackendEnum.CUSTOM backend" in log
