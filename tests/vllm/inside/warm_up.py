"""Runs what the worker of a GPU runs before it serves, then a request of each mode."""

from __future__ import annotations

from typing import Any

from vllm.v1.worker.gpu.warmup import run_mixed_prefill_decode_warmup, warmup_kernels

from nemotron_diffusion_plugin.options import DecodingMode
from tests.vllm.inside.schedule import SLOTS, Engine, prompt_of, state

MOST_TOKENS = 40


def observe(folder: str, mode: str) -> dict[str, Any]:
    """With a default mode: what the warm-up leaves behind, drafted with, and the tokens of each mode after it."""
    engine = Engine(folder, False, additional_config={"decoding_mode": mode})
    worker = engine.engine.engine_core.engine_core.model_executor.driver_worker.worker
    runner = worker.model_runner
    fresh, drafts = state(engine), engine.note_drafts()
    runner.profile_run()
    for tokens in (1, SLOTS, 32 * SLOTS):
        runner._dummy_run(tokens, uniform_decode=tokens > 1)
    warmup_kernels(runner, worker.execute_model, worker.sample_tokens)
    mixed = run_mixed_prefill_decode_warmup(runner, worker.execute_model, worker.sample_tokens, 64)
    result: dict[str, Any] = {
        "mixed": mixed,
        "fresh": fresh,
        "after": state(engine),
        "draft forwards": sum(forwards for _, forwards in drafts),
    }
    for number, each in enumerate(DecodingMode):
        engine.add(each.value, prompt_of(number), MOST_TOKENS, {"decoding_mode": each.value})
    return {**result, "tokens": engine.finish()}
