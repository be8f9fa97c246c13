"""Nobody waits for a whole block: forwards of the model between two tokens of an AR request, step by step."""

from __future__ import annotations

import json
import random
import time
from typing import Any

import pytest

from tests.common.cases import MODES, Case, prompt
from tests.served.setups import on
from tests.sglang.servers import Running

pytestmark = [pytest.mark.engine, on("trained")]
MOST_FORWARDS = 6
SLOW = {"decoding_mode": "diffusion", "commit_rule": "fixed", "tokens_per_step": 1}


def steps(running: Running, skipped: int = 0) -> list[dict[str, Any]]:
    if not running.forward_log.exists():  # nothing has run
        return []
    return [json.loads(line) for line in running.forward_log.read_text().splitlines()[skipped:]]


def test_the_log_counts_what_the_metrics_count(running: Running) -> None:
    """Every forward of the model is counted, none is counted that was not run."""
    log, before = steps(running), running.client.settled()
    tokens = prompt(random.Random(1), 20, running.reference.config.vocab_size)
    for mode in MODES:
        running.client.complete(Case(tokens, 60, {"decoding_mode": mode}, ignore_eos=True))
    after = running.client.settled()
    counted = sum(after.engine(kind) - before.engine(kind) for kind in ("causal", "bidirectional"))
    ran = steps(running)[-1]["forwards"] - (log[-1]["forwards"] if log else 0)
    assert ran == counted


@pytest.mark.parametrize("mode", ["ar", "self_speculation"])
def test_nobody_waits_for_a_block(running: Running, mode: str) -> None:
    """Blocks that take 31 denoise steps each are denoised in pieces between the other request's tokens."""
    rng, vocab = random.Random(7), running.reference.config.vocab_size
    slow = [Case(prompt(rng, 12, vocab), 257, SLOW, ignore_eos=True) for _ in range(4)]
    assert all(count == 31 for case in slow for count in running.reference.generate(case).denoise_steps)
    quick = Case(prompt(rng, 12, vocab), 80, {"decoding_mode": mode}, ignore_eos=True)
    skipped = len(steps(running))
    with running.client.in_background(slow) as slow_answers:
        while len(steps(running, skipped)) < 2:  # the slow ones have begun
            time.sleep(0.01)
        answer = running.client.complete(quick, rid=f"quick-{mode}")
    running.client.settled()
    assert answer.token_ids == running.reference.generate(quick).token_ids

    waits, seen, since, beside = [], 0, 0, 0
    for step in steps(running, skipped):
        count = step["tokens"].get(f"quick-{mode}", 0)
        if count > seen:
            waits += [step["forwards"] - since] * bool(seen)
            seen, since = count, step["forwards"]
            beside += len(step["tokens"]) == 5
    assert seen == 80
    assert max(waits) <= MOST_FORWARDS
    assert beside > len(waits) / 2, "the blocks must have been denoised meanwhile"
    assert sum(waits) > 2 * len(waits)
    for case, one in zip(slow, slow_answers, strict=True):
        assert one.token_ids == running.reference.generate(case).token_ids
