"""Penalties and biases are exact among drafts: greedy self-speculation gives what AR gives."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch

from nemotron_diffusion_plugin.reference import masks
from tests.common.cases import Case, Reference, mixed_cases, prompt
from tests.sglang.servers import Running

pytestmark = [
    pytest.mark.engine,
    pytest.mark.parametrize("running", ["trained", "sync"], indirect=True, scope="session"),
]

PENALTIES: list[dict[str, Any]] = [
    {"frequency_penalty": 0.7},
    {"presence_penalty": 1.1},
    {"repetition_penalty": 1.4},
    {"frequency_penalty": 0.4, "presence_penalty": -0.3, "repetition_penalty": 1.2, "min_new_tokens": 12},
]
NEW = 60


def case_in(mode: str, tokens: list[int], ignore_eos: bool = True) -> Case:
    return Case(tokens, NEW, {"decoding_mode": mode}, ignore_eos)


@torch.no_grad()
def greedy(
    reference: Reference,
    tokens: list[int],
    frequency_penalty: float = 0.0,
    presence_penalty: float = 0.0,
    repetition_penalty: float = 1.0,
    min_new_tokens: int = 0,
) -> list[int]:
    """AR decoding in plain torch; penalties are of the tokens emitted, not of the prompt's."""
    emitted: list[int] = []
    for place in range(NEW):
        ids = torch.tensor([[*tokens, *emitted]])
        count = ids.shape[1]
        logits, _ = reference.decoder.model(ids, torch.arange(count), masks.causal(count))
        row = logits[0, -1].clone()
        counts = torch.bincount(torch.tensor(emitted, dtype=torch.int64), minlength=len(row))
        row -= frequency_penalty * counts + presence_penalty * (counts > 0)
        scaled = torch.where(row < 0, row * repetition_penalty, row / repetition_penalty)
        row = torch.where(counts > 0, scaled, row)
        if place < min_new_tokens:
            row[reference.config.eos_token_id] = -torch.inf
        emitted.append(int(row.argmax()))
        if emitted[-1] == reference.config.eos_token_id:
            break
    return emitted


@pytest.mark.parametrize("penalties", PENALTIES, ids=str)
def test_alone(running: Running, penalties: dict[str, Any]) -> None:
    ignore_eos = "min_new_tokens" not in penalties
    tokens = prompt(random.Random(str(penalties)), 20, running.reference.config.vocab_size)
    answers = [
        running.client.complete(case_in(mode, tokens, ignore_eos), penalties).token_ids
        for mode in ("ar", "self_speculation")
    ]
    assert answers[0] == answers[1]
    if not ignore_eos:
        assert answers[0] == greedy(running.reference, tokens, **penalties)
    plain = running.reference.generate(case_in("ar", tokens, ignore_eos)).token_ids
    assert answers[0] != plain, "the penalties change nothing"


def test_against_plain_torch(running: Running) -> None:
    tokens = prompt(random.Random(1), 20, running.reference.config.vocab_size)
    penalties = {"frequency_penalty": 0.3, "presence_penalty": 0.5, "repetition_penalty": 1.3}
    case = case_in("self_speculation", tokens)
    answer = running.client.complete(case, penalties)
    expected = greedy(running.reference, tokens, **penalties)
    assert answer.token_ids[: len(expected)] == expected


def test_among_others(running: Running) -> None:
    """Requests with penalties of all kinds and without any, in all modes at once."""
    vocab = running.reference.config.vocab_size
    others = mixed_cases(vocab, seed=6, count=6, most_tokens=NEW)
    tokens = prompt(random.Random(2), 20, vocab)
    alone = [running.client.complete(case_in("ar", tokens), penalties).token_ids for penalties in PENALTIES]
    with running.client.in_background(others) as answered:
        for mode in ("ar", "self_speculation"):
            together = [
                running.client.complete(case_in(mode, tokens), penalties).token_ids for penalties in PENALTIES
            ]
            assert together == alone, mode
    for case, answer in zip(others, answered, strict=True):
        assert answer.token_ids == running.reference.generate(case).token_ids


def test_a_slot_forgets_its_penalties(running: Running) -> None:
    tokens = prompt(random.Random(3), 20, running.reference.config.vocab_size)
    for mode in ("ar", "self_speculation"):
        case = case_in(mode, tokens)
        running.client.complete(case, {"frequency_penalty": 2.0})
        assert running.client.complete(case).token_ids == running.reference.generate(case).token_ids


def test_logit_bias(running: Running) -> None:
    """A bias changes the same tokens in both modes: one is never chosen, another one more often."""
    tokens = prompt(random.Random(4), 20, running.reference.config.vocab_size)
    plain = running.reference.generate(case_in("ar", tokens)).token_ids
    bias = {"logit_bias": {str(plain[3]): -100.0, "250": 4.0}}
    answers = [
        running.client.complete(case_in(mode, tokens), bias).token_ids for mode in ("ar", "self_speculation")
    ]
    assert answers[0] == answers[1] != plain
    assert plain[3] not in answers[0]
