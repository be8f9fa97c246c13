"""What vLLM 0.33 does otherwise than 0.32 (docs/versions.md), where it can be seen: the tokens are the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from nemotron_diffusion_plugin.options import DecodingMode
from tests.common.cases import Case, Reference
from tests.served.inside import Inside
from tests.vllm.inside import budget, next_turn, skipped
from tests.vllm.inside.schedule import prompt_of

pytestmark = pytest.mark.engine


@pytest.mark.parametrize("scheduling", ["sync", "async"])
def test_steps_that_can_use_no_drafts(
    folder: Path, inside: Inside, reference: Reference, scheduling: str
) -> None:
    """From 0.33 vLLM says so; blocks that are parked are denoised on meanwhile, and no token changes."""
    observed = inside.run("skipped", str(folder), scheduling, VLLM_CPU_ASYNC_SCHEDULING="1")
    for name, (prompt, most, options) in {**skipped.REQUESTS, "last": skipped.LAST}.items():
        case = Case(prompt, most, options, ignore_eos=True)
        assert observed["tokens"][name] == reference.generate(case).token_ids, name
    together, alone = observed["together"], observed["alone"]
    skipped_forwards = [forwards for asked, forwards in together if asked == 0]
    assert sum(forwards for asked, forwards in together if asked) > 0
    if observed["are told"]:
        assert max(skipped_forwards) > 0, "a block goes on beside a chunk of a prompt"
        assert alone == [[0, 0]]
    else:
        assert not skipped_forwards
        assert alone == [[31, 1]]


def test_a_budget_of_one_block(folder: Path, inside: Inside, reference: Reference) -> None:
    """From 0.33 vLLM asks for one token more than the slots that a draft writes."""
    observed = inside.run("budget", str(folder))
    if observed["refused"] is not None:
        assert f"num_lookahead_tokens={budget.BLOCK}" in observed["refused"]
    for number, mode in enumerate(budget.MODES):
        case = Case(prompt_of(number), budget.MOST_TOKENS, {"decoding_mode": mode}, ignore_eos=True)
        assert observed["tokens"][mode] == reference.generate(case).token_ids, mode


@pytest.mark.parametrize("scheduling", ["sync", "async"])
def test_the_next_turn_finds_the_last_one(
    folder: Path, inside: Inside, reference: Reference, scheduling: str
) -> None:
    """Below 0.33 the page that a last synchronous step of diffusion fills is not filed."""
    observed = inside.run("next_turn", str(folder), scheduling, VLLM_CPU_ASYNC_SCHEDULING="1")
    for number, mode in enumerate(DecodingMode):
        turns, prompt = observed["turns"][mode.value], next_turn.prompt(number)
        options = {"decoding_mode": mode.value}
        first = reference.generate(Case(prompt, next_turn.MOST_TOKENS, options, ignore_eos=True)).token_ids
        assert turns["first"] == first
        following = [*prompt, *first, *next_turn.QUESTION]
        assert (
            turns["next"]
            == reference.generate(Case(following, next_turn.NEXT_TOKENS, options, ignore_eos=True)).token_ids
        )
        unfiled = mode is DecodingMode.DIFFUSION and scheduling == "sync" and observed["version"] < "0.33"
        assert turns["cached"] == len(prompt) + len(first) - 1 - next_turn.PAGE * unfiled, mode
