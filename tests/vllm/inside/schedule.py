"""Steps an engine by hand: who waits how long, what is left when everybody has gone."""

from __future__ import annotations

from typing import Any

import numpy as np
from vllm import LLM, SamplingParams

from nemotron_diffusion_plugin.auto.measured import as_setting
from nemotron_diffusion_plugin.serving.counters import ATTENTION
from nemotron_diffusion_plugin.serving.slots import BlockPhase
from nemotron_diffusion_plugin.vllm.board import BoardReader
from nemotron_diffusion_plugin.vllm.worker import speculator as speculator_module

SLOTS = 8
SLOW = {"decoding_mode": "diffusion", "commit_rule": "fixed", "tokens_per_step": 1}


class Engine:
    """An engine in this process and the parts of it that the test looks at."""

    def __init__(self, folder: str, asynchronous: bool, **options: Any) -> None:
        self.llm = LLM(
            folder,
            dtype="float32",
            enforce_eager=True,
            max_model_len=512,
            max_num_seqs=SLOTS,
            kv_cache_memory_bytes=256 << 20,
            async_scheduling=asynchronous,
            disable_log_stats=True,
            **options,
        )
        self.engine = self.llm.llm_engine
        self.scheduler = self.engine.engine_core.engine_core.scheduler
        self.counters = BoardReader(self.engine.vllm_config)
        [self.speculator] = speculator_module._speculators.values()
        self.cached: dict[str, int] = {}  # tokens of a prompt that were in the prefix cache

    def add(
        self,
        request_id: str,
        prompt: list[int],
        max_tokens: int,
        options: dict[str, Any],
        logprobs: int | None = None,
    ) -> None:
        params = SamplingParams(
            temperature=0,
            max_tokens=max_tokens,
            ignore_eos=True,
            detokenize=False,
            logprobs=logprobs,
            extra_args=options,
        )
        self.engine.add_request(request_id, {"prompt_token_ids": prompt}, params)

    def forwards(self) -> int:
        return sum(self.counters.value(f"{attention}_forwards") for attention in ATTENTION)

    def note_drafts(self) -> list[tuple[int | None, int]]:
        """From now on, each call of the speculator: how many drafts are asked for, and its forwards."""
        noted: list[tuple[int | None, int]] = []
        speculator, propose = self.speculator, self.speculator.propose

        def proposed(*arguments: Any, **keywords: Any) -> Any:
            before = speculator.forward.count
            drafts = propose(*arguments, **keywords)
            noted.append((keywords.get("num_speculative_tokens"), speculator.forward.count - before))
            return drafts

        speculator.propose = proposed
        return noted

    def finish(self) -> dict[str, list[int]]:
        tokens = {}
        while self.engine.has_unfinished_requests():
            for output in self.engine.step():
                tokens[output.request_id] = list(output.outputs[0].token_ids)
                self.cached[output.request_id] = output.num_cached_tokens
        return tokens


def prompt_of(number: int) -> list[int]:
    return [200 + 7 * number, 300 + number, 410, 523]


def waiting(engine: Engine) -> dict[str, Any]:
    """An AR request beside four diffusion requests: forwards between each two of its tokens."""
    for number in range(4):
        engine.add(f"slow{number}", prompt_of(number), 97, SLOW)
    engine.add("ar", prompt_of(9), 80, {"decoding_mode": "ar"})
    waits, last, seen, tokens = [], 0, 0, {}
    while engine.engine.has_unfinished_requests():
        for output in engine.engine.step():
            ids = list(output.outputs[0].token_ids)
            tokens[output.request_id] = ids
            if output.request_id == "ar" and len(ids) > seen:
                waits += [engine.forwards() - last] * bool(seen)
                last, seen = engine.forwards(), len(ids)
    return {"waits": waits, "tokens": tokens}


def state(engine: Engine) -> dict[str, Any]:
    """What the engine holds for requests."""
    table, requests = engine.speculator.table, engine.speculator.req_states
    arrays = [value for value in vars(table).values() if hasattr(value, "shape")]
    return {
        "phases": int(np.isin(table.phase, (BlockPhase.DENOISING, BlockPhase.PLANNED)).sum()),
        "planned": int(table.planned.sum()),
        "parked": len(engine.scheduler._parked),
        "in flight": len(engine.scheduler._in_flight),
        "requests": len(engine.scheduler.requests),
        "slots in use": len(requests.req_id_to_index),
        "usage": engine.scheduler.kv_cache_manager.usage,
        "reports": len(engine.speculator._report.denoise_steps),
        "largest array": max(array.shape[0] for array in arrays),
        "held": len(vars(table)),
        "log-probabilities": table.logprobs.num_held,
    }


def come_and_go(engine: Engine) -> None:
    """Six times as many requests as slots: some finish, the others are aborted in mid-block."""
    for number in range(6 * SLOTS):
        options = SLOW if number % 2 else {"block_size": 8}
        engine.add(f"r{number}", prompt_of(number), 60, options, logprobs=3 if number % 4 == 1 else None)
        for _ in range(2):
            engine.engine.step()
        if number % 3:
            engine.engine.abort_request([f"r{number}"], internal=False)
    engine.finish()
    engine.add("last", prompt_of(3), 2, {"decoding_mode": "ar"})
    engine.finish()


def observe(folder: str, scheduling: str) -> dict[str, Any]:
    """With "async" or "sync" scheduling."""
    engine = Engine(folder, scheduling == "async")
    fresh = state(engine)
    result: dict[str, Any] = {"scheduler": type(engine.scheduler).__name__, "fresh": fresh}
    result |= waiting(engine)
    come_and_go(engine)
    result["after"] = state(engine)
    result["costs"] = as_setting(engine.scheduler.auto.policy.costs)
    engine.add("again", prompt_of(2), 97, SLOW)
    result["again"] = engine.finish()["again"]
    return result
