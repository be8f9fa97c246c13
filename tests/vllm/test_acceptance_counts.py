"""What the server reports about speculation is what the reference decoder counts, and the drafter LoRA is in it."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.common import counted
from tests.common.cases import MODES, Case, prompt
from tests.common.dashboard import missing
from tests.vllm.client import Metrics
from tests.vllm.servers import Running

pytestmark = [
    pytest.mark.engine,
    pytest.mark.parametrize("running", ["trained", "compiled"], indirect=True, scope="session"),
]

SPEC_DECODE = ("drafts", "draft_tokens", "accepted_tokens")


def spec_decode(metrics: Metrics) -> dict[str, int]:
    """vLLM's own counters of speculation."""
    return {name: int(metrics.total(f"vllm:spec_decode_num_{name}_total")) for name in SPEC_DECODE}


def cases(running: Running, **options: object) -> list[Case]:
    vocab, new = running.reference.config.vocab_size, 80
    return [
        Case(prompt(random.Random(seed), 10 + seed, vocab), new, dict(options), ignore_eos=True)
        for seed in range(6)
    ]


def accepted(running: Running, some: list[Case]) -> tuple[int, int]:
    """Cycles and accepted drafts of the reference."""
    answers = [running.reference.generate(case) for case in some]
    return sum(len(a.accepted) for a in answers), sum(sum(a.accepted) for a in answers)


def test_served_drafts_use_the_lora(running: Running) -> None:
    """With and without the adapter the served acceptance is the reference's, and the two differ.

    An adapter that is lost (or left on in the verify forward) by a frozen switch fails this, compiled or not.
    """
    counts = {}
    for active in (True, False):
        some = cases(running, decoding_mode="self_speculation", draft_lora=active)
        counts[active] = accepted(running, some)
        before = running.client.settled()
        answers = running.client.complete_all(some)
        after = running.client.settled()
        assert [a.token_ids for a in answers] == [running.reference.generate(c).token_ids for c in some]
        mode = "self_speculation"
        cycles = after.mode("cycles", mode) - before.mode("cycles", mode)
        drafts = after.mode("accepted_drafts", mode) - before.mode("accepted_drafts", mode)
        assert (cycles, drafts) == counts[active]
    assert counts[True] != counts[False]


def test_vllm_counts_the_same_acceptance_length(running: Running) -> None:
    [case, *_] = cases(running, decoding_mode="self_speculation", draft_lora=False)
    expected = running.reference.generate(case)
    before = spec_decode(running.client.settled())
    running.client.complete(case)
    wanted = before["drafts"] + len(expected.accepted)
    metrics = running.client.settled(lambda metrics: spec_decode(metrics)["drafts"] >= wanted)
    counted = {name: n - before[name] for name, n in spec_decode(metrics).items()}
    assert 1 + counted["accepted_tokens"] / counted["drafts"] == pytest.approx(expected.acceptance_length)
    assert counted["drafts"] == len(expected.accepted) > 0


def test_diffusion_blocks_are_no_accepted_drafts(running: Running) -> None:
    """After diffusion requests vLLM's speculation counters stand where they stood; a probe shows that they move."""
    before = spec_decode(running.client.settled())
    running.client.complete_all(cases(running, decoding_mode="diffusion", threshold=0.2))
    probe = Case([200, 300], 3, {"decoding_mode": "self_speculation", "block_size": 2}, ignore_eos=True)
    cycles = len(running.reference.generate(probe).accepted)
    running.client.complete(probe)
    metrics = running.client.settled(lambda metrics: spec_decode(metrics)["drafts"] > before["drafts"])
    counted = {name: n - before[name] for name, n in spec_decode(metrics).items()}
    assert counted["drafts"] == counted["draft_tokens"] == cycles > 0


@pytest.mark.parametrize("mode", ["ar", "diffusion", "self_speculation"])
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
    assert not missing("vllm", running.client.http.get("/metrics").text)


@pytest.mark.parametrize("case", counted.CASES, ids=str)
def test_a_response_says_what_its_request_took(running: Running, case: Case) -> None:
    client, expected = running.client, counted.wanted(running.reference, case)
    plain = client.post(client.body(case)).json()
    assert plain.get("metrics") is None
    reply = client.post(client.body(counted.asking(case))).json()
    assert reply["choices"][0]["token_ids"] == plain["choices"][0]["token_ids"]
    assert reply["metrics"]["speculative_decoding"]["nemotron_diffusion"] == expected
    assert reply["kv_transfer_params"] is None


def test_a_stream_ends_with_the_counts(running: Running) -> None:
    case = counted.CASES[2]
    events = list(running.client.stream(counted.asking(case), stream_options={"include_usage": True}))
    assert events[-1].usage
    said = events[-1].metrics["speculative_decoding"]["nemotron_diffusion"]
    assert said == counted.wanted(running.reference, case)


def test_requests_at_once_are_counted_apart(running: Running) -> None:
    some = [case for mode in MODES for case in cases(running, decoding_mode=mode)[:2]]
    bodies = [running.client.body(counted.asking(case)) for case in some]
    with ThreadPoolExecutor(len(bodies)) as pool:
        replies = [reply.json() for reply in pool.map(running.client.post, bodies)]
    said = [reply["metrics"]["speculative_decoding"]["nemotron_diffusion"] for reply in replies]
    assert said == [counted.wanted(running.reference, case) for case in some]


@pytest.mark.parametrize(
    "more", [{"n": 2, "temperature": 1.0}, {"stop": ["x"]}, {"use_beam_search": True, "n": 2}]
)
def test_counts_that_nobody_could_report_are_a_400(running: Running, more: dict) -> None:
    reply = running.client.post(running.client.body(counted.asking(counted.CASES[0]), **more))
    assert reply.status_code == 400
    assert "field 'return_counts': got true, expected false" in reply.text


def test_counts_do_not_appear_elsewhere(running: Running) -> None:
    """vLLM reports nothing on requests with several prompts; how counts reach the API server stays inside."""
    case = counted.asking(counted.CASES[2])
    reply = running.client.post(running.client.body(case, prompt=[case.prompt, case.prompt])).json()
    assert len(reply["choices"]) == 2
    assert (reply.get("metrics"), reply.get("kv_transfer_params")) == (None, None)
