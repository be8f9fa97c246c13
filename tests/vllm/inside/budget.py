"""Serves with as many tokens a step as a block has, or with one more where vLLM refuses that."""

from __future__ import annotations

from typing import Any

from tests.vllm.inside.schedule import Engine, prompt_of

BLOCK = 32
MOST_TOKENS = 70
MODES = ("self_speculation", "diffusion")


def observe(folder: str) -> dict[str, Any]:
    """What was refused, if anything, and the tokens of both modes side by side."""
    refused = None
    try:
        engine = Engine(folder, False, max_num_batched_tokens=BLOCK)
    except ValueError as error:
        refused = str(error)
        engine = Engine(folder, False, max_num_batched_tokens=BLOCK + 1)
    for number, mode in enumerate(MODES):
        engine.add(mode, prompt_of(number), MOST_TOKENS, {"decoding_mode": mode})
    return {"refused": refused, "tokens": engine.finish()}
