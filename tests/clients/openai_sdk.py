"""The OpenAI SDK in its usual uses, without decoding options: `python openai_sdk.py URL MODEL`."""

from __future__ import annotations

import sys
from typing import Annotated, Any

from openai import OpenAI, pydantic_function_tool
from pydantic import BaseModel, Field

QUESTION = "What is 34 + 57? Show the steps."
MESSAGES: list[Any] = [{"role": "user", "content": QUESTION}]


class Weather(BaseModel):
    """The weather of the next days."""

    city: Annotated[str, Field(pattern="^[a-z]{2,8}$")]
    days: Annotated[int, Field(ge=0, le=99)]


TOOL: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of the next days.",
        "parameters": Weather.model_json_schema(),
    },
}


def chat(client: OpenAI, model: str) -> None:
    answer = client.chat.completions.create(model=model, messages=MESSAGES)
    assert answer.choices[0].message.content, answer
    assert answer.usage is not None
    greedy: Any = {"model": model, "messages": MESSAGES, "temperature": 0, "top_p": 1, "n": 1}
    whole = client.chat.completions.create(**greedy).choices[0].message.content
    stream = client.chat.completions.create(**greedy, stream=True, stream_options={"include_usage": True})
    events = list(stream)
    assert "".join(event.choices[0].delta.content or "" for event in events if event.choices) == whole
    assert events[-1].usage is not None
    with client.chat.completions.stream(**greedy) as helper:
        assert helper.get_final_completion().choices[0].message.content == whole


def completions(client: OpenAI, model: str) -> None:
    answer = client.completions.create(model=model, prompt="So 3 + 4")
    assert answer.choices[0].text, answer
    greedy: Any = {"model": model, "prompt": "So 3 + 4", "temperature": 0, "max_tokens": 20}
    whole = client.completions.create(**greedy).choices[0].text
    assert (
        "".join(event.choices[0].text for event in client.completions.create(**greedy, stream=True)) == whole
    )


def responses(client: OpenAI, model: str) -> None:
    answer = client.responses.create(model=model, input=QUESTION, max_output_tokens=40)
    assert answer.output_text, answer
    events = list(client.responses.create(model=model, input=QUESTION, max_output_tokens=40, stream=True))
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert events[-1].type in ("response.completed", "response.incomplete"), events[-1]
    tool: Any = {"type": "function", "strict": False, **TOOL["function"]}
    answer = client.responses.create(model=model, input=QUESTION, max_output_tokens=40, tools=[tool])
    assert answer.output, answer


def tools(client: OpenAI, model: str) -> None:
    """With `tool_choice` left out the model decides; the small one answers."""
    fields: Any = {"model": model, "messages": MESSAGES, "tools": [TOOL], "max_tokens": 40}
    answer = client.chat.completions.create(**fields)
    assert answer.choices[0].message.content, answer
    pieces = [
        event.choices[0].delta.content for event in client.chat.completions.create(**fields, stream=True)
    ]
    assert "".join(piece or "" for piece in pieces)
    one = client.chat.completions.create(**fields, tool_choice="auto", parallel_tool_calls=False)
    assert one.choices[0].message.content, one
    call = {"name": "get_weather", "arguments": '{"city": "rome", "days": 2}'}
    called = {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "1", "type": "function", "function": call}],
    }
    result = {"role": "tool", "tool_call_id": "1", "content": "sunny"}
    fields["messages"] = [*MESSAGES, called, result]
    assert client.chat.completions.create(**fields).choices


def parse(client: OpenAI, model: str) -> None:
    """What asks for a form, which `diffusion` refuses."""
    fields: Any = {"model": model, "messages": MESSAGES}
    message = client.chat.completions.parse(**fields, response_format=Weather).choices[0].message
    assert isinstance(message.parsed, Weather), message
    tools: Any = [pydantic_function_tool(Weather, name="get_weather")]
    message = client.chat.completions.parse(**fields, tools=tools, tool_choice="required").choices[0].message
    assert isinstance(message.tool_calls[0].function.parsed_arguments, Weather), message
    assert client.chat.completions.parse(**fields, tools=tools).choices[0].finish_reason
    with client.chat.completions.stream(**fields, response_format=Weather) as stream:
        assert isinstance(stream.get_final_completion().choices[0].message.parsed, Weather)
    answer = client.responses.parse(model=model, input=QUESTION, text_format=Weather)
    assert isinstance(answer.output_parsed, Weather), answer
    with client.responses.stream(model=model, input=QUESTION, text_format=Weather) as stream:
        assert isinstance(stream.get_final_response().output_parsed, Weather)


def main(url: str, model: str) -> None:
    client = OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
    assert model in [one.id for one in client.models.list()]
    for use in (chat, completions, responses, tools, parse):
        use(client, model)


if __name__ == "__main__":
    main(*sys.argv[1:])
