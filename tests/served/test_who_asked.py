"""Only what a client asked for is refused, and in the client's own words; what a server has by default is not."""

from __future__ import annotations

from typing import Any

import pytest

from tests.common.checkpoints import SAMPLING_DEFAULTS
from tests.served.endpoint import CHAT, COMPLETIONS
from tests.served.running import Running
from tests.served.setups import VLLM, on
from tests.served.test_bad_input import message_of

pytestmark = [pytest.mark.engine, on("auto" if VLLM else "thinking")]

DIFFUSION = {"decoding_mode": "diffusion"}
ASKED = {"messages": [{"role": "user", "content": "What is 3 + 4?"}], "max_tokens": 24}
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
FUNCTION = {"name": "get_weather", "description": "The weather", "parameters": PARAMETERS}
TOOL = {"type": "function", "function": FUNCTION}
STRICT = {"type": "function", "function": {**FUNCTION, "strict": True}}
NEUTRAL = {"top_p": 1.0, "top_k": -1}


@pytest.mark.parametrize("temperature", [{}, {"temperature": 0}, {"temperature": 0.7}], ids=str)
def test_defaults_of_a_server_do_not_reach_diffusion(running: Running, temperature: dict[str, Any]) -> None:
    fields = {**ASKED, **temperature, "seed": 5}
    [plain] = running.endpoint.choices(CHAT, DIFFUSION, **fields)
    [neutral] = running.endpoint.choices(CHAT, DIFFUSION, **fields, **NEUTRAL)
    assert plain["message"] == neutral["message"]


def test_defaults_of_a_server_reach_the_other_modes(running: Running) -> None:
    """Or the test above would show nothing."""
    for mode in ("ar", "self_speculation"):

        def answers(mode: str = mode, **given: Any) -> list[str]:
            fields = {**ASKED, "temperature": 1.9, **given}
            chosen = [
                running.endpoint.choices(CHAT, {"decoding_mode": mode}, seed=n, **fields) for n in range(4)
            ]
            return [choice["message"]["content"] for [choice] in chosen]

        assert answers() == answers(**SAMPLING_DEFAULTS) != answers(**NEUTRAL)


@pytest.mark.parametrize("name", SAMPLING_DEFAULTS)
@pytest.mark.parametrize("stream", [False, True])
def test_what_a_client_asks_for_is_refused(running: Running, name: str, stream: bool) -> None:
    """Also where it asks for the very value that the server has by default."""
    fields = {**ASKED, "temperature": 0.7, "stream": stream, name: SAMPLING_DEFAULTS[name]}
    assert f"'{name}': got {SAMPLING_DEFAULTS[name]}" in message_of(
        running.endpoint.post(CHAT, DIFFUSION, **fields)
    )


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
def test_what_has_no_effect_on_a_greedy_answer_passes(running: Running, path: str) -> None:
    asked = {"prompt": "Who?", "max_tokens": 8} if path == COMPLETIONS else ASKED
    fields = {**asked, "temperature": 0, "top_p": 0.9, "top_k": 50, "min_p": 0.1}
    assert running.endpoint.post(path, DIFFUSION, **fields).status_code == 200
    penalty = running.endpoint.post(path, DIFFUSION, **fields, presence_penalty=0.5)
    assert "'presence_penalty': got 0.5" in message_of(penalty)


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"tools": [TOOL, STRICT]}, "'tools[].strict': got True, expected False"),
    ({"tools": [STRICT], "tool_choice": "auto"}, "'tools[].strict': got True, expected False"),
    ({"tools": [TOOL], "tool_choice": "required"}, "'tool_choice': got 'required', expected 'auto'"),
    (
        {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "get_weather"}}},
        "'tool_choice': got one tool, expected 'auto'",
    ),
    (
        {"response_format": {"type": "json_object"}},
        "'response_format.type': got 'json_object', expected 'text'",
    ),
]


@pytest.mark.parametrize(("fields", "said"), REFUSED, ids=[str(fields)[:60] for fields, _ in REFUSED])
def test_constraints_are_refused_in_the_words_of_the_request(
    running: Running, fields: dict[str, Any], said: str
) -> None:
    message = message_of(running.endpoint.post(CHAT, DIFFUSION, **ASKED, **fields))
    assert said in message
    assert "'ar' or 'self_speculation'" in message


PASSED: list[dict[str, Any]] = [
    {"tools": [TOOL]},
    {"tools": [TOOL], "tool_choice": "auto", "parallel_tool_calls": False},
    {"tools": [STRICT], "tool_choice": "none"},
    {"response_format": {"type": "text"}},
]


@pytest.mark.parametrize("fields", PASSED, ids=[str(fields)[:60] for fields in PASSED])
def test_what_asks_for_no_constraint_passes(running: Running, fields: dict[str, Any]) -> None:
    assert running.endpoint.post(CHAT, DIFFUSION, **ASKED, **fields).status_code == 200
