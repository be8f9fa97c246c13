"""LangChain's `ChatOpenAI` in its usual uses, without decoding options: `python langchain_chat.py URL MODEL`."""

from __future__ import annotations

import sys
from typing import Annotated, Any

from langchain_core.messages import AIMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel, Field

QUESTION = "What is 34 + 57? Show the steps."


class Weather(BaseModel):
    """The weather of the next days."""

    city: Annotated[str, Field(pattern="^[a-z]{2,8}$")]
    days: Annotated[int, Field(ge=0, le=99)]


@tool
def get_weather(city: str) -> str:
    """The weather of the next days."""
    return f"sunny in {city}"


def chat(model: ChatOpenAI) -> None:
    answer = model.invoke(QUESTION)
    assert answer.content.startswith("Ones:"), answer
    assert "".join(piece.content for piece in model.stream(QUESTION)) == answer.content
    assert [one.content for one in model.batch([QUESTION] * 2)] == [answer.content] * 2


def tools(model: ChatOpenAI) -> None:
    """The model decides whether to call; the small one answers."""
    bound = model.bind_tools([get_weather])
    assert bound.invoke(QUESTION).content
    call: Any = {"name": "get_weather", "args": {"city": "rome"}, "id": "1"}
    turns = [("user", QUESTION), AIMessage("", tool_calls=[call]), ToolMessage("sunny", tool_call_id="1")]
    assert isinstance(bound.invoke(turns), AIMessage)


def structured(model: ChatOpenAI) -> None:
    """What asks for a form, which `diffusion` refuses."""
    assert isinstance(model.with_structured_output(Weather).invoke(QUESTION), Weather)
    by_call = model.with_structured_output(Weather, method="function_calling", strict=True)
    assert isinstance(by_call.invoke(QUESTION), Weather)


def main(url: str, name: str) -> None:
    fields: Any = {"model": name, "base_url": f"{url}/v1", "api_key": "none", "max_retries": 0}
    model = ChatOpenAI(**fields, temperature=0)
    for use in (chat, tools, structured):
        use(model)
    assert ChatOpenAI(**fields).invoke(QUESTION).response_metadata["finish_reason"]
    assert (
        ChatOpenAI(**fields, temperature=0, use_responses_api=True).invoke(QUESTION).text.startswith("Ones:")
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
