"""What a stream says of itself adds up, though its pieces hold many tokens: usage, log-probabilities, token counts."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from tests.common.cases import MODES, Case, prompt
from tests.served.endpoint import CHAT, COMPLETIONS
from tests.served.running import Running
from tests.served.setups import VLLM, on

pytestmark = [pytest.mark.engine, on("trained")]

TOKENS = 70
USAGE = {"include_usage": True, "continuous_usage_stats": True}
QUESTION = {"messages": [{"role": "user", "content": "What is 34 + 57? Show the steps."}]}


def events(running: Running, path: str, mode: str, **fields: Any) -> list[dict[str, Any]]:
    options, found = {"decoding_mode": mode}, []
    body = running.endpoint.body(options, temperature=0, stream=True, stream_options=USAGE, **fields)
    with running.client.http.stream("POST", path, json=body) as reply:
        assert reply.status_code == 200
        for line in reply.iter_lines():
            if line.startswith("data: {"):
                found.append(json.loads(line.removeprefix("data: ")))
    return found


def a_prompt(running: Running) -> list[int]:
    return prompt(random.Random(4), 24, running.reference.config.vocab_size)


def text_of(event: dict[str, Any]) -> str:
    """The text of a piece, which in a chat may be a thought or nothing."""
    choices = event["choices"]
    return (choices[0].get("text") or (choices[0].get("delta") or {}).get("content") or "") if choices else ""


@pytest.mark.parametrize("path", [COMPLETIONS, CHAT])
@pytest.mark.parametrize("mode", MODES)
def test_usage_grows_to_the_whole(running: Running, path: str, mode: str) -> None:
    asked: dict[str, Any] = QUESTION if path == CHAT else {"prompt": a_prompt(running), "ignore_eos": True}
    [whole] = running.endpoint.choices(
        path, {"decoding_mode": mode}, max_tokens=TOKENS, temperature=0, **asked
    )
    seen = events(running, path, mode, max_tokens=TOKENS, **asked)
    assert "".join(map(text_of, seen)) == (
        whole["text"] if path == COMPLETIONS else whole["message"]["content"]
    )
    counts = [event["usage"]["completion_tokens"] for event in seen if event.get("usage")]
    assert counts == sorted(counts)
    assert counts[-1] == TOKENS if path == COMPLETIONS else 0 < counts[-1] <= TOKENS


@pytest.mark.parametrize("mode", MODES)
def test_every_token_is_counted_and_has_its_log_probability(running: Running, mode: str) -> None:
    case = Case(a_prompt(running), TOKENS, {"decoding_mode": mode}, ignore_eos=True)
    whole = running.client.complete(case, logprobs=2)
    seen = events(
        running, COMPLETIONS, mode, prompt=case.prompt, max_tokens=TOKENS, ignore_eos=True, logprobs=2
    )
    values: list[float] = []
    for event in seen:
        for choice in event["choices"]:
            values += (choice["logprobs"] or {"token_logprobs": []})["token_logprobs"]
        assert event["usage"]["completion_tokens"] == len(values)
    assert len(values) == TOKENS
    assert values == pytest.approx(whole.logprobs, abs=1e-4)


@pytest.mark.parametrize("interval", [1, 7, 1000])
@pytest.mark.parametrize("mode", MODES)
def test_an_interval_changes_the_pieces_only(running: Running, mode: str, interval: int) -> None:
    case = Case(a_prompt(running), TOKENS, {"decoding_mode": mode}, ignore_eos=True)
    body = {**running.client.body(case), "stream": True}
    if VLLM:
        body["stream_interval"] = interval
    else:
        body["sampling_params"]["stream_interval"] = interval
    with running.client.http.stream("POST", running.client.path, json=body) as reply:
        lines = [line.removeprefix("data: ") for line in reply.iter_lines() if line.startswith("data: {")]
    pieces = [json.loads(line) for line in lines]
    texts = [piece["choices"][0]["text"] if VLLM else piece["text"] for piece in pieces]
    assert ("".join(texts) if VLLM else texts[-1]) == running.client.complete(case).text
    assert len(pieces) <= 2 + TOKENS // interval
