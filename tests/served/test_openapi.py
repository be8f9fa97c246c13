"""Bodies drawn from the server's own OpenAPI schema, with our options in it, never make our code raise."""

from __future__ import annotations

import json
from collections import Counter
from copy import deepcopy
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from nemotron_diffusion_plugin.options import CommitRule, DecodingMode
from tests.served.endpoint import CHAT, COMPLETIONS, VLLM
from tests.served.running import Running
from tests.served.setups import SGLANG, on
from tests.served.test_fuzz import EXAMPLES, bounded

pytestmark = [pytest.mark.engine, on("trained")]

MOST_TOKENS = 12
LENGTHS = ("max_tokens", "max_completion_tokens", "max_output_tokens", "n", "best_of")
MOST_FIELDS = 4
OPTIONS = {
    "type": "object",
    "properties": {
        "decoding_mode": {"enum": [mode.value for mode in DecodingMode]},
        "block_size": {"type": "integer", "minimum": 1, "maximum": 32},
        "draft_lora": {"type": "boolean"},
        "threshold": {"type": "number", "exclusiveMinimum": 0, "maximum": 1},
        "denoising_steps": {"type": "integer", "minimum": 1},
        "commit_rule": {"enum": [rule.value for rule in CommitRule]},
        "tokens_per_step": {"type": "integer", "minimum": 1},
        "return_counts": {"type": "boolean"},
    },
    "additionalProperties": False,
}
TEXT = {"type": "string", "minLength": 1, "maxLength": 20}
LENGTH = {"type": "integer", "minimum": 1, "maximum": MOST_TOKENS}
MESSAGES = {
    "type": "array",
    "minItems": 1,
    "maxItems": 2,
    "items": {
        "type": "object",
        "properties": {"role": {"enum": ["user", "assistant"]}, "content": TEXT},
        "required": ["role", "content"],
        "additionalProperties": False,
    },
}
ASKED: dict[str, dict[str, Any]] = {
    COMPLETIONS: {"prompt": TEXT, "max_tokens": LENGTH},
    CHAT: {"messages": MESSAGES, "max_tokens": LENGTH},
    "/v1/responses": {"input": TEXT, "max_output_tokens": LENGTH},
    "/v1/messages": {"messages": MESSAGES, "max_tokens": LENGTH},
    "/generate": {
        "text": TEXT,
        "sampling_params": {
            "type": "object",
            "properties": {
                "max_new_tokens": LENGTH,
                "temperature": {"type": "number", "minimum": 0, "maximum": 2},
                "custom_params": OPTIONS,
            },
            "required": ["max_new_tokens", "custom_params"],
            "additionalProperties": False,
        },
    },
}
"""What a request must hold to be answered, by path."""
PATHS = [path for path in ASKED if SGLANG or path != "/generate"]


def body_schema(api: dict[str, Any], path: str) -> dict[str, Any]:
    """The schema of a path's body, in place."""
    schema: dict[str, Any] = api["paths"][path]["post"]["requestBody"]["content"]["application/json"][
        "schema"
    ]
    while "$ref" in schema:
        schema = api["components"]["schemas"][schema["$ref"].rsplit("/", 1)[1]]
    return schema


def answerable(api: dict[str, Any], path: str, model: str, options_field: str) -> tuple[Any, list[str]]:
    """The API with a path whose bodies can be answered, and the names of the fields that each of them has."""
    api = deepcopy(api)
    schema = body_schema(api, path)
    fields = {**ASKED[path], "model": {"const": model}}
    takes_options = options_field in schema["properties"] or (options_field == VLLM and path != "/generate")
    if takes_options:
        fields[options_field] = OPTIONS
    schema["properties"] |= fields
    schema["required"] = list(fields)
    return api, list(fields)


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("shape", ["answerable", pytest.param("published", marks=pytest.mark.long)])
def test_bodies_of_the_published_schema(running: Running, path: str, shape: str) -> None:
    """Shape "published" is all that the schema allows, nearly all refused; "answerable" gets behind the checks."""
    endpoint, http = running.endpoint, running.client.http
    api = http.get("/openapi.json").json()
    always: list[str] = ["model"]
    if shape == "answerable":
        api, always = answerable(api, path, endpoint.model, endpoint.options_field)
    others = sorted(set(body_schema(api, path)["properties"]) - set(always))
    operation = schemathesis.openapi.from_dict(api)[path]["POST"]
    statuses: Counter[int] = Counter()

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(operation.as_strategy(), st.sets(st.sampled_from(others), max_size=MOST_FIELDS))
    def send(case: Any, kept: set[str]) -> None:
        body = case.body
        if shape == "answerable" and isinstance(body, dict):
            body = {name: value for name, value in body.items() if name in always or name in kept}
        if isinstance(body, dict):
            body = bounded({**body, "model": endpoint.model}, LENGTHS, MOST_TOKENS)
        content = json.dumps(body, default=str)
        logged = running.server.log.stat().st_size
        try:
            reply = http.post(path, content=content, headers={"Content-Type": "application/json"})
            status, said = reply.status_code, reply.text[-1500:]
        except httpx.RemoteProtocolError as error:  # a stream that the server broke off
            status, said = 500, str(error)
        statuses[status] += 1
        assert status < 500 or running.is_of_the_engine(logged), (content, said)
        assert running.server.healthy(), content

    send()
    print(f"{running.name}, {path}, {shape}: {dict(statuses)}")
    if shape == "answerable":
        assert statuses[200] > EXAMPLES / 4
    assert running.idle(), running.server.log_tail()
