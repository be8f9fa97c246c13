"""A prefix written in one mode is found and right in every other, a half-generated block included."""

from __future__ import annotations

import random

import pytest

from tests.common.cases import BLOCK, MODES, Case, prompt
from tests.sglang.servers import Running

pytestmark = [
    pytest.mark.engine,
    pytest.mark.parametrize("running", ["trained", "paged"], indirect=True, scope="session"),
]


def made(running: Running, case: Case) -> int:
    """How many tokens the engine has made when it ends the request, those of which it returns none included."""
    answer = running.reference.generate(case)
    if running.reference.mode(case) == "diffusion":
        return 1 + BLOCK * answer.verify_forwards
    if running.reference.mode(case) == "self_speculation":
        return 1 + sum(accepted + 1 for accepted in answer.accepted)
    return len(answer.token_ids)


@pytest.mark.parametrize("second", MODES)
@pytest.mark.parametrize("first", MODES)
def test_next_turn_hits_prompt_and_answer(running: Running, first: str, second: str) -> None:
    """The second turn starts with the first one's prompt and answer, which ends inside a block and a page.

    Everything but the last token of the answer has its keys and values, the last one too where its block or cycle went
    on behind it. SGLang files whole pages.
    """
    rng = random.Random(f"{first}{second}")
    vocab, page = running.reference.config.vocab_size, running.setup.page_size
    opening = Case(prompt(rng, 75, vocab), 59, {"decoding_mode": first, "block_size": 32}, ignore_eos=True)
    answer = running.client.complete(opening)
    assert answer.token_ids == running.reference.generate(opening).token_ids

    turn = [*opening.prompt, *answer.token_ids, *prompt(rng, 9, vocab)]
    following = Case(turn, 50, {"decoding_mode": second}, ignore_eos=True)
    found = running.client.complete(following, return_logprob=True)
    known = 75 + min(59, made(running, opening) - 1)
    assert found.cached_tokens == known // page * page
    assert found.token_ids == running.reference.generate(following).token_ids
    expected = running.reference.chosen_with(following)
    assert found.logprobs == pytest.approx(expected, abs=2e-4)


@pytest.mark.parametrize("mode", MODES)
def test_acceptance_does_not_change_with_a_hit(running: Running, mode: str) -> None:
    """The same request again: tokens and forwards as the first time, though its prompt is not computed."""
    tokens = prompt(random.Random(mode), 130, running.reference.config.vocab_size)
    case = Case(tokens, 70, {"decoding_mode": mode})
    counts, hits = [], []
    for _ in range(2):
        before = running.client.settled().forwards(mode)
        answer = running.client.complete(case)
        assert answer.token_ids == running.reference.generate(case).token_ids
        after = running.client.settled().forwards(mode)
        counts.append({kind: n - before[kind] for kind, n in after.items()})
        hits.append(answer.cached_tokens)
    assert hits[1] == 129 // running.setup.page_size * running.setup.page_size
    assert hits[0] < running.setup.page_size + 2
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
        assert answer.cached_tokens == 96
