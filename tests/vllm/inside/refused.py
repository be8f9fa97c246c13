"""A request in auto whose grammar refuses every draft, as where no worker sees grammars (tensor parallelism)."""

from __future__ import annotations

from typing import Any

from vllm import LLM, SamplingParams
from vllm.sampling_params import StructuredOutputsParams

from nemotron_diffusion_plugin.options import DecodingMode
from nemotron_diffusion_plugin.serving.counters import KINDS
from nemotron_diffusion_plugin.vllm.board import DECISIONS, BoardReader
from nemotron_diffusion_plugin.vllm.messages import DraftPlan
from tests.common.auto import ON_A_GPU


def observe(folder: str, scheduling: str) -> dict[str, Any]:
    """With "async" or "sync" scheduling."""
    DraftPlan.walks = lambda *_: {}  # type: ignore[method-assign]
    llm = LLM(
        folder,
        dtype="float32",
        enforce_eager=True,
        max_model_len=512,
        max_num_seqs=8,
        kv_cache_memory_bytes=256 << 20,
        async_scheduling=scheduling == "async",
        structured_outputs_config={"backend": "xgrammar"},
        additional_config=ON_A_GPU,
    )
    counters = BoardReader(llm.llm_engine.vllm_config)
    params = SamplingParams(
        temperature=0,
        max_tokens=60,
        ignore_eos=True,
        structured_outputs=StructuredOutputsParams(regex="(xq ){40}"),
    )
    [output] = llm.generate([{"prompt_token_ids": [300, 400, 500]}], params)
    auto = DecodingMode.AUTO
    return {
        "scheduler": type(llm.llm_engine.engine_core.engine_core.scheduler).__name__,
        "text": output.outputs[0].text,
        "forwards": {kind: counters.value(f"{kind}_forwards", auto) for kind in KINDS},
        "decisions": [counters.value(name) for name in DECISIONS],
    }
