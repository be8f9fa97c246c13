"""A conversation's next turn: how much of the last one it finds in the prefix cache."""

from __future__ import annotations

from typing import Any

import vllm

from nemotron_diffusion_plugin.options import DecodingMode
from tests.vllm.inside.schedule import Engine, prompt_of

PAGE = 32
MOST_TOKENS = 5 * PAGE + 1
"""The last step fills a page; the last token's KV is never written."""
QUESTION = [700, 701]
NEXT_TOKENS = 5


def prompt(number: int) -> list[int]:
    return prompt_of(number) * (2 * PAGE // len(prompt_of(number)))


def observe(folder: str, scheduling: str) -> dict[str, Any]:
    """With "async" or "sync" scheduling: by mode, both turns' tokens and the cached tokens of the second."""
    engine = Engine(folder, scheduling == "async", block_size=PAGE)
    turns = {}
    for number, mode in enumerate(DecodingMode):
        options = {"decoding_mode": mode.value}
        engine.add("first", prompt(number), MOST_TOKENS, options)
        first = engine.finish()["first"]
        engine.add("next", [*prompt(number), *first, *QUESTION], NEXT_TOKENS, options)
        turns[mode.value] = {"first": first, "next": engine.finish()["next"], "cached": engine.cached["next"]}
    return {"version": vllm.__version__, "turns": turns}
