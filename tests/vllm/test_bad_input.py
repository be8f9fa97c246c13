"""Bad input is answered with 400 that names field, value and what is allowed, and the engine goes on."""

from __future__ import annotations

import json
import random
from typing import Any

import openai
import pytest

from tests.common.bad_options import OPTIONS
from tests.common.cases import MODES, Case, mixed_cases, prompt
from tests.vllm.servers import Running

pytestmark = [
    pytest.mark.engine,
    pytest.mark.parametrize("running", ["prefixes"], indirect=True, scope="session"),
]

PARAMETERS: list[tuple[dict[str, Any], list[str]]] = [
    ({"top_p": 0.5}, ["top_p", "0.5", "1.0"]),
    ({"top_k": 5}, ["top_k", "5"]),
    ({"presence_penalty": 0.5}, ["presence_penalty", "0.5"]),
    ({"frequency_penalty": 0.5}, ["frequency_penalty", "0.5"]),
    ({"repetition_penalty": 1.5}, ["repetition_penalty", "1.5"]),
    ({"allowed_token_ids": [200, 300]}, ["allowed_token_ids", "[200, 300]"]),
    ({"bad_words": ["hello"]}, ["bad_words", "hello"]),
    ({"min_p": 0.2}, ["min_p", "0.2"]),
    ({"logit_bias": {"200": 5.0}}, ["logit_bias", "200"]),
    ({"response_format": {"type": "json_object"}}, ["structured_outputs"]),
]

ODD: list[dict[str, Any]] = [
    {"response_format": {"type": "json_object"}, "vllm_xargs": {"decoding_mode": "ar"}},
    {"response_format": {"type": "json_object"}, "vllm_xargs": {"decoding_mode": "self_speculation"}},
    {"structured_outputs": {"json": {"const": 10**30}}, "vllm_xargs": {"decoding_mode": "ar"}},
    {"vllm_xargs": []},
    {"vllm_xargs": "ar"},
    {"vllm_xargs": {}},
    {"vllm_xargs": None},
    {"vllm_xargs": {"": 1}},
    {"vllm_xargs": {"threshold": 1e400}},
    {"prompt": []},
    {"prompt": [10**6]},
    {"prompt": [-1]},
    {"max_tokens": 0},
    {"max_tokens": 10**6},
    {"temperature": -1},
    {"n": 0},
    {"logprobs": 10**6},
    {"seed": "x"},
    {"stop_token_ids": [10**7]},
    {"logit_bias": {"99999999": 1.0}},
    {"logit_bias": {str(key): 1.0 for key in range(1024)}},
    {"min_tokens": 50, "max_tokens": 5},
    {"prompt_logprobs": 2, "vllm_xargs": {"decoding_mode": "diffusion"}},
    {"echo": True, "vllm_xargs": {"decoding_mode": "diffusion"}},
]


@pytest.fixture(scope="module")
def case() -> Case:
    return Case(prompt(random.Random(3), 12, 1024), 20)


@pytest.mark.parametrize(("options", "named"), OPTIONS, ids=[str(options) for options, _ in OPTIONS])
def test_options(running: Running, case: Case, options: dict[str, Any], named: list[str]) -> None:
    reply = running.client.post(running.client.body(case, vllm_xargs=options))
    assert reply.status_code == 400, reply.text
    message = reply.json()["error"]["message"]
    assert not [text for text in named if text not in message], message


@pytest.mark.parametrize(
    ("parameters", "named"), PARAMETERS, ids=[str(parameters) for parameters, _ in PARAMETERS]
)
def test_parameters_without_meaning_in_diffusion(
    running: Running, case: Case, parameters: dict[str, Any], named: list[str]
) -> None:
    body = running.client.body(case, vllm_xargs={"decoding_mode": "diffusion"})
    body |= {"temperature": 0.5, **parameters}
    reply = running.client.post(body)
    assert reply.status_code == 400, reply.text
    message = reply.json()["error"]["message"]
    assert not [text for text in [*named, "'ar' or 'self_speculation'"] if text not in message], message
    elsewhere = running.client.post({**body, "vllm_xargs": {"decoding_mode": "self_speculation"}})
    assert elsewhere.status_code == 200, elsewhere.text


def test_beam_search_has_no_meaning_in_diffusion(running: Running, case: Case) -> None:
    beams = {"use_beam_search": True, "n": 2}
    reply = running.client.post(running.client.body(case, vllm_xargs={"decoding_mode": "diffusion"}, **beams))
    assert reply.status_code == 400, reply.text
    assert "use_beam_search" in reply.json()["error"]["message"]
    answers = [
        running.client.choices(case, vllm_xargs={"decoding_mode": mode}, **beams)
        for mode in ("ar", "self_speculation")
    ]
    assert [beam.token_ids for beam in answers[0]] == [beam.token_ids for beam in answers[1]]


def test_openai_client_and_chat(running: Running) -> None:
    """The standard client raises, also where the answer would be streamed."""
    ask: dict[str, Any] = {
        "model": running.client.model,
        "messages": [{"role": "user", "content": "hello"}],
        "max_tokens": 4,
        "extra_body": {"vllm_xargs": {"decoding_mode": "diffusion", "threshold": 7}},
    }
    chat = running.client.openai.chat.completions
    with pytest.raises(openai.BadRequestError, match=r"threshold.*got 7.*\(0, 1\]"):
        chat.create(**ask)
    with pytest.raises(openai.BadRequestError, match=r"threshold.*got 7.*\(0, 1\]"):
        chat.create(**ask, stream=True)


def test_streamed_completions(running: Running, case: Case) -> None:
    body = running.client.body(case, vllm_xargs={"decoding_mode": "turbo"})
    reply = running.client.post({**body, "stream": True})
    assert reply.status_code == 400
    assert "'ar', 'diffusion', 'self_speculation'" in reply.json()["error"]["message"]


@pytest.mark.parametrize("odd", ODD, ids=[str(odd)[:60] for odd in ODD])
def test_nothing_is_a_500(running: Running, case: Case, odd: dict[str, Any]) -> None:
    content = json.dumps(running.client.body(case, **odd))
    reply = running.client.http.post(
        "/v1/completions", content=content, headers={"Content-Type": "application/json"}
    )
    assert reply.status_code < 500, reply.text
    assert running.server.healthy()


def test_engine_survives(running: Running, case: Case) -> None:
    """Bad and good requests at once: the good ones get the reference's tokens."""
    good = mixed_cases(running.reference.config.vocab_size, seed=4, count=6, most_tokens=40)
    for options, _ in OPTIONS:
        assert running.client.post(running.client.body(case, vllm_xargs=options)).status_code == 400
    answers = running.client.complete_all(good)
    assert [a.token_ids for a in answers] == [running.reference.generate(c).token_ids for c in good]
    assert tuple(dict.fromkeys(running.reference.mode(c) for c in good)) == MODES


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("path", "asked"),
    [
        ("/v1/responses", {"input": "Who?", "max_output_tokens": 5}),
        ("/v1/messages", {"messages": [{"role": "user", "content": "Who?"}], "max_tokens": 5}),
    ],
)
def test_other_ways_to_ask(running: Running, path: str, asked: dict[str, Any], stream: bool) -> None:
    """The endpoints that take options too: a good one is heard, a bad one is a 400."""
    body = {"model": running.client.model, "stream": stream, "temperature": 0, **asked}
    bad = running.client.post({**body, "vllm_xargs": {"decoding_mode": "diffusoin"}}, path)
    assert bad.status_code == 400, bad.text
    assert "'decoding_mode': got 'diffusoin', expected one of 'ar', 'diffusion'" in bad.text
    before = running.client.settled().mode("requests", "diffusion")
    good = running.client.post({**body, "vllm_xargs": {"decoding_mode": "diffusion"}}, path)
    assert good.status_code == 200, good.text
    assert running.client.settled().mode("requests", "diffusion") == before + 1
