"""Streams of SGLang's own endpoint, whose events hold all of the answer so far."""

from __future__ import annotations

import itertools
import random

import pytest

from tests.common.cases import MODES, Case, prompt
from tests.served.setups import on
from tests.sglang.servers import Running

pytestmark = [pytest.mark.engine, on("trained")]
SLOW = {"decoding_mode": "diffusion", "commit_rule": "fixed", "tokens_per_step": 1}


@pytest.mark.parametrize("mode", MODES)
def test_streamed_pieces_make_the_answer(running: Running, mode: str) -> None:
    """Alone, and as a slow block beside an AR request, which waits for its block through steps without a token."""
    vocab = running.reference.config.vocab_size
    case, beside = (
        Case(prompt(random.Random(seed), 24, vocab), 70, options, ignore_eos=True)
        for seed, options in (
            (0, SLOW if mode == "diffusion" else {"decoding_mode": mode}),
            (5, {"decoding_mode": "ar"}),
        )
    )
    whole = running.client.complete(case, skip_special_tokens=False)
    assert whole.token_ids == running.reference.generate(case).token_ids
    with running.client.in_background([beside]):
        events = list(running.client.events(case, skip_special_tokens=False))
    counts = [event["meta_info"]["completion_tokens"] for event in events]
    assert counts == sorted(set(counts))
    assert counts[0] >= 1
    assert len(counts) >= 3
    for event, count in zip(events, counts, strict=True):
        assert event["output_ids"] == whole.token_ids[:count]
    assert all(later["text"].startswith(event["text"]) for event, later in itertools.pairwise(events))
    assert events[-1]["text"] == whole.text
    reasons = [event["meta_info"]["finish_reason"] for event in events]
    assert reasons == [None] * (len(events) - 1) + [{"type": "length", "length": case.max_tokens}]
