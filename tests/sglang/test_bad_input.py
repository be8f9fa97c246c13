"""What only SGLang's requests can hold: bad or odd, it is answered with 400 or as it should be, never with 500."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.common.bad_options import OPTIONS
from tests.common.cases import MODES
from tests.served.setups import on
from tests.served.test_bad_input import a_case, message_of, text_for
from tests.sglang.servers import Running

pytestmark = [pytest.mark.engine, on("paged", long=("plain",))]

ODD_PARAMETERS: list[dict[str, Any]] = [
    {"custom_params": []},
    {"custom_params": "ar"},
    {"custom_params": {}},
    {"custom_params": None},
    {"custom_params": {"": 1}},
    {"custom_params": {"threshold": 1e400}},
    {"custom_params": {"threshold": None}},
    {"custom_params": {"return_counts": 1}},
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


@pytest.mark.parametrize("options", [OPTIONS[0][0], OPTIONS[5][0]], ids=str)
def test_streams_of_the_own_endpoint(running: Running, options: dict[str, Any]) -> None:
    """Nothing is streamed but the error."""
    reply = running.client.post(running.client.body(a_case(**options), stream=True))
    [event, end] = [line for line in reply.text.splitlines() if line]
    assert end == "data: [DONE]"
    error = json.loads(event.removeprefix("data: "))["error"]
    assert error["code"] == 400
    assert text_for(running, options) in error["message"]


@pytest.mark.parametrize("odd", ODD_PARAMETERS, ids=[str(odd)[:60] for odd in ODD_PARAMETERS])
def test_no_parameter_is_a_500(running: Running, odd: dict[str, Any]) -> None:
    body = running.client.body(a_case())
    content = json.dumps({**body, "sampling_params": {**body["sampling_params"], **odd}})
    reply = running.client.http.post(
        "/generate", content=content, headers={"Content-Type": "application/json"}
    )
    assert reply.status_code < 500, reply.text


@pytest.mark.parametrize("odd", ODD_FIELDS, ids=[str(odd)[:60] for odd in ODD_FIELDS])
@pytest.mark.parametrize("mode", ["diffusion", "self_speculation"])
def test_no_field_is_a_500(running: Running, mode: str, odd: dict[str, Any]) -> None:
    body = running.client.body(a_case(decoding_mode=mode)) | odd
    assert running.client.post(body).status_code < 500


@pytest.mark.parametrize("token", [-1, None, 10**6], ids=["negative", "first beyond", "far beyond"])
@pytest.mark.parametrize("mode", MODES)
def test_ids_outside_the_vocabulary(running: Running, mode: str, token: int | None) -> None:
    body = running.client.body(a_case(decoding_mode=mode))
    bad = running.reference.config.vocab_size if token is None else token
    reply = running.client.post({**body, "input_ids": [*body["input_ids"], bad]})
    assert str(bad) in message_of(reply)


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
    running: Running, mode: str, parameters: dict[str, Any], named: list[str]
) -> None:
    body = running.client.body(a_case(decoding_mode=mode), **parameters)
    reply = running.client.post(body)
    assert not [text for text in named if text not in message_of(reply)], message_of(reply)


@pytest.mark.parametrize(
    "odd",
    [{"top_logprobs_num": 10**6}, {"token_ids_logprob": [10**6]}, {"token_ids_logprob": [-5000]}],
    ids=str,
)
def test_logprobs_nobody_has(running: Running, odd: dict[str, Any]) -> None:
    reply = running.client.post({**running.client.body(a_case()), "return_logprob": True, **odd})
    assert next(iter(odd)) in message_of(reply)
