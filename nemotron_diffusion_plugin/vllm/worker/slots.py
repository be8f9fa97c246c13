"""Requests of vLLM in the request table."""

from __future__ import annotations

from typing import Any

from nemotron_diffusion_plugin.serving.slots import RequestTable
from nemotron_diffusion_plugin.vllm.settings import request_options
from nemotron_diffusion_plugin.vllm.worker.logprobs import wanted_logprobs


class VllmRequestTable(RequestTable):
    """The request table, filled from vLLM's sampling parameters."""

    def add(self, slot: int, prompt_len: int, params: Any, max_model_len: int) -> None:
        """Take over a slot for a request of `prompt_len` tokens; preempted requests come this way again."""
        logprobs, named = wanted_logprobs(params)
        self.take(
            slot,
            request_options(self.settings, params),
            prompt_len=prompt_len,
            limit=min(prompt_len + (params.max_tokens or max_model_len), max_model_len),
            temperature=params.temperature,
            min_tokens=params.min_tokens or 0,
            stop_ids=stop_token_ids(params),
            seeded=params.seed is not None,
            logprobs=logprobs,
            named_logprobs=named,
        )


def stop_token_ids(params: Any) -> list[int]:
    """The ids that end a request, as vLLM's scheduler checks them."""
    ids = set(params.stop_token_ids or ())
    if params.eos_token_id is not None:
        ids.add(params.eos_token_id)
    return sorted(ids)
