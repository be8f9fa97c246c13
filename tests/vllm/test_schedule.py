"""Nobody waits for a whole block, and nothing of a request outlives it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from nemotron_diffusion_plugin.costs import ForwardCosts
from tests.common.cases import Case, Reference
from tests.served.inside import Inside
from tests.vllm.inside.schedule import SLOTS, SLOW, prompt_of

MOST_FORWARDS = 6

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module", params=["sync", "async"])
def observed(request: pytest.FixtureRequest, folder: Path, inside: Inside) -> dict[str, Any]:
    result: dict[str, Any] = inside.run("schedule", str(folder), request.param, VLLM_CPU_ASYNC_SCHEDULING="1")
    assert (
        result["scheduler"] == {"sync": "SyncBlockScheduler", "async": "AsyncBlockScheduler"}[request.param]
    )
    return result


def test_ar_never_waits_for_a_block(observed: dict[str, Any], reference: Reference) -> None:
    """Blocks that take 31 denoise steps each are denoised in pieces between the AR request's tokens."""
    slow = [Case(prompt_of(number), 97, SLOW, ignore_eos=True) for number in range(4)]
    assert all(steps == 31 for case in slow for steps in reference.generate(case).denoise_steps)
    assert len(observed["waits"]) == 79
    assert max(observed["waits"]) <= MOST_FORWARDS
    assert sum(observed["waits"]) > 2 * 79, "the blocks must have been denoised meanwhile"
    for number, case in enumerate(slow):
        assert observed["tokens"][f"slow{number}"] == reference.generate(case).token_ids
    ar = Case(prompt_of(9), 80, {"decoding_mode": "ar"}, ignore_eos=True)
    assert observed["tokens"]["ar"] == reference.generate(ar).token_ids


def test_the_scheduler_chooses_by_what_its_worker_has_measured(observed: dict[str, Any]) -> None:
    costs = ForwardCosts.read(json.loads(observed["costs"]))
    measured = [rows for rows, _ in costs.causal]
    assert measured == [rows for rows, _ in costs.bidirectional]
    assert measured[:5] == [1, 8, 16, 24, 32], "arithmetic has no such points"


def test_nothing_outlives_its_request(observed: dict[str, Any], reference: Reference) -> None:
    after = observed["after"]
    for name in ("phases", "planned", "parked", "in flight", "requests", "usage", "reports"):
        assert after[name] == 0, name
    assert after["largest array"] == observed["fresh"]["largest array"] == SLOTS
    assert after["held"] == observed["fresh"]["held"]
    assert after["slots in use"] <= 1  # the worker hears of the last one's end with the next step
    again = Case(prompt_of(2), 97, SLOW, ignore_eos=True)
    assert observed["again"] == reference.generate(again).token_ids
