"""Other interfaces than chat, which take our options on vLLM, refuse in the client's words too."""

from __future__ import annotations

import pytest

from tests.served.running import Running
from tests.served.setups import on
from tests.served.test_bad_input import message_of
from tests.served.test_who_asked import ASKED, DIFFUSION, FUNCTION, PARAMETERS

pytestmark = [pytest.mark.engine, on("auto")]


def test_tools_of_other_interfaces(running: Running) -> None:
    """Responses have flat tools, and Anthropic's clients a switch of their own for parallel calls."""
    flat = {"type": "function", **FUNCTION}
    responses = {"input": "Weather in Rome?", "max_output_tokens": 8}
    strict = running.endpoint.post("/v1/responses", DIFFUSION, **responses, tools=[{**flat, "strict": True}])
    assert "'tools[].strict': got True" in message_of(strict)
    free = running.endpoint.post("/v1/responses", DIFFUSION, **responses, tools=[flat])
    assert free.status_code == 200, free.text
    own = {"name": "get_weather", "description": "The weather", "input_schema": PARAMETERS}
    one_call = {"type": "auto", "disable_parallel_tool_use": True}
    messages = running.endpoint.post("/v1/messages", DIFFUSION, **ASKED, tools=[own], tool_choice=one_call)
    assert messages.status_code == 200, messages.text
