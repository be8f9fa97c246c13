"""Bad input is answered with 400 that names field, value and what is allowed, and the engine goes on."""

from __future__ import annotations

import json
import random
from typing import Any

import httpx
import openai
import pytest

from nemotron_diffusion_plugin.options import DecodingOptions, OptionError
from tests.common.bad_options import OPTIONS
from tests.common.cases import MODES, Case, mixed_cases, prompt
from tests.sglang.servers import Running

pytestmark = [
    pytest.mark.engine,
    pytest.mark.parametrize("running", ["paged"], indirect=True, scope="session"),
]

PARAMETERS: list[tuple[dict[str, Any], list[str]]] = [
    ({"top_p": 0.5}, ["top_p", "0.5", "1.0"]),
    ({"top_k": 5}, ["top_k", "5"]),
    ({"min_p": 0.2}, ["min_p", "0.2"]),
    ({"presence_penalty": 0.5}, ["presence_penalty", "0.5"]),
    ({"frequency_penalty": 0.5}, ["frequency_penalty", "0.5"]),
    ({"repetition_penalty": 1.5}, ["repetition_penalty", "1.5"]),
    ({"logit_bias": {"200": 5.0}}, ["logit_bias", "200"]),
    ({"regex": "a+"}, ["regex", "a constraint"]),
    ({"json_schema": '{"type": "object"}'}, ["json_schema", "a constraint"]),
    ({"ebnf": 'root ::= "a"'}, ["ebnf", "a constraint"]),
]

ODD_PARAMETERS: list[dict[str, Any]] = [
    {"custom_params": []},
    {"custom_params": "ar"},
    {"custom_params": {}},
    {"custom_params": None},
    {"custom_params": {"": 1}},
    {"custom_params": {"threshold": 1e400}},
    {"custom_params": {"threshold": None}},
    {"max_new_tokens": 0},
    {"max_new_tokens": -1},
    {"max_new_tokens": 10**6},
    {"temperature": -1},
    {"top_k": 0},
    {"top_k": 10**30, "temperature": 1.0},
    {"temperature": 10**400},
    {"sampling_seed": 2**70, "temperature": 1.0},
    {"n": 0},
    {"sampling_seed": "x"},
    {"sampling_seed": -5, "temperature": 1.0},
    {"stop_token_ids": [10**7]},
    {"stop_token_ids": list(range(200, 400)), "ignore_eos": False},
    {"min_new_tokens": 50, "max_new_tokens": 5},
    {"logit_bias": {"99999999": 1.0}},
    {"regex": "("},
    {"json_schema": "{"},
    {"nonsense": 1},
]

ODD_FIELDS: list[dict[str, Any]] = [
    {"input_ids": []},
    {"input_ids": [300] * 600},
    {"return_logprob": True, "logprob_start_len": 10**6},
    {"sampling_params": {"max_new_tokens": "x"}},
    {"return_hidden_states": True},
    {"lora_path": "nowhere"},
    {"custom_logit_processor": "x"},
]


@pytest.fixture(scope="module")
def case() -> Case:
    return Case(prompt(random.Random(3), 12, 1024), 20)


def message_of(reply: httpx.Response) -> str:
    return str(reply.json()["error"]["message"])


def text_for(running: Running, options: dict[str, Any]) -> str:
    """The text for which vLLM's side and the command line answer too."""
    with pytest.raises(OptionError) as caught:
        DecodingOptions.parse(options, running.reference.defaults, running.reference.config.block_size)
    return str(caught.value)


@pytest.mark.parametrize("options", [options for options, _ in OPTIONS], ids=str)
def test_options(running: Running, case: Case, options: dict[str, Any]) -> None:
    body = running.client.body(case, {"custom_params": options})
    reply = running.client.post(body)
    assert reply.status_code == 400, reply.text
    assert text_for(running, options) in message_of(reply)


@pytest.mark.parametrize("options", [OPTIONS[0][0], OPTIONS[5][0]], ids=str)
@pytest.mark.parametrize("path", ["/generate", "/v1/completions", "/v1/chat/completions"])
def test_streamed(running: Running, case: Case, path: str, options: dict[str, Any]) -> None:
    """Nothing is streamed: the OpenAI paths answer 400, SGLang's own one with the error as its only event."""
    bodies = {
        "/generate": running.client.body(case, {"custom_params": options}),
        "/v1/completions": {"model": "m", "prompt": "hello", "max_tokens": 4, "custom_params": options},
        "/v1/chat/completions": {
            "model": "m",
            "messages": [{"role": "user", "content": "hello"}],
            "max_tokens": 4,
            "custom_params": options,
        },
    }
    reply = running.client.post({**bodies[path], "stream": True}, path=path)
    if path == "/generate":
        [event, end] = [line for line in reply.text.splitlines() if line]
        assert end == "data: [DONE]"
        error = json.loads(event.removeprefix("data: "))["error"]
        assert error["code"] == 400
    else:
        assert reply.status_code == 400, reply.text
        error = reply.json().get("error") or reply.json()
    assert text_for(running, options) in error["message"]


def test_openai_client(running: Running) -> None:
    """The standard client raises, also where the answer would be streamed."""
    ask: dict[str, Any] = {
        "model": running.client.model,
        "messages": [{"role": "user", "content": "hello"}],
        "max_tokens": 4,
        "extra_body": {"custom_params": {"decoding_mode": "diffusion", "threshold": 7}},
    }
    chat = running.client.openai.chat.completions
    with pytest.raises(openai.BadRequestError, match=r"threshold.*got 7.*\(0, 1\]"):
        chat.create(**ask)
    with pytest.raises(openai.BadRequestError, match=r"threshold.*got 7.*\(0, 1\]"):
        list(chat.create(**ask, stream=True))


@pytest.mark.parametrize(
    ("parameters", "named"), PARAMETERS, ids=[str(parameters) for parameters, _ in PARAMETERS]
)
def test_parameters_without_meaning_in_diffusion(
    running: Running, case: Case, parameters: dict[str, Any], named: list[str]
) -> None:
    sampling = {"temperature": 0.5, **parameters}
    reply = running.client.post(
        running.client.body(case, {**sampling, "custom_params": {"decoding_mode": "diffusion"}})
    )
    assert reply.status_code == 400, reply.text
    wanted = [*named, "'ar' or 'self_speculation'"]
    assert not [text for text in wanted if text not in message_of(reply)], message_of(reply)
    elsewhere = running.client.post(
        running.client.body(case, {**sampling, "custom_params": {"decoding_mode": "self_speculation"}})
    )
    assert elsewhere.status_code == 200, elsewhere.text


@pytest.mark.parametrize("odd", ODD_PARAMETERS, ids=[str(odd)[:60] for odd in ODD_PARAMETERS])
def test_no_parameter_is_a_500(running: Running, case: Case, odd: dict[str, Any]) -> None:
    content = json.dumps(running.client.body(case, odd))
    reply = running.client.http.post(
        "/generate", content=content, headers={"Content-Type": "application/json"}
    )
    assert reply.status_code < 500, reply.text


@pytest.mark.parametrize("odd", ODD_FIELDS, ids=[str(odd)[:60] for odd in ODD_FIELDS])
@pytest.mark.parametrize("mode", ["diffusion", "self_speculation"])
def test_no_field_is_a_500(running: Running, case: Case, mode: str, odd: dict[str, Any]) -> None:
    body = running.client.body(case, {"custom_params": {"decoding_mode": mode}}) | odd
    assert running.client.post(body).status_code < 500


@pytest.mark.parametrize("token", [-1, 1024, 10**6])
@pytest.mark.parametrize("mode", MODES)
def test_ids_outside_the_vocabulary(running: Running, case: Case, mode: str, token: int) -> None:
    body = running.client.body(case, {"custom_params": {"decoding_mode": mode}})
    reply = running.client.post({**body, "input_ids": [*case.prompt, token]})
    assert reply.status_code == 400, reply.text
    assert str(token) in message_of(reply)
    assert running.server.healthy()


@pytest.mark.parametrize(
    ("parameters", "named"),
    [
        ({"stop_token_ids": [2**63], "min_new_tokens": 1}, ["stop_token_ids", str(2**63)]),
        ({"stop_token_ids": [10**6], "min_new_tokens": 1}, ["stop_token_ids", str(10**6)]),
        ({"n": 2, "sampling_seed": 1, "temperature": 0.8}, ["'n'", "got 2 with a seed"]),
    ],
    ids=["past int64", "past the vocabulary", "equal choices"],
)
@pytest.mark.parametrize("mode", MODES)
def test_parameters_that_no_mode_has(
    running: Running, case: Case, mode: str, parameters: dict[str, Any], named: list[str]
) -> None:
    body = running.client.body(case, {**parameters, "custom_params": {"decoding_mode": mode}})
    reply = running.client.post(body)
    assert reply.status_code == 400, reply.text
    assert not [text for text in named if text not in message_of(reply)], message_of(reply)
    assert running.server.healthy()


@pytest.mark.parametrize(
    "odd",
    [{"top_logprobs_num": 10**6}, {"token_ids_logprob": [10**6]}, {"token_ids_logprob": [-5000]}],
    ids=str,
)
def test_logprobs_nobody_has(running: Running, case: Case, odd: dict[str, Any]) -> None:
    reply = running.client.post({**running.client.body(case), "return_logprob": True, **odd})
    assert reply.status_code == 400, reply.text
    assert next(iter(odd)) in message_of(reply)
    assert running.server.healthy()


def test_engine_survives(running: Running, case: Case) -> None:
    """Bad and good requests at once: the good ones get the reference's tokens."""
    good = mixed_cases(running.reference.config.vocab_size, seed=4, count=6, most_tokens=40)
    with running.client.in_background(good) as answered:
        for options, _ in OPTIONS:
            assert (
                running.client.post(running.client.body(case, {"custom_params": options})).status_code == 400
            )
    for one, answer in zip(good, answered, strict=True):
        assert answer.token_ids == running.reference.generate(one).token_ids, one
    assert tuple(dict.fromkeys(running.reference.mode(one) for one in good)) == MODES
    assert running.client.empty_cache()
