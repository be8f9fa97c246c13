"""Requests to the library, without a server: its defaults, and the counts of a request."""

from __future__ import annotations

from typing import Any

from vllm import LLM, SamplingParams
from vllm.exceptions import VLLMValidationError

from tests.vllm.inside.refusals import ALWAYS

DEFAULTS = {"top_p": 0.9, "top_k": 20}
COUNTED = {"return_counts": True}


def observe(folder: str, prompt: list[int]) -> dict[str, Any]:
    llm = LLM(
        folder,
        **ALWAYS,
        override_generation_config=DEFAULTS,
        additional_config={"decoding_mode": "diffusion"},
    )
    prompts: Any = [{"prompt_token_ids": prompt}]
    greedy = SamplingParams(temperature=0, max_tokens=20, ignore_eos=True, extra_args=COUNTED)
    [counted] = llm.generate(prompts, greedy, use_tqdm=False)
    [plain] = llm.generate(prompts, llm.get_default_sampling_params(), use_tqdm=False)
    try:
        llm.generate(prompts, SamplingParams(temperature=0.8, top_p=0.5), use_tqdm=False)
        refused = ""
    except VLLMValidationError as error:
        refused = str(error)
    return {
        "counts": counted.nemotron_diffusion,
        "uncounted": getattr(plain, "nemotron_diffusion", None),
        "default tokens": len(plain.outputs[0].token_ids),
        "refused": refused,
    }
