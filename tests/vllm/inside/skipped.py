"""Steps an engine by hand while a long prompt comes in beside parked blocks: in which steps vLLM asks for no drafts."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from vllm.v1.core.sched.output import SchedulerOutput

from tests.vllm.inside.schedule import SLOW, Engine, prompt_of

BUDGET = 48
LONG = [200 + number % 300 for number in range(300)]
REQUESTS: dict[str, tuple[list[int], int, dict[str, Any]]] = {
    "slow0": (prompt_of(0), 97, SLOW),
    "slow1": (prompt_of(1), 97, SLOW),
    "long": (LONG, 40, {"decoding_mode": "self_speculation"}),
}
LAST = (prompt_of(2), 1, {"decoding_mode": "self_speculation"})
"""Prompts, most tokens and options; the last one's first token is its last."""


def observe(folder: str, scheduling: str) -> dict[str, Any]:
    """With "async" or "sync" scheduling: the tokens, and how many drafts each step asks for and its draft forwards."""
    engine = Engine(folder, scheduling == "async", max_num_batched_tokens=BUDGET)
    engine.speculator.reads_flags = False  # as on a GPU, where the host does not wait to see who has ended
    drafts = engine.note_drafts()
    for name, request in REQUESTS.items():
        engine.add(name, *request)
    tokens = engine.finish()
    together = list(drafts)
    drafts.clear()
    engine.add("last", *LAST)
    tokens |= engine.finish()
    told = "skip_drafts" in {field.name for field in fields(SchedulerOutput)}
    return {"tokens": tokens, "together": together, "alone": drafts, "are told": told}
