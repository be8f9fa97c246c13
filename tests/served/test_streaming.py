"""Streaming, stop strings, several choices, seeds and the chat, in every mode."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest

from tests.common.cases import MODES, Case, prompt
from tests.served.borders import across_a_border
from tests.served.endpoint import CHAT
from tests.served.running import Running
from tests.served.setups import SGLANG, VLLM, on

pytestmark = [pytest.mark.engine, on("trained")]
every_mode = pytest.mark.parametrize("mode", MODES)


def a_case(running: Running, mode: str, seed: int = 0, **more: Any) -> Case:
    tokens = prompt(random.Random(seed), 24, running.reference.config.vocab_size)
    return replace(Case(tokens, 70, {"decoding_mode": mode}, ignore_eos=True), **more)


@every_mode
def test_streamed_pieces_make_the_answer(running: Running, mode: str) -> None:
    """Beside an AR request, so that a block waits through steps without a token."""
    case = a_case(running, mode)
    whole = running.client.complete(case, skip_special_tokens=False)
    with running.client.in_background([a_case(running, "ar", seed=5)]):
        events = list(
            running.client.stream(case, stream_options={"include_usage": True}, skip_special_tokens=False)
        )
    pieces = [event.choices[0] for event in events if event.choices]
    ids = [token for piece in pieces for token in piece.model_extra.get("token_ids") or []]
    assert ids == whole.token_ids == running.reference.generate(case).token_ids
    assert "".join(piece.text for piece in pieces) == whole.text
    assert len(pieces) >= 3
    assert [piece.finish_reason for piece in pieces] == [None] * (len(pieces) - 1) + ["length"]
    assert events[-1].usage.completion_tokens == case.max_tokens


@every_mode
def test_stop_string_across_a_border(running: Running, mode: str) -> None:
    case, expected, stop = across_a_border(running.reference, mode, running.detokenize)
    shown: dict[str, Any] = {"stop": [stop], "skip_special_tokens": False}
    answer = running.client.complete(case, **shown)
    assert (answer.text, answer.finish_reason) == (expected, "stop")
    assert (answer.raw["stop_reason"] if VLLM else answer.raw["finish_reason"]["matched"]) == stop
    kept = running.client.complete(case, **shown, include_stop_str_in_output=True)
    assert kept.text.startswith(expected + stop) if SGLANG else kept.text == expected + stop
    pieces = [event.choices[0] for event in running.client.stream(case, **shown)]
    assert "".join(piece.text for piece in pieces) == expected
    assert pieces[-1].finish_reason == "stop"


@every_mode
def test_several_choices(running: Running, mode: str) -> None:
    """vLLM has no greedy ones, and sampled ones are those of consecutive seeds; SGLang takes no seed with them."""
    case = a_case(running, mode, max_tokens=40)
    if VLLM:
        sampled = running.client.choices(case, n=3, temperature=1.0, seed=7)
        alone = [running.client.complete(case, temperature=1.0, seed=7 + number) for number in range(3)]
        assert [answer.token_ids for answer in sampled] == [answer.token_ids for answer in alone]
    else:
        greedy = running.client.choices(case, n=2)
        assert [answer.token_ids for answer in greedy] == [running.reference.generate(case).token_ids] * 2
        sampled = running.client.choices(case, n=3, temperature=1.0)
        assert [len(answer.token_ids) for answer in sampled] == [40] * 3
    assert len({tuple(answer.token_ids) for answer in sampled}) == 3


@every_mode
def test_sampling_with_a_seed_is_reproducible(running: Running, mode: str) -> None:
    """Alone, again, and among others: the same seed gives the same tokens, another seed others."""
    case = a_case(running, mode, max_tokens=45)
    sampled = {"temperature": 0.8, "seed": 11}
    first = running.client.complete(case, **sampled).token_ids
    assert running.client.complete(case, **sampled).token_ids == first
    others = [a_case(running, MODES[number % 3], seed=number + 9, max_tokens=50) for number in range(15)]
    with running.client.in_background(others):
        assert running.client.complete(case, **sampled).token_ids == first
    assert running.client.complete(case, **{**sampled, "seed": 12}).token_ids != first
    assert first != running.reference.generate(case).token_ids
    assert VLLM or first == running.reference.generate(case, temperature=0.8, seed=11).token_ids


def test_chat(running: Running) -> None:
    """The chat template ends every prompt as the published one does, and each mode answers the same question."""
    messages = [{"role": "user", "content": "What is 34 + 57? Show the steps."}]
    body = {"model": running.client.model, "messages": messages}
    prompt_ids = running.client.post(body, path="/tokenize").json()["tokens"]
    text = running.detokenize(prompt_ids)
    assert text.startswith("<|im_start|>system\n<|im_end|>\n<|im_start|>user\nWhat is 34")
    assert text.endswith("<|im_start|>assistant\n<think></think>")
    for mode in MODES:
        options = {"decoding_mode": mode}
        fields = {"messages": messages, "max_tokens": 100, "temperature": 0}
        reply = running.endpoint.post(CHAT, options, **fields).json()
        expected = running.reference.generate(Case(prompt_ids, 100, options))
        [choice] = reply["choices"]
        assert reply["usage"]["prompt_tokens"] == len(prompt_ids)
        assert reply["usage"]["completion_tokens"] == len(expected.token_ids)
        assert choice["message"]["content"] == running.detokenize(expected.token_ids).removesuffix(
            "<|im_end|>"
        )
