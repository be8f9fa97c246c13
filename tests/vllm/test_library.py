"""The library without a server: a user's own logits processors, defaults of the checkpoint, counts of a request."""

from __future__ import annotations

import pytest

from tests.common.checkpoints import TRAINED
from tests.served.inside import Inside

pytestmark = pytest.mark.engine

PROMPT = [300, 400, 500]


def test_a_processor_of_the_user_s_holds_in_every_mode_that_has_a_next_token(inside: Inside) -> None:
    seen = inside.run("processors", str(TRAINED), PROMPT)
    assert all(seen["banned"] in tokens for tokens in seen["free"].values())
    for tokens in (*seen["greedy"].values(), *seen["seeded"].values()):
        assert seen["banned"] not in tokens
    for answers in (seen["free"], seen["greedy"], seen["seeded"]):
        assert answers["ar"] == answers["self_speculation"] == answers["auto"]
    assert (
        "'decoding_mode': got 'diffusion', expected 'auto', 'ar' or 'self_speculation'" in seen["diffusion"]
    )
    assert "processors:Ban" in seen["diffusion"]
    assert "'decoding_mod': unknown option (did you mean 'decoding_mode'?)" in seen["misspelt"]


def test_a_server_whose_default_mode_cannot_honour_processors_does_not_start(inside: Inside) -> None:
    arguments = {
        "additional_config": {"decoding_mode": "diffusion"},
        "logits_processors": ["tests.vllm.inside.processors:Ban"],
    }
    _, said = inside.ask("refusals", str(TRAINED), arguments)
    assert said is not None
    assert "this server runs logits processors (tests.vllm.inside.processors:Ban)" in said


def test_embeddings_of_the_model(inside: Inside) -> None:
    """A server that generates nothing is vLLM's alone."""
    inside.run("refusals", str(TRAINED), {"runner": "pooling", "convert": "embed"})


def test_defaults_and_counts(inside: Inside) -> None:
    seen = inside.run("library", str(TRAINED), PROMPT)
    assert seen["counts"]["tokens"] == 20
    assert seen["counts"]["forwards"]["denoise"] > 0
    assert seen["uncounted"] is None
    assert seen["default tokens"] > 0
    assert "'top_p': got 0.5, expected 1.0 with decoding_mode 'diffusion'" in seen["refused"]
