"""`decoding_mode: auto`, the default: the text of AR, and block lengths that follow what runs."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.common.auto import company, mixed, predictable
from tests.common.cases import Case, prompt
from tests.served.metrics import Metrics
from tests.served.running import Running, forwards_between
from tests.served.setups import on

pytestmark = pytest.mark.engine
trained = on("trained", "auto")
pinned = on("auto")
untrained = on("paged", long=("plain",))
GRAMMAR = "(xq ){40}"
"""An expression that no draft fits by itself."""


def forwards_since(before: Metrics, after: Metrics) -> dict[str, int]:
    """Forwards of requests in auto by kind."""
    return forwards_between(before, after, "auto")


def decisions_since(before: Metrics, after: Metrics) -> dict[int, int]:
    """How often each length was chosen, those that were not left out."""
    counts = {block: n - before.decisions()[block] for block, n in after.decisions().items()}
    return {block: n for block, n in counts.items() if n}


@contextmanager
def in_company(running: Running) -> Iterator[None]:
    """Two AR requests run while the block does, from its beginning to its end."""
    cases = company(running.reference.config.vocab_size)
    start = running.client.settled().forwards("ar")["verify"]
    with running.client.in_background(cases):
        while running.client.metrics().forwards("ar")["verify"] < start + 4:
            time.sleep(0.01)
        yield
        ran = running.client.metrics().forwards("ar")["verify"] - start
        assert ran < sum(case.max_tokens - 1 for case in cases), "the company must have outlasted the request"


@trained
def test_alone_it_is_self_speculation_with_whole_blocks(running: Running) -> None:
    """Forwards are the reference's at block 32; where steps are scheduled ahead the last choice is made in vain."""
    for case in predictable(3):
        expected = running.reference.generate(case)
        before = running.client.settled()
        answer = running.client.complete(case)
        after = running.client.settled()
        assert answer.token_ids == expected.token_ids
        assert forwards_since(before, after) == running.reference.totals([case], "auto")
        assert expected.draft_forwards > 1
        chosen = decisions_since(before, after)
        assert set(chosen) == {32}
        assert expected.draft_forwards <= chosen[32] <= expected.draft_forwards + 2


@pinned
def test_in_company_it_is_ar(running: Running) -> None:
    """By the server's costs one row of a neighbour makes blocks too dear: not one draft is made."""
    [case] = predictable(1)
    expected = running.reference.generate(case)
    with in_company(running):
        before = running.client.metrics()
        answer = running.client.complete(case)
        after = running.client.metrics()
    assert answer.token_ids == expected.token_ids
    assert set(decisions_since(before, after)) == {1}
    forwards = forwards_since(before, after)
    assert (forwards["draft"], forwards["verify"]) == (0, len(expected.token_ids) - 1)


@pinned
def test_what_a_seed_draws_does_not_depend_on_the_load(running: Running) -> None:
    """Alone it drafts whole blocks, in company none, and the text is the same."""
    [case] = predictable(1)
    alone = running.client.complete(case, temperature=1.0, seed=5)
    with in_company(running):
        before = running.client.metrics()
        answer = running.client.complete(case, temperature=1.0, seed=5)
        after = running.client.metrics()
    assert answer.token_ids == alone.token_ids
    assert set(decisions_since(before, after)) == {1}
    assert forwards_since(before, after)["draft"] == 0


@trained
def test_tokens_are_those_of_ar_under_mixed_load(running: Running) -> None:
    cases = mixed(running.reference.config.vocab_size)
    for case, answer in zip(cases, running.client.complete_all(cases), strict=True):
        assert answer.token_ids == running.reference.generate(case).token_ids, case


@untrained
def test_a_request_whose_drafts_are_rejected_falls_back_to_ar(running: Running) -> None:
    tokens = prompt(random.Random(4), 12, running.reference.config.vocab_size)
    case = Case(tokens, 200, {"decoding_mode": "auto"}, ignore_eos=True)
    speculative = running.reference.generate(case)
    assert speculative.draft_forwards > 150, "the case must be one whose drafts are rejected"
    before = running.client.settled()
    answer = running.client.complete(case)
    after = running.client.settled()
    assert answer.token_ids == speculative.token_ids
    assert forwards_since(before, after)["draft"] < 30
    assert decisions_since(before, after)[1] > 150


@on("trained")
def test_drafts_that_a_grammar_has_chosen_are_worth_drafting(running: Running) -> None:
    case = Case([300, 400, 500], 60, {"decoding_mode": "auto"}, ignore_eos=True)
    before = running.client.settled()
    running.client.complete(case, **running.endpoint.regex(GRAMMAR))
    after = running.client.settled()
    assert 1 not in decisions_since(before, after)
    forwards = forwards_since(before, after)
    assert 0 < forwards["draft"] <= forwards["verify"] < 20


@pinned
def test_masks_of_a_grammar_count(running: Running) -> None:
    """By the server's costs the masks of a block's rows take longer than its tokens are worth."""
    case = Case([300, 400, 500], 20, {"decoding_mode": "auto"}, ignore_eos=True)
    before = running.client.settled()
    running.client.complete(case, **running.endpoint.regex(GRAMMAR))
    after = running.client.settled()
    assert set(decisions_since(before, after)) == {1}
    assert forwards_since(before, after)["draft"] == 0
