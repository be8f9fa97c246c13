"""Where a request ends: limits of tokens and context, stop tokens inside a draft, the mask id in a prompt."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from tests.common.borders import stop_in_mid_block
from tests.common.cases import BLOCK, MODES, Case, in_every_mode, prompt
from tests.vllm.client import Answer
from tests.vllm.servers import Running

pytestmark = [
    pytest.mark.engine,
    pytest.mark.parametrize("running", ["trained", "prefixes"], indirect=True, scope="session"),
]


def check(running: Running, cases: list[Case]) -> list[Answer]:
    """All at once; tokens, reasons and forwards are the reference's."""
    before = running.client.metrics()
    answers = running.client.complete_all(cases)
    after = running.client.settled()
    for case, answer in zip(cases, answers, strict=True):
        expected = running.reference.generate(case)
        assert answer.token_ids == expected.token_ids, case
        assert answer.finish_reason == expected.finish_reason, case
    for mode in MODES:
        counted = {kind: n - before.forwards(mode)[kind] for kind, n in after.forwards(mode).items()}
        assert counted == running.reference.totals(cases, mode), mode
    return answers


@pytest.mark.parametrize("mode", MODES)
def test_max_tokens_beside_a_multiple_of_the_block(running: Running, mode: str) -> None:
    tokens = prompt(random.Random(1), 30, running.reference.config.vocab_size)
    sizes = (1, 2, 31, 32, 33, 34, 64, 65)
    answers = check(running, [Case(tokens, n, {"decoding_mode": mode}, ignore_eos=True) for n in sizes])
    assert [len(answer.token_ids) for answer in answers] == list(sizes)


@pytest.mark.parametrize("mode", MODES)
def test_blocks_that_would_cross_max_model_len(running: Running, mode: str) -> None:
    """From prompts that leave room for a block and a bit down to one that leaves room for one token."""
    rng, limit = random.Random(2), running.setup.max_model_len
    room = (1, 2, 3, 7, 31, 32, 33, 34, 50, 66)
    cases = [
        Case(prompt(rng, limit - n, running.reference.config.vocab_size), n, {"decoding_mode": mode}, True)
        for n in room
    ]
    answers = check(running, cases)
    assert [len(answer.token_ids) for answer in answers] == list(room)
    assert {answer.finish_reason for answer in answers} == {"length"}


def test_literal_mask_in_the_prompt(running: Running) -> None:
    """The mask id is an ordinary prompt token: at the end, at the start, all over, or given as text."""
    mask = running.reference.config.mask_token_id
    rng = random.Random(3)
    tokens = prompt(rng, 37, running.reference.config.vocab_size)
    prompts = [[*tokens, mask], [mask, *tokens], [mask] * 40, [mask]]
    cases = [case for ids in prompts for case in in_every_mode(Case(ids, 40, ignore_eos=True))]
    for answer in check(running, cases)[1::3]:
        assert mask not in answer.token_ids[1:BLOCK]  # a denoise step never commits it

    text = running.client.post({"model": running.client.model, "tokens": [mask]}, path="/detokenize").json()[
        "prompt"
    ]
    for case in in_every_mode(Case(tokens, 24, ignore_eos=True)):
        reply = running.client.post(running.client.body(case, prompt=f"a{text}b")).json()
        [choice] = reply["choices"]
        assert mask in choice["prompt_token_ids"]
        expected = running.reference.generate(replace(case, prompt=choice["prompt_token_ids"]))
        assert choice["token_ids"] == expected.token_ids


def drafted_by(running: Running, mode: str) -> str:
    """The mode whose blocks the stop token is put into; a random model accepts too few drafts to stop among them."""
    return "self_speculation" if mode != "diffusion" and running.name == "trained" else "diffusion"


@pytest.mark.parametrize("mode", MODES)
def test_stop_token_inside_a_block(running: Running, mode: str) -> None:
    """The answer ends with the stop token, though the engine holds more tokens of the block."""
    drafted = drafted_by(running, mode)
    case = replace(stop_in_mid_block(running.reference, drafted), options={"decoding_mode": mode})
    expected = running.reference.generate(case)
    [answer] = check(running, [case])
    if mode == drafted:
        assert expected.finish_reason == "stop"
        assert answer.token_ids[-1] == case.stop_token_ids[0]
    assert answer.token_ids.count(case.stop_token_ids[0]) <= 1


@pytest.mark.parametrize("mode", MODES)
def test_min_tokens(running: Running, mode: str) -> None:
    """A stop token is no choice before `min_tokens`, wherever it lies in a block."""
    plain = stop_in_mid_block(
        running.reference,
        "diffusion" if mode == "diffusion" or running.name == "prefixes" else "self_speculation",
    )
    case = replace(plain, options={"decoding_mode": mode}, min_tokens=45)
    answer = running.client.complete(case)
    assert 45 <= len(answer.token_ids) <= case.max_tokens
    assert case.stop_token_ids[0] not in answer.token_ids[:44]
    if mode != "diffusion":
        ar = replace(case, options={"decoding_mode": "ar"})
        assert answer.token_ids == running.client.complete(ar).token_ids
    assert answer.token_ids == running.client.complete_all([case] * 3)[2].token_ids
