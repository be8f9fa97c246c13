"""Where a request ends: limits of tokens and context, stop tokens inside a draft, the mask id in a prompt."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from tests.common.cases import BLOCK, MODES, Case, in_every_mode, prompt
from tests.served.borders import stop_in_mid_block
from tests.served.running import Running
from tests.served.setups import SGLANG, VLLM, on

pytestmark = [pytest.mark.engine, on("trained", "paged", long=("plain",))]
every_mode = pytest.mark.parametrize("mode", MODES)


@every_mode
def test_max_tokens_beside_a_multiple_of_the_block(running: Running, mode: str) -> None:
    tokens = prompt(random.Random(1), 30, running.reference.config.vocab_size)
    sizes = (1, 2, 31, 32, 33, 34, 64, 65)
    answers = running.check([Case(tokens, n, {"decoding_mode": mode}, ignore_eos=True) for n in sizes])
    assert [len(answer.token_ids) for answer in answers] == list(sizes)


@every_mode
def test_blocks_that_would_cross_the_context(running: Running, mode: str) -> None:
    """From prompts that leave room for a block and a bit down to the longest: SGLang's leaves room for five tokens."""
    rng, limit = random.Random(2), running.setup.context - running.setup.answer_reserve
    room = (*((1, 2, 3) if VLLM else (5, 6)), 7, 30, 31, 32, 33, 34, 50, 66)
    vocab = running.reference.config.vocab_size
    cases = [Case(prompt(rng, limit - n, vocab), n, {"decoding_mode": mode}, ignore_eos=True) for n in room]
    answers = running.check(cases)
    assert [len(answer.token_ids) for answer in answers] == list(room)
    assert {answer.finish_reason for answer in answers} == {"length"}


@pytest.mark.skipif(VLLM, reason="vLLM refuses what does not fit")
@every_mode
def test_more_than_the_context_holds(running: Running, mode: str) -> None:
    """The answer ends at the limit; what cannot fit by its own account is a 400."""
    limit = running.setup.context
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
    for answer in running.check(cases)[1::3]:
        assert mask not in answer.token_ids[1:BLOCK]  # a denoise step never commits it

    text = f"a{running.detokenize([mask])}b"
    body = {"model": running.client.model, "prompt": text}
    ids = running.client.post(body, path="/tokenize").json()["tokens"]
    assert mask in ids
    for case in in_every_mode(Case(ids, 24, ignore_eos=True)):
        body = running.client.body(case)
        body = {name: value for name, value in body.items() if name not in ("prompt", "input_ids")}
        reply = running.client.post({**body, "prompt" if VLLM else "text": text}).json()
        [answer] = running.client.read(reply)
        assert answer.token_ids == running.reference.generate(case).token_ids, case


def a_stop(running: Running, mode: str) -> tuple[str, Case]:
    """A case that stops inside a block, and the mode whose block that is.

    A random model accepts too few drafts to stop among them. SGLang ignores other stop tokens with EOS.
    """
    drafted = "self_speculation" if mode != "diffusion" and running.name == "trained" else "diffusion"
    case = stop_in_mid_block(running.reference, drafted, ignore_eos=VLLM)
    return drafted, replace(case, options={"decoding_mode": mode})


@every_mode
def test_stop_token_inside_a_block(running: Running, mode: str) -> None:
    """The answer ends with the stop token, though the engine holds more tokens of the block."""
    drafted, case = a_stop(running, mode)
    [stop], expected = case.stop_token_ids, running.reference.generate(case)
    [answer] = running.check([case])
    if mode == drafted:
        assert expected.finish_reason == "stop"
        assert answer.token_ids[-1] == stop
        assert VLLM or answer.raw["finish_reason"]["matched"] == stop
    assert answer.token_ids.count(stop) <= 1


@pytest.mark.skipif(VLLM, reason="vLLM heeds other stop tokens without EOS")
@every_mode
def test_stop_tokens_are_ignored_with_eos(running: Running, mode: str) -> None:
    """As SGLang has it: `ignore_eos` holds for every stop token."""
    _, case = a_stop(running, mode)
    whole = replace(case, stop_token_ids=(), ignore_eos=True)
    answer = running.client.complete(whole, stop_token_ids=list(case.stop_token_ids))
    assert answer.token_ids == running.reference.generate(whole).token_ids


@every_mode
def test_min_tokens(running: Running, mode: str) -> None:
    """A stop token is no choice before `min_tokens`, wherever it lies in a block; SGLang's is one token later."""
    case = replace(a_stop(running, mode)[1], min_tokens=45)
    answer = running.client.complete(case)
    stops = {*case.stop_token_ids, *(() if case.ignore_eos else (running.reference.config.eos_token_id,))}
    assert 45 + SGLANG <= len(answer.token_ids) <= case.max_tokens
    assert not stops & set(answer.token_ids[: 44 + SGLANG])
    if mode != "diffusion":
        ar = replace(case, options={"decoding_mode": "ar"})
        assert answer.token_ids == running.client.complete(ar).token_ids
    assert answer.token_ids == running.client.complete_all([case] * 3)[2].token_ids
