"""LiteLLM in its usual uses, without decoding options: `python litellm_calls.py URL MODEL`."""

from __future__ import annotations

import sys
from typing import Any

import litellm

MESSAGES = [{"role": "user", "content": "What is 34 + 57? Show the steps."}]
PROVIDERS = ("hosted_vllm", "openai")


def main(url: str, model: str) -> None:
    for provider in PROVIDERS:
        fields: Any = {
            "model": f"{provider}/{model}",
            "api_base": f"{url}/v1",
            "api_key": "none",
            "num_retries": 0,
        }
        assert litellm.completion(**fields, messages=MESSAGES).choices[0].finish_reason
        fields["temperature"] = 0
        whole = litellm.completion(**fields, messages=MESSAGES).choices[0].message.content
        assert whole.startswith("Ones:"), whole
        stream = litellm.completion(**fields, messages=MESSAGES, stream=True)
        assert "".join(event.choices[0].delta.content or "" for event in stream) == whole
        parameters = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
        tool = {"type": "function", "function": {"name": "get_weather", "parameters": parameters}}
        answer = litellm.completion(**fields, messages=MESSAGES, tools=[tool], tool_choice="auto")
        assert answer.choices[0].message.content, answer
    answer = litellm.text_completion(
        **{**fields, "model": f"text-completion-openai/{model}"}, prompt="So 3 + 4"
    )
    assert answer.choices[0].text, answer


if __name__ == "__main__":
    main(*sys.argv[1:])
