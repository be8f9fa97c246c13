"""What only vLLM's requests can hold: bad or odd, it is answered with 400 or as it should be, never with 500."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.common.cases import MODES
from tests.served.setups import on
from tests.served.test_bad_input import a_case, message_of
from tests.vllm.servers import Running

pytestmark = [pytest.mark.engine, on("paged", long=("plain",))]

ODD: list[dict[str, Any]] = [
    {"response_format": {"type": "json_object"}, "vllm_xargs": {"decoding_mode": "ar"}},
    {"response_format": {"type": "json_object"}, "vllm_xargs": {"decoding_mode": "self_speculation"}},
    {"structured_outputs": {"json": {"const": 10**30}}, "vllm_xargs": {"decoding_mode": "ar"}},
    {"stream_interval": 10**24},
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


def test_beam_search_has_no_meaning_in_diffusion(running: Running) -> None:
    beams = {"use_beam_search": True, "n": 2}
    reply = running.client.post(running.client.body(a_case(decoding_mode="diffusion"), **beams))
    assert "use_beam_search" in message_of(reply)
    answers = [
        running.client.choices(a_case(decoding_mode=mode), **beams) for mode in ("ar", "self_speculation")
    ]
    assert [beam.token_ids for beam in answers[0]] == [beam.token_ids for beam in answers[1]]


@pytest.mark.parametrize("odd", ODD, ids=[str(odd)[:60] for odd in ODD])
def test_nothing_is_a_500(running: Running, odd: dict[str, Any]) -> None:
    content = json.dumps(running.client.body(a_case(), **odd))
    reply = running.client.http.post(
        "/v1/completions", content=content, headers={"Content-Type": "application/json"}
    )
    assert reply.status_code < 500, reply.text


@pytest.mark.parametrize("mode", MODES)
def test_the_engine_s_own_keys_pass(running: Running, mode: str) -> None:
    own = {"kv_cache_report_mode": "full", "session_id": "s", "decoding_mode": mode}
    asked = {**running.client.body(a_case()), "vllm_xargs": own}
    assert running.client.post(asked).status_code == 200
    misspelt = running.client.post({**asked, "vllm_xargs": {**own, "decodingmode": mode}})
    assert "'decodingmode': unknown option (did you mean 'decoding_mode'?)" in message_of(misspelt)


@pytest.mark.parametrize("stream", [False, True])
def test_requests_to_generate_from_tokens(running: Running, stream: bool) -> None:
    def reply(**options: Any) -> Any:
        params = {"max_tokens": 5, "temperature": 0, "extra_args": options}
        body = {
            "model": running.client.model,
            "token_ids": [300, 400],
            "stream": stream,
            "sampling_params": params,
        }
        return running.client.post(body, "/inference/v1/generate")

    assert "'threshold': got 7" in message_of(reply(threshold=7))
    assert reply(decoding_mode="diffusion").status_code == 200


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


DECISIONS = {
    "/v1/systemone": {"state": "x", "questions": {"q": {"type": "binary", "instructions": "Is it so?"}}},
    "/v1/decisions": {"input": "x", "questions": [{"type": "predicate", "instructions": "Is it so?"}]},
}


@pytest.mark.parametrize("path", DECISIONS)
def test_paths_that_need_another_model(running: Running, path: str) -> None:
    """vLLM reads decisions off models that it has a strategy for; 0.33 has the second path too."""
    reply = running.client.post({"model": running.client.model, **DECISIONS[path]}, path)
    is_there = path in running.client.http.get("/openapi.json").json()["paths"]
    assert reply.status_code == (501 if is_there else 404), reply.text
    assert not is_there or "does not support" in reply.text
