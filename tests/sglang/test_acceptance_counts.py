"""What the server reports about speculation is what the reference decoder counts, and the drafter LoRA is in it."""

from __future__ import annotations

import random

import pytest

from tests.common import counted
from tests.common.cases import MODES, Case, prompt
from tests.common.dashboard import missing
from tests.sglang.servers import Running

pytestmark = [
    pytest.mark.engine,
    pytest.mark.parametrize("running", ["trained"], indirect=True, scope="session"),
]


def cases(running: Running, **options: object) -> list[Case]:
    vocab = running.reference.config.vocab_size
    return [
        Case(prompt(random.Random(seed), 10 + seed, vocab), 80, dict(options), ignore_eos=True)
        for seed in range(4)
    ]


def test_served_drafts_use_the_lora(running: Running) -> None:
    """With and without the adapter the served acceptance is the reference's, and the two differ."""
    mode, counts = "self_speculation", {}
    for active in (True, False):
        some = cases(running, decoding_mode=mode, draft_lora=active)
        expected = [running.reference.generate(case) for case in some]
        counts[active] = (
            sum(len(answer.accepted) for answer in expected),
            sum(sum(answer.accepted) for answer in expected),
        )
        before = running.client.settled()
        answers = running.client.complete_all(some)
        after = running.client.settled()
        assert [answer.token_ids for answer in answers] == [answer.token_ids for answer in expected]
        cycles = after.mode("cycles", mode) - before.mode("cycles", mode)
        drafts = after.mode("accepted_drafts", mode) - before.mode("accepted_drafts", mode)
        assert (cycles, drafts) == counts[active]
    assert counts[True] != counts[False]


@pytest.mark.parametrize("mode", MODES)
def test_tokens_per_forward(running: Running, mode: str) -> None:
    """Tokens per forward computed from the metrics is the reference's."""
    case = cases(running, decoding_mode=mode)[3]
    expected = running.reference.generate(case)
    before = running.client.settled()
    assert running.client.complete(case).token_ids == expected.token_ids
    after = running.client.settled()
    tokens = after.mode("generated_tokens", mode) - before.mode("generated_tokens", mode)
    forwards = sum(after.forwards(mode).values()) - sum(before.forwards(mode).values()) - 1
    assert tokens / forwards == pytest.approx(expected.tokens_per_forward)


def test_sglang_counts_the_same_cycles(running: Running) -> None:
    """`meta_info` of an answer tells SGLang's own count of verify steps."""
    [case, *_] = cases(running, decoding_mode="self_speculation")
    expected = running.reference.generate(case)
    assert running.client.complete(case).meta["spec_verify_ct"] == len(expected.accepted) > 0


def test_waiting_for_a_block_is_no_verify_step(running: Running) -> None:
    """A diffusion request that waits beside an AR request counts one verify step a block, as it does alone."""
    vocab = running.reference.config.vocab_size
    slow = {"decoding_mode": "diffusion", "commit_rule": "fixed", "tokens_per_step": 2}
    case = Case(prompt(random.Random(1), 12, vocab), 97, slow, ignore_eos=True)
    beside = Case(prompt(random.Random(2), 12, vocab), 120, {"decoding_mode": "ar"}, ignore_eos=True)
    with running.client.in_background([beside]):
        answer = running.client.complete(case)
    assert answer.token_ids == running.reference.generate(case).token_ids
    assert answer.meta["spec_verify_ct"] == running.reference.generate(case).verify_forwards


def test_the_dashboard_finds_its_metrics(running: Running) -> None:
    running.client.complete(cases(running, decoding_mode="self_speculation")[0])
    running.client.settled()
    assert not missing("sglang", running.client.http.get("/metrics").text)


@pytest.mark.parametrize("case", counted.CASES, ids=str)
def test_a_response_says_what_its_request_took(running: Running, case: Case) -> None:
    plain = running.client.complete(case)
    answer = running.client.complete(counted.asking(case))
    assert answer.token_ids == plain.token_ids
    assert "nemotron_diffusion" not in plain.meta
    assert answer.meta["nemotron_diffusion"] == [counted.wanted(running.reference, case)]


def test_a_stream_ends_with_the_counts(running: Running) -> None:
    case = counted.CASES[2]
    *_, last = running.client.events(counted.asking(case))
    assert last["meta_info"]["nemotron_diffusion"] == [counted.wanted(running.reference, case)]


def test_requests_at_once_are_counted_apart(running: Running) -> None:
    some = [case for mode in MODES for case in cases(running, decoding_mode=mode)[:2]]
    answers = running.client.complete_all([counted.asking(case) for case in some])
    said = [answer.meta["nemotron_diffusion"] for answer in answers]
    assert said == [[counted.wanted(running.reference, case)] for case in some]


def test_only_who_asks_gets_counts(running: Running) -> None:
    some = cases(running, decoding_mode="self_speculation")[:4]
    asking = [counted.asking(case) if place % 2 else case for place, case in enumerate(some)]
    answers = running.client.complete_all(asking)
    assert ["nemotron_diffusion" in answer.meta for answer in answers] == [False, True, False, True]


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
