"""SGLang's own count of verify steps, and counts in a chat's meta info."""

from __future__ import annotations

import random

import pytest

from tests.common.cases import Case, prompt
from tests.served.setups import on
from tests.served.test_acceptance_counts import cases
from tests.sglang.servers import Running

pytestmark = [pytest.mark.engine, on("trained")]


def test_sglang_counts_the_same_cycles(running: Running) -> None:
    """`meta_info` of an answer tells SGLang's own count of verify steps."""
    [case, *_] = cases(running, decoding_mode="self_speculation")
    expected = running.reference.generate(case)
    assert running.client.complete(case).raw["spec_verify_ct"] == len(expected.accepted) > 0


def test_waiting_for_a_block_is_no_verify_step(running: Running) -> None:
    """A diffusion request that waits beside an AR request counts one verify step a block, as it does alone."""
    vocab = running.reference.config.vocab_size
    slow = {"decoding_mode": "diffusion", "commit_rule": "fixed", "tokens_per_step": 2}
    case = Case(prompt(random.Random(1), 12, vocab), 97, slow, ignore_eos=True)
    beside = Case(prompt(random.Random(2), 12, vocab), 120, {"decoding_mode": "ar"}, ignore_eos=True)
    with running.client.in_background([beside]):
        answer = running.client.complete(case)
    assert answer.token_ids == running.reference.generate(case).token_ids
    assert answer.raw["spec_verify_ct"] == running.reference.generate(case).verify_forwards


def test_a_chat_completion_has_the_counts_in_its_meta_info(running: Running) -> None:
    body = {
        "model": running.client.model,
        "messages": [{"role": "user", "content": "3 + 4"}],
        "max_tokens": 40,
        "temperature": 0,
        "return_meta_info": True,
        "custom_params": {"decoding_mode": "self_speculation", "return_counts": True},
    }
    reply = running.client.post(body, "/v1/chat/completions").json()
    [said] = reply["choices"][0]["meta_info"]["nemotron_diffusion"]
    assert said["tokens"] == reply["usage"]["completion_tokens"]
    assert said["forwards"]["draft"] == len(said["accepted_drafts"]) > 0
