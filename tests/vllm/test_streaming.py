"""Streaming, stop strings and several choices, in every mode."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from tests.common.borders import across_a_border
from tests.common.cases import MODES, Case, prompt
from tests.vllm.servers import Running

pytestmark = [
    pytest.mark.engine,
    pytest.mark.parametrize("running", ["trained"], indirect=True, scope="session"),
]


def a_case(running: Running, mode: str, seed: int = 0, **more: object) -> Case:
    tokens = prompt(random.Random(seed), 24, running.reference.config.vocab_size)
    return replace(Case(tokens, 70, {"decoding_mode": mode}, ignore_eos=True), **more)


@pytest.mark.parametrize("mode", MODES)
def test_streamed_pieces_make_the_answer(running: Running, mode: str) -> None:
    case = a_case(running, mode)
    whole = running.client.complete(case)
    events = list(running.client.stream(case, stream_options={"include_usage": True}))
    pieces = [event.choices[0] for event in events if event.choices]
    ids = [token for piece in pieces for token in piece.model_extra["token_ids"] or []]
    assert ids == whole.token_ids == running.reference.generate(case).token_ids
    assert "".join(piece.text for piece in pieces) == whole.text
    assert len(pieces) >= 3
    assert [piece.finish_reason for piece in pieces] == [None] * (len(pieces) - 1) + ["length"]
    assert events[-1].usage.completion_tokens == case.max_tokens


@pytest.mark.parametrize("mode", MODES)
def test_stop_string_across_a_border(running: Running, mode: str) -> None:
    case, expected, stop = across_a_border(running.reference, mode, running.detokenize)
    shown = {"stop": [stop], "skip_special_tokens": False}
    answer = running.client.complete(case, **shown)
    assert (answer.text, answer.finish_reason) == (expected, "stop")
    assert answer.choice["stop_reason"] == stop
    kept = running.client.complete(case, **shown, include_stop_str_in_output=True)
    assert kept.text == expected + stop
    pieces = [event.choices[0] for event in running.client.stream(case, **shown)]
    assert "".join(piece.text for piece in pieces) == expected
    assert pieces[-1].finish_reason == "stop"


@pytest.mark.parametrize("mode", MODES)
def test_several_choices(running: Running, mode: str) -> None:
    """Greedy decoding has one choice only, says vLLM; sampled ones are those of consecutive seeds."""
    case = a_case(running, mode, max_tokens=40)
    choices = running.client.choices(case, n=3, temperature=1.0, seed=7)
    alone = [running.client.complete(case, temperature=1.0, seed=7 + number) for number in range(3)]
    assert [choice.token_ids for choice in choices] == [answer.token_ids for answer in alone]
    assert len({tuple(choice.token_ids) for choice in choices}) == 3


@pytest.mark.parametrize("mode", MODES)
def test_sampling_with_a_seed_is_reproducible(running: Running, mode: str) -> None:
    """Alone, again, and among others: the same seed gives the same tokens, another seed others."""
    case = a_case(running, mode, max_tokens=45)
    sampled = {"temperature": 0.8, "seed": 11}
    first = running.client.complete(case, **sampled).token_ids
    assert running.client.complete(case, **sampled).token_ids == first
    others = [a_case(running, other, seed=9, max_tokens=50) for other in MODES]
    with running.client.in_background(others):
        assert running.client.complete(case, **sampled).token_ids == first
    assert running.client.complete(case, temperature=0.8, seed=12).token_ids != first
    assert first != running.reference.generate(case).token_ids


def test_chat(running: Running) -> None:
    """The chat template ends every prompt as the published one does, and each mode answers the same question."""
    texts = {}
    for mode in MODES:
        reply = running.client.openai.chat.completions.create(
            model=running.client.model,
            messages=[{"role": "user", "content": "What is 34 + 57? Show the steps."}],
            max_tokens=100,
            temperature=0,
            extra_body={"vllm_xargs": {"decoding_mode": mode}, "return_token_ids": True},
        )
        extra = reply.model_extra or {}
        prompt_ids = extra["prompt_token_ids"]
        text = running.detokenize(prompt_ids)
        assert text.startswith("<|im_start|>system\n<|im_end|>\n<|im_start|>user\nWhat is 34")
        assert text.endswith("<|im_start|>assistant\n<think></think>")
        expected = running.reference.generate(Case(prompt_ids, 100, {"decoding_mode": mode}))
        assert (reply.choices[0].model_extra or {})["token_ids"] == expected.token_ids
        texts[mode] = reply.choices[0].message.content
    assert texts["ar"] == texts["self_speculation"]
