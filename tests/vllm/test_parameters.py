"""What shapes a greedy answer shapes it alike in AR and in self-speculation, and a thinking budget is kept."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest

from tests.common.cases import Case, prompt
from tests.common.endpoint import CHAT
from tests.vllm.servers import Running

pytestmark = [
    pytest.mark.engine,
    pytest.mark.parametrize("running", ["trained"], indirect=True, scope="session"),
]

EXACT = ("ar", "self_speculation")
PARAMETERS: list[dict[str, Any]] = [
    {"presence_penalty": 1.0},
    {"frequency_penalty": 1.0},
    {"repetition_penalty": 1.3},
    {"logit_bias": {"149": -30.0, "873": -30.0}},
    {"allowed_token_ids": list(range(300, 400))},
]
BUDGET = 2
TEXT = "What is 34 + 57? Show the steps."


@pytest.mark.parametrize("parameters", PARAMETERS, ids=[next(iter(one)) for one in PARAMETERS])
def test_greedy_answers_are_those_of_ar(running: Running, parameters: dict[str, Any]) -> None:
    tokens = prompt(random.Random(5), 24, running.reference.config.vocab_size)
    answers = [
        running.client.complete(Case(tokens, 70, {"decoding_mode": mode}, ignore_eos=True), **parameters)
        for mode in EXACT
    ]
    assert answers[0].token_ids == answers[1].token_ids
    plain = running.reference.generate(Case(tokens, 70, {"decoding_mode": "ar"}, ignore_eos=True))
    assert answers[0].token_ids != plain.token_ids


def test_bad_words(running: Running) -> None:
    case = Case(running.tokenize(TEXT), 60, ignore_eos=True)
    plain = running.client.complete(case).text
    bad = {"bad_words": ["This", "Ones"]}
    assert all(word in plain for word in bad["bad_words"])
    answers = [
        running.client.complete(replace(case, options={"decoding_mode": mode}), **bad) for mode in EXACT
    ]
    assert answers[0].token_ids == answers[1].token_ids
    assert not any(word in answers[0].text for word in bad["bad_words"])


def test_thinking_budget(running: Running) -> None:
    fields = {"max_tokens": 120, "temperature": 0, "chat_template_kwargs": {"enable_thinking": True}}
    question, api = TEXT, running.endpoint
    messages = []
    for mode in EXACT:
        options = {"decoding_mode": mode}
        free = api.chat(options, question, **fields)["message"]["reasoning"]
        short = api.chat(options, question, **fields, thinking_token_budget=BUDGET)["message"]
        assert len(running.tokenize(short["reasoning"])) <= BUDGET < len(running.tokenize(free))
        messages.append((short["reasoning"], short["content"]))
    assert messages[0] == messages[1]
    refused = api.post(
        CHAT,
        {"decoding_mode": "diffusion"},
        messages=[{"role": "user", "content": question}],
        **fields,
        thinking_token_budget=BUDGET,
    )
    assert refused.status_code == 400, refused.text
