"""A prefix written in one mode is found and right in every other, a half-generated block included."""

from __future__ import annotations

import random

import pytest

from nemotron_diffusion_plugin.serving.versions import is_in
from tests.common.cases import BLOCK, MODES, Case, prompt
from tests.served.running import Running, forwards_between
from tests.served.setups import SGLANG, VLLM, on

pytestmark = [pytest.mark.engine, on(*(["trained"] if SGLANG else []), "paged", long=("plain",))]


def filed(running: Running, case: Case) -> int:
    """How many tokens of an answer the engine has filed when it ends the request.

    Everything but the last token of the answer has its keys and values; with SGLang the last one too where its block or
    cycle went on after it. vLLM below 0.33 files a page once its last token is known when a step is scheduled: what was
    emitted before the last step.
    """
    answer = running.reference.generate(case)
    if VLLM and is_in(">=0.33", running.client.http.get("/version").json()["version"]):
        return len(answer.token_ids) - 1
    mode, last = running.reference.mode(case), 0 if SGLANG else 1
    if mode == "diffusion":
        made = 1 + BLOCK * (answer.verify_forwards - last)
    elif mode == "self_speculation":
        made = 1 + sum(accepted + 1 for accepted in answer.accepted[: len(answer.accepted) - last])
    else:
        made = len(answer.token_ids) - last
    return made if VLLM else min(case.max_tokens, made - 1)


@pytest.mark.parametrize("second", MODES)
@pytest.mark.parametrize("first", MODES)
def test_next_turn_hits_prompt_and_answer(running: Running, first: str, second: str) -> None:
    """The second turn starts with the first one's prompt and answer, which ends inside a block and a page."""
    rng = random.Random(f"{first}{second}")
    vocab, page = running.reference.config.vocab_size, running.setup.page_size
    opening = Case(prompt(rng, 75, vocab), 59, {"decoding_mode": first, "block_size": 32}, ignore_eos=True)
    answer = running.client.complete(opening)
    assert answer.token_ids == running.reference.generate(opening).token_ids

    turn = [*opening.prompt, *answer.token_ids, *prompt(rng, 9, vocab)]
    following = Case(turn, 50, {"decoding_mode": second}, ignore_eos=True)
    found, hits = running.complete_with_hits(following, logprobs=1)
    assert hits == (75 + filed(running, opening)) // page * page
    assert found.token_ids == running.reference.generate(following).token_ids
    assert found.logprobs == pytest.approx(running.reference.chosen_with(following), abs=2e-4)


@pytest.mark.parametrize("mode", MODES)
def test_acceptance_does_not_change_with_a_hit(running: Running, mode: str) -> None:
    """The same request again: tokens and forwards as the first time, though its prompt is not computed."""
    tokens = prompt(random.Random(mode), 130, running.reference.config.vocab_size)
    case, page = Case(tokens, 70, {"decoding_mode": mode}), running.setup.page_size
    counts, hits = [], []
    for _ in range(2):
        before = running.client.settled()
        answer, found = running.complete_with_hits(case)
        assert answer.token_ids == running.reference.generate(case).token_ids
        counts.append(forwards_between(before, running.client.settled(), mode))
        hits.append(found)
    assert hits[1] == 129 // page * page
    assert hits[0] < page + 2
    assert counts[0] == counts[1] == running.reference.totals([case], mode)


def test_seven_at_once_share_a_prefix(running: Running) -> None:
    """The prefix is written by whoever comes first and read by all the others, in all modes at once."""
    rng, vocab = random.Random(12), running.reference.config.vocab_size
    shared = prompt(rng, 96, vocab)
    running.client.complete(Case(shared, 1, {"decoding_mode": "ar"}))
    cases = [
        Case([*shared, *prompt(rng, 2, vocab)], 40, {"decoding_mode": MODES[n % 3]}, ignore_eos=True)
        for n in range(7)
    ]
    for case, answer in zip(cases, running.client.complete_all(cases), strict=True):
        assert answer.token_ids == running.reference.generate(case).token_ids, case
        assert VLLM or answer.raw["cached_tokens"] == 96
