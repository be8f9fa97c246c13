"""Serves a model that is not ours."""

from __future__ import annotations

import sys
from typing import Any

from vllm import LLM, SamplingParams


def observe(folder: str) -> dict[str, Any]:
    llm = LLM(
        folder,
        dtype="float32",
        enforce_eager=True,
        max_model_len=256,
        max_num_seqs=8,
        skip_tokenizer_init=True,
        kv_cache_memory_bytes=64 << 20,
    )
    prompts = [{"prompt_token_ids": [5 + n, 9, 2 * n, 30]} for n in range(6)]
    params = SamplingParams(temperature=0, max_tokens=40, ignore_eos=True, detokenize=False)
    outputs = llm.generate(prompts, params, use_tqdm=False)
    core = llm.llm_engine.engine_core.engine_core
    config = llm.llm_engine.vllm_config
    runner = core.model_executor.driver_worker.worker.model_runner
    return {
        "tokens": [list(output.outputs[0].token_ids) for output in outputs],
        "speculative": repr(config.speculative_config),
        "scheduler": type(core.scheduler).__qualname__,
        "scheduler class": repr(config.scheduler_config.scheduler_cls),
        "async": config.scheduler_config.async_scheduling,
        "lookahead": config.num_lookahead_tokens,
        "logits processors": repr(config.model_config.logits_processors),
        "sampler": type(runner.sampler).__qualname__,
        "speculator": repr(runner.speculator),
        "ours": sorted(name for name in sys.modules if name.startswith("nemotron_diffusion_plugin")),
    }
