"""vLLM's own counters of speculation, and requests that cannot report what they took."""

from __future__ import annotations

import pytest

from tests.common.cases import Case
from tests.served.metrics import Metrics
from tests.served.setups import on
from tests.served.test_acceptance_counts import COUNTED, asking, cases
from tests.vllm.servers import Running

pytestmark = [pytest.mark.engine, on("trained", long=("compiled",))]

SPEC_DECODE = ("drafts", "draft_tokens", "accepted_tokens")


def spec_decode(metrics: Metrics) -> dict[str, int]:
    """vLLM's own counters of speculation."""
    return {name: int(metrics.total(f"vllm:spec_decode_num_{name}_total")) for name in SPEC_DECODE}


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


@pytest.mark.parametrize(
    "more", [{"n": 2, "temperature": 1.0}, {"stop": ["x"]}, {"use_beam_search": True, "n": 2}]
)
def test_counts_that_nobody_could_report_are_a_400(running: Running, more: dict) -> None:
    reply = running.client.post(running.client.body(asking(COUNTED[0]), **more))
    assert reply.status_code == 400
    assert "field 'return_counts': got true, expected false" in reply.text


def test_counts_do_not_appear_elsewhere(running: Running) -> None:
    """vLLM reports nothing on requests with several prompts; how counts reach the API server stays inside."""
    case = asking(COUNTED[2])
    reply = running.client.post(running.client.body(case, prompt=[case.prompt, case.prompt])).json()
    assert len(reply["choices"]) == 2
    assert (reply.get("metrics"), reply.get("kv_transfer_params")) == (None, None)
