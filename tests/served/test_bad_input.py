"""Bad input is answered with 400 that names field, value and what is allowed, and the engine goes on."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import openai
import pytest

from nemotron_diffusion_plugin.options import DecodingOptions, OptionError
from tests.common.bad_options import OPTIONS
from tests.common.cases import MODES, Case, mixed_cases, prompt
from tests.served.endpoint import CHAT, COMPLETIONS
from tests.served.running import Running
from tests.served.setups import VLLM, on

pytestmark = [pytest.mark.engine, on("paged", long=("plain",))]

PARAMETERS: list[tuple[dict[str, Any], list[str]]] = [
    ({"top_p": 0.5}, ["top_p", "0.5", "1.0"]),
    ({"top_k": 5}, ["top_k", "5"]),
    ({"min_p": 0.2}, ["min_p", "0.2"]),
    ({"presence_penalty": 0.5}, ["presence_penalty", "0.5"]),
    ({"frequency_penalty": 0.5}, ["frequency_penalty", "0.5"]),
    ({"repetition_penalty": 1.5}, ["repetition_penalty", "1.5"]),
    ({"logit_bias": {"200": 5.0}}, ["logit_bias", "200"]),
]
PARAMETERS += (
    [
        ({"allowed_token_ids": [200, 300]}, ["allowed_token_ids", "[200, 300]"]),
        ({"bad_words": ["hello"]}, ["bad_words", "hello"]),
        ({"response_format": {"type": "json_object"}}, ["response_format.type", "json_object"]),
        ({"structured_outputs": {"regex": "a+"}}, ["structured_outputs", "a constraint"]),
    ]
    if VLLM
    else [
        ({"regex": "a+"}, ["regex", "a constraint"]),
        ({"json_schema": '{"type": "object"}'}, ["json_schema", "a constraint"]),
        ({"ebnf": 'root ::= "a"'}, ["ebnf", "a constraint"]),
    ]
)


def a_case(**options: Any) -> Case:
    return Case(prompt(random.Random(3), 12, 1024), 20, options)


def message_of(reply: Any) -> str:
    """What a 400 says."""
    assert reply.status_code == 400, reply.text
    content = reply.json()
    return str((content.get("error") or content)["message"])


def text_for(running: Running, options: dict[str, Any]) -> str:
    """The text by which options are refused wherever they are given."""
    with pytest.raises(OptionError) as caught:
        DecodingOptions.parse(options, running.reference.defaults, running.reference.config.block_size)
    return str(caught.value)


@pytest.mark.parametrize(("options", "named"), OPTIONS, ids=[str(options) for options, _ in OPTIONS])
def test_options(running: Running, options: dict[str, Any], named: list[str]) -> None:
    message = message_of(running.client.post(running.client.body(a_case(**options))))
    wanted = named if VLLM else [text_for(running, options)]  # vLLM checks the types of its field first
    assert not [text for text in wanted if text not in message], message


@pytest.mark.parametrize(
    ("parameters", "named"), PARAMETERS, ids=[str(parameters) for parameters, _ in PARAMETERS]
)
def test_parameters_without_meaning_in_diffusion(
    running: Running, parameters: dict[str, Any], named: list[str]
) -> None:
    fields = {"temperature": 0.5, **parameters}
    body = running.client.body(a_case(decoding_mode="diffusion"), **fields)
    message = message_of(running.client.post(body))
    assert not [text for text in [*named, "'ar' or 'self_speculation'"] if text not in message], message
    running.client.complete(a_case(decoding_mode="self_speculation"), **fields)


@pytest.mark.parametrize("options", [OPTIONS[0][0], OPTIONS[5][0]], ids=str)
@pytest.mark.parametrize("path", [COMPLETIONS, CHAT])
def test_streams(running: Running, path: str, options: dict[str, Any]) -> None:
    """Nothing is streamed."""
    asked = (
        {"prompt": "hello"} if path == COMPLETIONS else {"messages": [{"role": "user", "content": "hello"}]}
    )
    reply = running.endpoint.post(path, options, **asked, max_tokens=4, stream=True)
    assert text_for(running, options) in message_of(reply)


@pytest.mark.parametrize("stream", [False, True])
def test_openai_client(running: Running, stream: bool) -> None:
    """The standard client raises, also where the answer would be streamed."""
    ask: dict[str, Any] = {
        "model": running.client.model,
        "messages": [{"role": "user", "content": "hello"}],
        "max_tokens": 4,
        "extra_body": {running.options_field: {"decoding_mode": "diffusion", "threshold": 7}},
    }
    with pytest.raises(openai.BadRequestError, match=r"threshold.*got 7.*\(0, 1\]"):
        list(running.client.openai.chat.completions.create(**ask, stream=stream))


def test_engine_survives(running: Running) -> None:
    """Bad and good requests at once: the good ones get the reference's tokens."""
    good = mixed_cases(running.reference.config.vocab_size, seed=4, count=6, most_tokens=40)
    with running.client.in_background(good) as answers:
        for options, _ in OPTIONS:
            body = running.client.body(replace(good[0], options=options))
            assert running.client.post(body).status_code == 400
    running.check_answers(good, answers)
    assert tuple(dict.fromkeys(running.reference.mode(case) for case in good)) == MODES
    assert running.idle()
