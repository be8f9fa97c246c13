"""The set-ups that are meant to be tight are tight: prompts and blocks are cut, requests are preempted."""

from __future__ import annotations

import random

import pytest

from tests.common.cases import MODES, Case, prompt
from tests.served.setups import on
from tests.vllm.servers import Running

pytestmark = pytest.mark.engine


TRIES = 4
"""On a busy machine requests may come one after the other, and then no step has two blocks."""


@on("pool", long=("budget",))
def test_budget_cuts_prompts_and_blocks(running: Running) -> None:
    vocab = running.reference.config.vocab_size
    rng = random.Random(1)
    long = Case(prompt(rng, 300, vocab), 1, {"decoding_mode": "ar"})
    before = running.client.settled()
    assert running.client.complete(long).token_ids == running.reference.generate(long).token_ids
    assert running.client.settled().engine("causal") - before.engine("causal") >= 300 // 40

    # All blocks take two denoise steps, so those of several requests are ready at once, and 40 tokens hold one.
    steady = {"decoding_mode": "diffusion", "commit_rule": "schedule", "denoising_steps": 2, "block_size": 32}
    options = [steady] * 6 + [{"decoding_mode": "self_speculation"}, {"decoding_mode": "ar"}]
    cases = [Case(prompt(rng, 5, vocab), 65, chosen, ignore_eos=True) for chosen in options]
    blocks = running.reference.totals(cases, "diffusion")["verify"]
    assert blocks == 6 * 2
    cut = 0
    for _ in range(TRIES):
        before = running.client.settled()
        answers = running.client.complete_all(cases)
        after = running.client.settled()
        assert [a.token_ids for a in answers] == [running.reference.generate(c).token_ids for c in cases]
        assert not running.was_interrupted(before, after), "a preempted block counts as one that was cut"
        cut += after.mode("cycles", "diffusion") - before.mode("cycles", "diffusion") - blocks
        if cut > 0:
            break
    assert cut > 0, "no block was cut: the budget is not tight enough to test anything"


@on("pool", long=("small-pool",))
def test_pool_preempts(running: Running) -> None:
    vocab = running.reference.config.vocab_size
    rng = random.Random(4)
    cases = [
        Case(prompt(rng, 60, vocab), 220, {"decoding_mode": MODES[number % 3]}, ignore_eos=True)
        for number in range(15)
    ]
    before = running.client.settled()
    answers = running.client.complete_all(cases)
    name = "vllm:num_preemptions_total"
    after = running.client.settled(lambda metrics: metrics.total(name) > before.total(name))
    assert [a.token_ids for a in answers] == [running.reference.generate(c).token_ids for c in cases]
    assert after.total(name) > before.total(name), "nobody was preempted: the pool is not tight enough"
    assert after.total("vllm:kv_cache_usage_perc") == 0


@on("pool", long=("small-pool",))
@pytest.mark.parametrize("mode", MODES)
def test_scheduling_ahead_near_max_model_len(running: Running, mode: str) -> None:
    """A scheduler that runs ahead reckons with every draft accepted, so it drafts less near the limit, not else."""
    limit, vocab = running.setup.context, running.reference.config.vocab_size
    rng = random.Random(7)
    for room in (2, 3, 31, 33, 66):
        case = Case(prompt(rng, limit - room, vocab), room, {"decoding_mode": mode}, ignore_eos=True)
        answer = running.client.complete(case)
        assert answer.token_ids == running.reference.generate(case).token_ids, case
        assert (len(answer.token_ids), answer.finish_reason) == (room, "length")
