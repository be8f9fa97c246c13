"""Echoed prompts and their log-probabilities."""

from __future__ import annotations

import random
from typing import Any

import pytest

from tests.common.cases import MODES, Case, prompt
from tests.common.endpoint import COMPLETIONS

NEW_TOKENS = 40


@pytest.mark.parametrize("mode", MODES)
def test_echo_with_logprobs(running: Any, mode: str) -> None:
    """Prompt and answer come back with log-probabilities, the prompt's causal ones from its second token on."""
    reference, options = running.reference, {"decoding_mode": mode}
    tokens = prompt(random.Random(4), 30, reference.config.vocab_size)
    case = Case(tokens, NEW_TOKENS, options, ignore_eos=True)
    fields = {"prompt": tokens, "max_tokens": NEW_TOKENS, "temperature": 0, "ignore_eos": True}
    [choice] = running.endpoint.choices(COMPLETIONS, options, **fields, echo=True, logprobs=2)
    values = choice["logprobs"]["token_logprobs"]
    assert len(values) == len(tokens) + NEW_TOKENS
    expected = reference.logprobs(tokens[:1], tokens[1:]) + reference.chosen_with(case)
    assert values[1:] == pytest.approx(expected, abs=2e-4)
    [alone] = running.endpoint.choices(COMPLETIONS, options, **fields)
    assert choice["text"].endswith(alone["text"])
    assert len(choice["text"]) > len(alone["text"])
