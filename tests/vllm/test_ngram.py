"""vLLM's own n-gram drafting beside our model as its target: the tokens of `ar`, and as many accepted as there are."""

from __future__ import annotations

import pytest

from nemotron_diffusion_plugin.tools.training.eagle3.evaluation import Answer
from tests.common.eagle3 import DEPTH, answers, cases
from tests.served.metrics import Metrics
from tests.served.setups import on
from tests.vllm.servers import Running

pytestmark = [pytest.mark.engine, on(long=("ngram",))]


def counts(metrics: Metrics) -> tuple[int, int]:
    """Cycles and accepted drafts."""
    prefix = "vllm:spec_decode_num"
    return (
        int(metrics.total(f"{prefix}_drafts_total")),
        int(metrics.total(f"{prefix}_accepted_tokens_total")),
    )


def draft(text: list[int]) -> list[int]:
    """What followed the latest earlier place of the longest match of the last 4 to 2 tokens; else the last token."""
    for size in (4, 3, 2):
        for place in range(len(text) - size - 1, -1, -1):
            if text[place : place + size] == text[-size:]:
                found = text[place + size : place + size + DEPTH]
                return found + [text[-1]] * (DEPTH - len(found))
    return [text[-1]] * DEPTH


def cycles_of(one: Answer) -> list[int]:
    """The accepted drafts of each cycle of an answer."""
    tokens = [*one.emitted, *one.beyond]
    accepted, place = [], 1
    while place < len(one.emitted):
        drafts = draft([*one.prompt, *tokens[:place]])
        count = 0
        while count < DEPTH and drafts[count] == tokens[place + count]:
            count += 1
        accepted.append(count)
        place += count + 1
    return accepted


def test_tokens_are_those_of_ar_and_drafts_those_of_the_text(running: Running) -> None:
    before = counts(running.client.settled())
    served = running.client.complete_all(cases())
    assert [one.token_ids for one in served] == [one.emitted for one in answers()]
    expected = [cycles_of(one) for one in answers()]
    cycles, accepted = sum(map(len, expected)), sum(map(sum, expected))
    after = counts(running.client.settled(lambda metrics: counts(metrics)[0] >= before[0] + cycles))
    assert (after[0] - before[0], after[1] - before[1]) == (cycles, accepted)
    assert accepted > 0
