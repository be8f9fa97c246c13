"""Bad words, and a thinking budget that is kept alike in AR and in self-speculation."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.common.cases import Case
from tests.served.endpoint import CHAT
from tests.served.setups import on
from tests.vllm.servers import Running

pytestmark = [pytest.mark.engine, on("trained")]

EXACT = ("ar", "self_speculation")
BUDGET = 2
TEXT = "What is 34 + 57? Show the steps."


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
