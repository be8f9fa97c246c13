"""Constrained answers, tool calls and reasoning: drafts do not lead an answer across the border of what is allowed."""

from __future__ import annotations

import json
import os
import random
import re
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from jsonschema import validate

from tests.common.cases import MODES, Case, mixed_cases
from tests.common.cases import prompt as random_prompt
from tests.common.schemas import RECORD
from tests.served.endpoint import CHAT, COMPLETIONS
from tests.served.running import Running
from tests.served.setups import VLLM, on

pytestmark = [pytest.mark.engine, on("trained", *(["auto"] if VLLM else []))]

RUNS = int(os.environ.get("NEMOTRON_DIFFUSION_JSON_RUNS", "40"))
"""JSON answers sampled; the long lane takes 200."""

AT_ONCE = 8
EXACT = ("ar", "self_speculation")
QUESTION = "What is 34 + 57? Show the steps."
PARAMETERS: dict[str, Any] = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "pattern": "^[a-z]{2,8}$"},
        "days": {"type": "integer", "minimum": 0, "maximum": 99},
    },
    "required": ["city", "days"],
    "additionalProperties": False,
}
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "The weather of the next days.",
            "parameters": PARAMETERS,
            "strict": True,
        },
    }
]
NAMED = {"type": "function", "function": {"name": "get_weather"}}
REGEX = r"[0-9]{3}-[a-z]{4,9}( and [0-9]{2}){2}"
WORDS = ["apples", "pears", "apricots"]
GRAMMAR = 'root ::= ("ab" | "cd") " " [0-9] [0-9] [0-9]'
CALL = r'<tool_call>\n\{"name": "get_weather", "arguments": \{"city": "[a-z]{3,6}", "days": [0-9]\}\}\n</tool_call>'


def as_schema(schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}


def arguments_of(choice: dict[str, Any]) -> dict[str, Any]:
    """The arguments of the one tool call of an answer, as the engine's parser gave them."""
    [call] = choice["message"]["tool_calls"]
    assert call["function"]["name"] == "get_weather"
    arguments: dict[str, Any] = json.loads(call["function"]["arguments"])
    validate(arguments, PARAMETERS)
    return arguments


def test_sampled_json_is_always_valid(running: Running) -> None:
    """At temperature 1, many at once, next to requests of every mode without a grammar."""
    api = running.endpoint

    def one(number: int) -> str:
        options = {"decoding_mode": "self_speculation", "block_size": (32, 8, 5)[number % 3]}
        question = f"Tell me about number {number}."
        fields = {"max_tokens": 200, "temperature": 1.0, "response_format": as_schema(RECORD)}
        if number % 4 == 3:
            other = {"decoding_mode": MODES[number // 4 % 3]}
            api.chat(other, question, max_tokens=30, temperature=1.0)
        choice = api.chat(options, question, **fields)
        assert choice["finish_reason"] == "stop", choice
        return str(choice["message"]["content"])

    with ThreadPoolExecutor(AT_ONCE) as pool:
        texts = list(pool.map(one, range(RUNS)))
    for text in texts:
        validate(json.loads(text), RECORD)
    assert len(texts) == RUNS
    assert len(set(texts)) > RUNS // 2, "the answers are meant to differ"


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("kind", ["regex", "choice", "grammar", "schema"])
def test_completion_fits(running: Running, kind: str, temperature: float) -> None:
    api = running.endpoint
    value: Any = {"regex": REGEX, "choice": WORDS, "grammar": GRAMMAR, "schema": RECORD}[kind]
    fields = {"prompt": "So 3", "max_tokens": 200, "temperature": temperature, "seed": 1}
    texts = {}
    for mode in EXACT:
        [choice] = api.choices(COMPLETIONS, {"decoding_mode": mode}, **fields, **getattr(api, kind)(value))
        text = texts[mode] = choice["text"]
        assert choice["finish_reason"] == "stop"
        if kind == "schema":
            validate(json.loads(text), RECORD)
        elif kind == "choice":
            assert text in WORDS
        else:
            assert re.fullmatch(REGEX if kind == "regex" else r"(ab|cd) [0-9]{3}", text), text
    if temperature == 0:
        assert texts["ar"] == texts["self_speculation"]


def test_among_others(running: Running) -> None:
    """With grammars and without in one batch, diffusion beside them."""
    api, vocab = running.endpoint, running.reference.config.vocab_size
    others = mixed_cases(vocab, seed=2, count=6, most_tokens=60)
    tokens = random_prompt(random.Random(1), 20, vocab)
    with running.client.in_background(others) as answered:
        for fields in (api.regex(REGEX), api.schema(RECORD)):
            answers = [
                running.client.complete(Case(tokens, 120, {"decoding_mode": mode}), **fields)
                for mode in EXACT
            ]
            assert answers[0].token_ids == answers[1].token_ids
            assert answers[0].finish_reason == "stop"
            if fields == api.regex(REGEX):
                assert re.fullmatch(REGEX, answers[0].text), answers[0].text
            else:
                validate(json.loads(answers[0].text), RECORD)
    running.check_answers(others, answered)


def test_drafts_keep_to_a_grammar_that_forces_the_model_off_its_way(running: Running) -> None:
    """Drafts as picked would give hardly more than one token a cycle here (docs/features.md)."""
    api = running.endpoint
    options = {"decoding_mode": "self_speculation"}
    before = running.client.settled()
    for number in range(12):
        fields = {"temperature": 0, "max_tokens": 100, "response_format": as_schema(RECORD)}
        choice = api.chat(options, f"What is {34 + number} + {57 - number}?", **fields)
        validate(json.loads(choice["message"]["content"]), RECORD)
    after = running.client.settled()

    def rise(name: str, **labels: str) -> float:
        name = f"nemotron_diffusion:{name}_total"
        labels["decoding_mode"] = "self_speculation"
        return float(after.total(name, **labels) - before.total(name, **labels))

    decoded = rise("generated_tokens") - rise("forwards", kind="prefill")
    print(f"{running.name}: {decoded / rise('forwards', kind='verify'):.2f} tokens per verify forward")
    assert decoded > 2.5 * rise("forwards", kind="verify")


@pytest.mark.parametrize("kind", ["regex", "choice", "grammar", "schema"])
def test_diffusion_refuses_constraints(running: Running, kind: str) -> None:
    value: Any = {"regex": REGEX, "choice": WORDS, "grammar": GRAMMAR, "schema": RECORD}[kind]
    fields = getattr(running.endpoint, kind)(value)
    reply = running.endpoint.post(
        COMPLETIONS, {"decoding_mode": "diffusion"}, prompt="So 3", max_tokens=5, **fields
    )
    assert reply.status_code == 400, reply.text
    assert "use decoding_mode 'auto', 'ar' or 'self_speculation'" in reply.text


@pytest.mark.parametrize("choice", ["required", NAMED], ids=["required", "named"])
def test_forced_tool_call(running: Running, choice: Any) -> None:
    api = running.endpoint
    fields = {"tools": TOOLS, "tool_choice": choice, "max_tokens": 200}
    greedy = [
        arguments_of(api.chat({"decoding_mode": mode}, QUESTION, temperature=0, **fields)) for mode in EXACT
    ]
    assert greedy[0] == greedy[1]
    for seed in range(4):
        sampled = api.chat(
            {"decoding_mode": "self_speculation"}, QUESTION, temperature=1, seed=seed, **fields
        )
        arguments_of(sampled)
    messages = [{"role": "user", "content": QUESTION}]
    refused = api.post(CHAT, {"decoding_mode": "diffusion"}, messages=messages, **fields)
    assert refused.status_code == 400, refused.text


@pytest.mark.parametrize("mode", EXACT)
def test_tool_call_of_the_model(running: Running, mode: str) -> None:
    """Text that looks like a call is read by the engine's parser, whole and streamed; the small model is led to it."""
    api = running.endpoint
    fields = {"tools": TOOLS, "max_tokens": 200, "temperature": 0, **api.regex(CALL)}
    arguments = arguments_of(api.chat({"decoding_mode": mode}, QUESTION, **fields))
    messages = [{"role": "user", "content": QUESTION}]
    body = api.body({"decoding_mode": mode}, messages=messages, stream=True, **fields)
    name, pieces = "", []
    with api.http.stream("POST", CHAT, json=body) as reply:
        for line in reply.iter_lines():
            if line.startswith("data: {"):
                for choice in json.loads(line.removeprefix("data: "))["choices"]:
                    for call in choice["delta"].get("tool_calls") or []:
                        name += call["function"].get("name") or ""
                        pieces.append(call["function"].get("arguments") or "")
    assert name == "get_weather"
    assert json.loads("".join(pieces)) == arguments


@pytest.mark.parametrize("mode", MODES)
def test_reasoning_is_off_unless_asked_for(running: Running, mode: str) -> None:
    """The template closes the think block; with `enable_thinking` the engine's parser takes the thoughts apart."""
    api, fields = running.endpoint, {"max_tokens": 120, "temperature": 0}
    plain = api.chat({"decoding_mode": mode}, QUESTION, **fields)["message"]
    assert plain["content"].startswith("Ones:")
    assert not thoughts_of(plain)
    thinking = {"chat_template_kwargs": {"enable_thinking": True}}
    message = api.chat({"decoding_mode": mode}, QUESTION, **fields, **thinking)["message"]
    assert message["content"].strip().startswith("Ones:")
    assert thoughts_of(message).strip()
    assert "</think>" not in message["content"] + thoughts_of(message)


def thoughts_of(message: dict[str, Any]) -> str:
    return message.get("reasoning_content") or message.get("reasoning") or ""


def test_json_behind_a_thought(running: Running) -> None:
    """The thought is free and the answer is not, though a draft may begin in one and end in the other."""
    fields = {
        "temperature": 0,
        "max_tokens": 200,
        "response_format": as_schema(RECORD),
        "chat_template_kwargs": {"enable_thinking": True},
    }
    messages = [
        running.endpoint.chat({"decoding_mode": mode}, QUESTION, **fields)["message"] for mode in EXACT
    ]
    assert messages[0] == messages[1]
    validate(json.loads(messages[0]["content"]), RECORD)
    assert thoughts_of(messages[0]).strip()
