"""Streaming, stop strings, several choices, seeds and the chat, in every mode."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace

import pytest

from tests.common.borders import across_a_border
from tests.common.cases import MODES, Case, prompt
from tests.sglang.servers import Running

pytestmark = [
    pytest.mark.engine,
    pytest.mark.parametrize("running", ["trained"], indirect=True, scope="session"),
]
SLOW = {"decoding_mode": "diffusion", "commit_rule": "fixed", "tokens_per_step": 1}


def a_case(running: Running, mode: str, seed: int = 0, **more: object) -> Case:
    tokens = prompt(random.Random(seed), 24, running.reference.config.vocab_size)
    return replace(Case(tokens, 70, {"decoding_mode": mode}, ignore_eos=True), **more)


@pytest.mark.parametrize("mode", MODES)
def test_streamed_pieces_make_the_answer(running: Running, mode: str) -> None:
    """Alone, and as a slow block beside an AR request, which waits for its block through steps without a token."""
    case = a_case(running, mode)
    if mode == "diffusion":
        case = replace(case, options=SLOW)
    whole = running.client.complete(case, {"skip_special_tokens": False})
    assert whole.token_ids == running.reference.generate(case).token_ids
    with running.client.in_background([a_case(running, "ar", seed=5)]):
        events = list(running.client.events(case, {"skip_special_tokens": False}))
    counts = [event["meta_info"]["completion_tokens"] for event in events]
    assert counts == sorted(set(counts))
    assert counts[0] >= 1
    assert len(counts) >= 3
    for event, count in zip(events, counts, strict=True):
        assert event["output_ids"] == whole.token_ids[:count]
    assert all(later["text"].startswith(event["text"]) for event, later in itertools.pairwise(events))
    assert events[-1]["text"] == whole.text
    reasons = [event["meta_info"]["finish_reason"] for event in events]
    assert reasons == [None] * (len(events) - 1) + [{"type": "length", "length": case.max_tokens}]


@pytest.mark.parametrize("mode", MODES)
def test_openai_stream(running: Running, mode: str) -> None:
    case = a_case(running, mode)
    client = running.client.openai.completions
    whole = client.create(**running.client.completions(case)).choices[0]
    assert (whole.model_extra or {})["token_ids"] == running.reference.generate(case).token_ids
    arguments = running.client.completions(case, stream=True, stream_options={"include_usage": True})
    with running.client.in_background([a_case(running, "ar", seed=5)]):
        events = list(client.create(**arguments))
    pieces = [event.choices[0] for event in events if event.choices]
    assert "".join(piece.text for piece in pieces) == whole.text
    assert len(pieces) >= 3
    ids = [token for piece in pieces for token in (piece.model_extra or {}).get("token_ids") or []]
    assert ids == running.reference.generate(case).token_ids
    assert [piece.finish_reason for piece in pieces] == [None] * (len(pieces) - 1) + ["length"]
    assert events[-1].usage.completion_tokens == case.max_tokens


@pytest.mark.parametrize("mode", MODES)
def test_stop_string_across_a_border(running: Running, mode: str) -> None:
    case, expected, stop = across_a_border(running.reference, mode, running.detokenize)
    shown = {"stop": [stop], "skip_special_tokens": False}
    answer = running.client.complete(case, shown)
    assert (answer.text, answer.finish_reason) == (expected, "stop")
    assert answer.meta["finish_reason"]["matched"] == stop
    kept = running.client.complete(case, {**shown, "no_stop_trim": True})
    assert kept.text.startswith(expected + stop)
    pieces = running.client.openai.completions.create(
        **running.client.completions(case, stop=[stop], stream=True)
    )
    choices = [event.choices[0] for event in pieces]
    assert "".join(choice.text for choice in choices) == expected
    assert choices[-1].finish_reason == "stop"


@pytest.mark.parametrize("mode", MODES)
def test_several_choices(running: Running, mode: str) -> None:
    """Greedy choices are all the reference's answer; sampled ones differ, as each has noise of its own."""
    case = a_case(running, mode, max_tokens=40)
    greedy = running.client.choices(case, {"n": 2})
    assert [answer.token_ids for answer in greedy] == [running.reference.generate(case).token_ids] * 2
    sampled = running.client.choices(case, {"n": 2, "temperature": 1.0})
    assert [len(answer.token_ids) for answer in sampled] == [40, 40]
    assert sampled[0].token_ids != sampled[1].token_ids


@pytest.mark.parametrize("mode", MODES)
def test_sampling_with_a_seed_is_reproducible(running: Running, mode: str) -> None:
    """Alone, again, and among 15 others: the same seed gives the same tokens, another seed others."""
    case = a_case(running, mode, max_tokens=45)
    sampled = {"temperature": 0.8, "sampling_seed": 11}
    first = running.client.complete(case, sampled).token_ids
    assert running.client.complete(case, sampled).token_ids == first
    others = [a_case(running, MODES[number % 3], seed=number + 9, max_tokens=50) for number in range(15)]
    with running.client.in_background(others):
        assert running.client.complete(case, sampled).token_ids == first
    assert running.client.complete(case, {"temperature": 0.8, "sampling_seed": 12}).token_ids != first
    assert first != running.reference.generate(case).token_ids
    assert first == running.reference.generate(case, temperature=0.8, seed=11).token_ids


def test_chat(running: Running) -> None:
    """The chat template ends every prompt as the published one does, and each mode answers the same question."""
    messages = [{"role": "user", "content": "What is 34 + 57? Show the steps."}]
    body = {"model": running.client.model, "messages": messages}
    prompt_ids = running.client.post(body, path="/tokenize").json()["tokens"]
    text = running.detokenize(prompt_ids)
    assert text.startswith("<|im_start|>system\n<|im_end|>\n<|im_start|>user\nWhat is 34")
    assert text.endswith("<|im_start|>assistant\n<think></think>")
    for mode in MODES:
        reply = running.client.openai.chat.completions.create(
            **body,
            max_tokens=100,
            temperature=0,
            extra_body={"custom_params": {"decoding_mode": mode}},
        )
        expected = running.reference.generate(Case(prompt_ids, 100, {"decoding_mode": mode}))
        [choice] = reply.choices
        assert reply.usage.completion_tokens == len(expected.token_ids)
        assert choice.message.content == running.detokenize(expected.token_ids).removesuffix("<|im_end|>")
