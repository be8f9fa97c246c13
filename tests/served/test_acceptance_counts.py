"""What the server reports about speculation is what the reference decoder counts, and the drafter LoRA is in it."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest

from tests.common.cases import MODES, Case, Reference, prompt
from tests.common.dashboard import missing
from tests.served.running import Running
from tests.served.setups import ENGINE, on

pytestmark = [pytest.mark.engine, on("trained", long=("compiled",))]
COUNTED = [
    Case([300 + place, 400, 500], 70, {"decoding_mode": mode}, ignore_eos=True)
    for place, mode in enumerate(MODES)
]


def asking(case: Case) -> Case:
    """The case, with the counts in its response."""
    return replace(case, options={**case.options, "return_counts": True})


def wanted(reference: Reference, case: Case) -> dict[str, Any]:
    """The counts of a case as the reference decoder has them."""
    answer = reference.generate(case)
    return {
        "decoding_mode": reference.mode(case),
        "tokens": len(answer.token_ids),
        "forwards": reference.totals([case], reference.mode(case)),
        "tokens_per_forward": answer.tokens_per_forward,
        "acceptance_length": answer.acceptance_length if answer.accepted else None,
        "accepted_drafts": answer.accepted,
        "denoise_steps": answer.denoise_steps,
    }


def cases(running: Running, **options: object) -> list[Case]:
    vocab, new = running.reference.config.vocab_size, 80
    return [
        Case(prompt(random.Random(seed), 10 + seed, vocab), new, dict(options), ignore_eos=True)
        for seed in range(6)
    ]


def test_served_drafts_use_the_lora(running: Running) -> None:
    """With and without the adapter the served acceptance is the reference's, and the two differ.

    An adapter that is lost (or left on in the verify forward) by a frozen switch fails this, compiled or not.
    """
    mode, counts = "self_speculation", {}
    for active in (True, False):
        some = cases(running, decoding_mode=mode, draft_lora=active)
        expected = [running.reference.generate(case).accepted for case in some]
        counts[active] = sum(map(len, expected)), sum(map(sum, expected))
        before = running.client.settled()
        running.check_answers(some, running.client.complete_all(some))
        after = running.client.settled()
        names = ("cycles", "accepted_drafts")
        assert tuple(after.mode(name, mode) - before.mode(name, mode) for name in names) == counts[active]
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


def test_the_dashboard_finds_its_metrics(running: Running) -> None:
    running.client.complete(cases(running, decoding_mode="self_speculation")[0])
    running.client.settled()
    assert not missing(ENGINE, running.client.http.get(running.client.metrics_path).text)


@pytest.mark.parametrize("case", COUNTED, ids=str)
def test_a_response_says_what_its_request_took(running: Running, case: Case) -> None:
    client = running.client
    plain = client.post(client.body(case)).json()
    assert client.counts(plain) is None
    reply = client.post(client.body(asking(case))).json()
    assert [one.token_ids for one in client.read(reply)] == [one.token_ids for one in client.read(plain)]
    assert client.counts(reply) == wanted(running.reference, case)
    assert reply.get("kv_transfer_params") is None


def test_a_stream_ends_with_the_counts(running: Running) -> None:
    case = COUNTED[2]
    assert running.client.counts(running.client.last_event(asking(case))) == wanted(running.reference, case)


def test_requests_at_once_are_counted_apart(running: Running) -> None:
    """Only who asks gets counts."""
    client, some = running.client, [case for mode in MODES for case in cases(running, decoding_mode=mode)[:3]]
    bodies = [client.body(asking(case) if place % 3 else case) for place, case in enumerate(some)]
    with ThreadPoolExecutor(len(bodies)) as pool:
        said = [client.counts(reply.json()) for reply in pool.map(client.post, bodies)]
    assert said == [wanted(running.reference, case) if place % 3 else None for place, case in enumerate(some)]
