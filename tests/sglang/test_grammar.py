"""Grammars hold among drafts: greedy self-speculation gives what AR gives, and the answer fits."""

from __future__ import annotations

import json
import random
import re
from typing import Any

import pytest

from tests.common.cases import Case, mixed_cases, prompt
from tests.common.schemas import RECORD
from tests.sglang.servers import Running

pytestmark = [
    pytest.mark.engine,
    pytest.mark.parametrize("running", ["trained"], indirect=True, scope="session"),
]

REGEX = r"[0-9]{3}-[a-z]{4,9}( and [0-9]{2}){2}"
GRAMMARS: list[dict[str, Any]] = [{"regex": REGEX}, {"json_schema": json.dumps(RECORD)}]
OURS = ("ar", "self_speculation")


def case_in(running: Running, mode: str, seed: int = 0) -> Case:
    tokens = prompt(random.Random(seed), 20, running.reference.config.vocab_size)
    return Case(tokens, 120, {"decoding_mode": mode})


def check(text: str, grammar: dict[str, Any]) -> None:
    if "regex" in grammar:
        assert re.fullmatch(REGEX, text), text
        return
    value = json.loads(text)
    assert set(value) == set(RECORD["properties"])  # type: ignore[arg-type]
    assert 0 <= value["age"] <= 99
    assert set(value["tags"]) <= {"a", "b"}
    assert len(value["tags"]) in (2, 3)


@pytest.mark.parametrize("grammar", GRAMMARS, ids=["regex", "json_schema"])
def test_alone(running: Running, grammar: dict[str, Any]) -> None:
    answers = [running.client.complete(case_in(running, mode), grammar) for mode in OURS]
    assert answers[0].token_ids == answers[1].token_ids
    for answer in answers:
        assert answer.finish_reason == "stop"
        check(answer.text, grammar)


def test_among_others(running: Running) -> None:
    """With grammars and without in one batch, diffusion beside them."""
    others = mixed_cases(running.reference.config.vocab_size, seed=2, count=6, most_tokens=60)
    with running.client.in_background(others) as answered:
        for grammar in GRAMMARS:
            answers = [running.client.complete(case_in(running, mode, 1), grammar) for mode in OURS]
            assert answers[0].token_ids == answers[1].token_ids
            check(answers[0].text, grammar)
    for case, answer in zip(others, answered, strict=True):
        assert answer.token_ids == running.reference.generate(case).token_ids


def test_sampled(running: Running) -> None:
    for mode in OURS:
        for grammar in GRAMMARS:
            sampled = {**grammar, "temperature": 0.9, "sampling_seed": 5}
            check(running.client.complete(case_in(running, mode, 2), sampled).text, grammar)


def test_openai_response_format(running: Running) -> None:
    for mode in OURS:
        reply = running.client.openai.chat.completions.create(
            model=running.client.model,
            messages=[{"role": "user", "content": "Who?"}],
            max_tokens=120,
            temperature=0,
            response_format={"type": "json_schema", "json_schema": {"name": "who", "schema": RECORD}},
            extra_body={"custom_params": {"decoding_mode": mode}},
        )
        check(reply.choices[0].message.content or "", {})
