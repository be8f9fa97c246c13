"""Where a request ends: limits of tokens and context, stop tokens inside a draft, the mask id in a prompt."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from tests.common.borders import stop_in_mid_block
from tests.common.cases import BLOCK, MODES, Case, in_every_mode, prompt
from tests.sglang.client import Answer
from tests.sglang.servers import Running

pytestmark = [
    pytest.mark.engine,
    pytest.mark.parametrize("running", ["trained", "paged"], indirect=True, scope="session"),
]


def check(running: Running, cases: list[Case]) -> list[Answer]:
    """All at once; tokens, reasons and forwards are the reference's."""
    before = running.client.settled()
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
def test_max_new_tokens_beside_a_multiple_of_the_block(running: Running, mode: str) -> None:
    tokens = prompt(random.Random(1), 30, running.reference.config.vocab_size)
    sizes = (1, 2, 31, 32, 33, 34, 64, 65)
    answers = check(running, [Case(tokens, n, {"decoding_mode": mode}, ignore_eos=True) for n in sizes])
    assert [len(answer.token_ids) for answer in answers] == list(sizes)


@pytest.mark.parametrize("mode", MODES)
def test_blocks_that_would_cross_the_context_length(running: Running, mode: str) -> None:
    """From prompts that leave room for a block and a bit down to the longest that SGLang takes.

    It keeps two positions of the context for itself, and its longest prompt leaves room for five tokens.
    """
    rng, limit = random.Random(2), running.setup.context_length - 2
    room = (5, 6, 7, 30, 31, 32, 33, 34, 50, 66)
    cases = [
        Case(prompt(rng, limit - n, running.reference.config.vocab_size), n, {"decoding_mode": mode}, True)
        for n in room
    ]
    answers = check(running, cases)
    assert [len(answer.token_ids) for answer in answers] == list(room)
    assert {answer.finish_reason for answer in answers} == {"length"}


@pytest.mark.parametrize("mode", MODES)
def test_more_than_the_context_holds(running: Running, mode: str) -> None:
    """The answer ends at the limit; what cannot fit by its own account is a 400."""
    limit = running.setup.context_length
    tokens = prompt(random.Random(3), limit - 40, running.reference.config.vocab_size)
    case = Case(tokens, 40, {"decoding_mode": mode}, ignore_eos=True)
    expected = running.reference.generate(replace(case, max_tokens=38))
    answer = running.client.complete(case)
    assert (answer.token_ids, answer.finish_reason) == (expected.token_ids, "length")
    for length, new in ((limit - 40, 41), (limit - 5, 5), (limit, 1)):
        ids = [*tokens, *tokens][:length]
        reply = running.client.post(running.client.body(replace(case, prompt=ids, max_tokens=new)))
        assert reply.status_code == 400, (length, new)


def test_literal_mask_in_the_prompt(running: Running) -> None:
    """The mask id is an ordinary prompt token: at the end, at the start, all over, or given as text."""
    mask = running.reference.config.mask_token_id
    tokens = prompt(random.Random(3), 37, running.reference.config.vocab_size)
    prompts = [[*tokens, mask], [mask, *tokens], [mask] * 40, [mask]]
    cases = [case for ids in prompts for case in in_every_mode(Case(ids, 40, ignore_eos=True))]
    for answer in check(running, cases)[1::3]:
        assert mask not in answer.token_ids[1:BLOCK]  # a denoise step never commits it

    text = f"a{running.detokenize([mask])}b"
    ids = running.client.post({"model": running.client.model, "prompt": text}, path="/tokenize").json()[
        "tokens"
    ]
    assert mask in ids
    for case in in_every_mode(Case(ids, 24, ignore_eos=True)):
        body = running.client.body(case, text=text)
        del body["input_ids"]
        reply = running.client.post(body).json()
        assert reply["output_ids"] == running.reference.generate(case).token_ids, case


def drafted_by(running: Running, mode: str) -> str:
    """The mode whose blocks the stop token is put into; a random model accepts too few drafts to stop among them."""
    return "self_speculation" if mode != "diffusion" and running.name == "trained" else "diffusion"


@pytest.mark.parametrize("mode", MODES)
def test_stop_token_inside_a_block(running: Running, mode: str) -> None:
    """The answer ends with the stop token, though the engine holds more tokens of the block."""
    drafted = drafted_by(running, mode)
    found = stop_in_mid_block(running.reference, drafted, ignore_eos=False)
    case = replace(found, options={"decoding_mode": mode})
    expected = running.reference.generate(case)
    [answer] = check(running, [case])
    if mode == drafted:
        assert expected.finish_reason == "stop"
        assert answer.token_ids[-1] == answer.meta["finish_reason"]["matched"] == case.stop_token_ids[0]
    assert answer.token_ids.count(case.stop_token_ids[0]) <= 1


@pytest.mark.parametrize("mode", MODES)
def test_stop_tokens_are_ignored_with_eos(running: Running, mode: str) -> None:
    """As SGLang has it: `ignore_eos` holds for every stop token."""
    case = stop_in_mid_block(running.reference, drafted_by(running, mode), ignore_eos=False)
    whole = replace(case, options={"decoding_mode": mode}, stop_token_ids=(), ignore_eos=True)
    answer = running.client.complete(whole, {"stop_token_ids": list(case.stop_token_ids)})
    assert answer.token_ids == running.reference.generate(whole).token_ids


@pytest.mark.parametrize("mode", MODES)
def test_min_new_tokens(running: Running, mode: str) -> None:
    """`min_new_tokens` tokens come before any stop token, wherever it lies in a block."""
    plain = stop_in_mid_block(running.reference, drafted_by(running, mode), ignore_eos=False)
    case = replace(plain, options={"decoding_mode": mode}, min_tokens=45)
    answer = running.client.complete(case)
    stops = {*case.stop_token_ids, running.reference.config.eos_token_id}
    assert 45 < len(answer.token_ids) <= case.max_tokens
    assert not stops & set(answer.token_ids[:45])
    if mode != "diffusion":
        ar = replace(case, options={"decoding_mode": "ar"})
        assert answer.token_ids == running.client.complete(ar).token_ids
    assert answer.token_ids == running.client.complete_all([case] * 3)[2].token_ids
