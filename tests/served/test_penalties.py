"""What shapes a greedy answer is exact among drafts: self-speculation gives what AR gives."""

from __future__ import annotations

import random
from typing import Any

import pytest

from tests.common.cases import Case, mixed_cases, prompt
from tests.served.running import Running
from tests.served.setups import VLLM, on

pytestmark = [pytest.mark.engine, on("trained", "paged", long=("sync",))]

NEW = 60
EXACT = ("ar", "self_speculation")
PENALTIES: list[dict[str, Any]] = [
    {"frequency_penalty": 0.7},
    {"presence_penalty": 1.1},
    {"repetition_penalty": 1.4},
    {"frequency_penalty": 0.4, "presence_penalty": -0.3, "repetition_penalty": 1.2, "min_tokens": 12},
]
SHAPED = [*PENALTIES, *([{"allowed_token_ids": list(range(300, 400))}] if VLLM else [])]


def case_in(mode: str, tokens: list[int], ignore_eos: bool = True) -> Case:
    return Case(tokens, NEW, {"decoding_mode": mode}, ignore_eos)


@pytest.mark.parametrize("fields", SHAPED, ids=[" ".join(fields) for fields in SHAPED])
def test_alone(running: Running, fields: dict[str, Any]) -> None:
    ignore_eos = "min_tokens" not in fields
    tokens = prompt(random.Random(str(sorted(fields))), 20, running.reference.config.vocab_size)
    answers = [
        running.client.complete(case_in(mode, tokens, ignore_eos), **fields).token_ids for mode in EXACT
    ]
    assert answers[0] == answers[1]
    plain = running.reference.generate(case_in("ar", tokens, ignore_eos)).token_ids
    assert answers[0] != plain, "the parameters change nothing"


def test_among_others(running: Running) -> None:
    """Requests with penalties of all kinds and without any, in all modes at once."""
    vocab = running.reference.config.vocab_size
    others = mixed_cases(vocab, seed=6, count=6, most_tokens=NEW)
    tokens = prompt(random.Random(2), 20, vocab)
    alone = [running.client.complete(case_in("ar", tokens), **fields).token_ids for fields in PENALTIES]
    with running.client.in_background(others) as answered:
        for mode in EXACT:
            together = [
                running.client.complete(case_in(mode, tokens), **fields).token_ids for fields in PENALTIES
            ]
            assert together == alone, mode
    running.check_answers(others, answered)


def test_a_slot_forgets_its_penalties(running: Running) -> None:
    tokens = prompt(random.Random(3), 20, running.reference.config.vocab_size)
    for mode in EXACT:
        case = case_in(mode, tokens)
        running.client.complete(case, frequency_penalty=2.0)
        assert running.client.complete(case).token_ids == running.reference.generate(case).token_ids


def test_logit_bias(running: Running) -> None:
    """A bias changes the same tokens in both modes: one is never chosen, another one more often."""
    tokens = prompt(random.Random(4), 20, running.reference.config.vocab_size)
    plain = running.reference.generate(case_in("ar", tokens)).token_ids
    bias = {"logit_bias": {str(plain[3]): -100.0, "250": 4.0}}
    answers = [running.client.complete(case_in(mode, tokens), **bias).token_ids for mode in EXACT]
    assert answers[0] == answers[1] != plain
    assert plain[3] not in answers[0]
