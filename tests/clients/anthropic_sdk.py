"""The Anthropic SDK in its usual uses, without decoding options: `python anthropic_sdk.py URL MODEL`."""

from __future__ import annotations

import sys
from typing import Any, Literal

from anthropic import Anthropic
from pydantic import BaseModel

QUESTION = "What is 34 + 57? Show the steps."


class Weather(BaseModel):
    """The weather of the next days."""

    city: Literal["rome", "oslo"]


SCHEMA = {**Weather.model_json_schema(), "additionalProperties": False}
TOOL: Any = {"name": "get_weather", "description": "The weather of the next days.", "input_schema": SCHEMA}


def messages(client: Anthropic, fields: Any) -> None:
    answer = client.messages.create(**fields)
    assert answer.content[0].text.startswith("Ones:"), answer
    assert answer.stop_reason in ("end_turn", "max_tokens"), answer
    events = list(client.messages.create(**fields, stream=True))
    assert events[-1].type == "message_stop"
    with client.messages.stream(**fields) as stream:
        assert "".join(stream.text_stream) == answer.content[0].text
    assert client.messages.create(
        **{**fields, "extra_body": None}
    ).stop_reason  # sampled, as it is by default
    system = [{"type": "text", "text": "Add.", "cache_control": {"type": "ephemeral"}}]
    assert client.messages.create(**fields, system=system, metadata={"user_id": "1"}).content
    for thinking in ({"type": "disabled"}, {"type": "adaptive"}):
        assert client.messages.create(**fields, thinking=thinking, output_config={"effort": "low"}).content
    assert client.messages.count_tokens(model=fields["model"], messages=fields["messages"]).input_tokens > 5


def tools(client: Anthropic, fields: Any) -> None:
    """With `tool_choice` left out, or "auto", the model decides; the small one answers."""
    for choice in (
        None,
        {"type": "auto"},
        {"type": "auto", "disable_parallel_tool_use": True},
        {"type": "none"},
    ):
        chosen: Any = {} if choice is None else {"tool_choice": choice}
        assert client.messages.create(**fields, tools=[TOOL], **chosen).content[0].type == "text"
    with client.messages.stream(**fields, tools=[TOOL]) as stream:
        assert stream.get_final_message().content[0].type == "text"
    use = {"type": "tool_use", "id": "1", "name": "get_weather", "input": {"city": "rome"}}
    result = {"type": "tool_result", "tool_use_id": "1", "content": "sunny"}
    turns = [{"role": "assistant", "content": [use]}, {"role": "user", "content": [result]}]
    again = {**fields, "messages": [*fields["messages"], *turns]}
    assert client.messages.create(**again, tools=[TOOL]).stop_reason


def forced(client: Anthropic, fields: Any) -> None:
    """What asks for a form, which `diffusion` refuses."""
    for choice in ({"type": "any"}, {"type": "tool", "name": "get_weather"}):
        answer = client.messages.create(**fields, tools=[{**TOOL, "strict": True}], tool_choice=choice)
        assert [block.name for block in answer.content if block.type == "tool_use"] == ["get_weather"], answer
    assert isinstance(client.messages.parse(**fields, output_format=Weather).parsed_output, Weather)


def main(url: str, model: str) -> None:
    client = Anthropic(base_url=url, api_key="none", max_retries=0)
    fields: Any = {"model": model, "max_tokens": 120, "messages": [{"role": "user", "content": QUESTION}]}
    fields["extra_body"] = {"temperature": 0}
    for use in (messages, tools, forced):
        use(client, fields)


if __name__ == "__main__":
    main(*sys.argv[1:])
