"""Penalties are those of plain torch: of the tokens emitted, as SGLang has them, not of the prompt's."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch

from nemotron_diffusion_plugin.reference import masks
from tests.common.cases import Reference, prompt
from tests.served.setups import on
from tests.served.test_penalties import EXACT, NEW, PENALTIES, case_in
from tests.sglang.servers import Running

pytestmark = [pytest.mark.engine, on("trained", "paged", long=("sync",))]


@torch.no_grad()
def greedy(
    reference: Reference,
    tokens: list[int],
    frequency_penalty: float = 0.0,
    presence_penalty: float = 0.0,
    repetition_penalty: float = 1.0,
    min_tokens: int = 0,
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
        if place < min_tokens:
            row[reference.config.eos_token_id] = -torch.inf
        emitted.append(int(row.argmax()))
        if emitted[-1] == reference.config.eos_token_id:
            break
    return emitted


@pytest.mark.parametrize(
    "fields",
    [{"frequency_penalty": 0.3, "presence_penalty": 0.5, "repetition_penalty": 1.3}, PENALTIES[-1]],
    ids=["until the limit", "until EOS"],
)
def test_against_plain_torch(running: Running, fields: dict[str, Any]) -> None:
    tokens = prompt(random.Random(str(fields)), 20, running.reference.config.vocab_size)
    expected = greedy(running.reference, tokens, **fields)
    for mode in EXACT:
        case = case_in(mode, tokens, ignore_eos="min_tokens" not in fields)
        answer = running.client.complete(case, **fields)
        assert answer.token_ids[: len(expected)] == expected
        assert case.ignore_eos or len(answer.token_ids) == len(expected)
