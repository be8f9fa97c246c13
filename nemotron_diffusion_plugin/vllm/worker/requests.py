"""Reads what vLLM keeps of a request, once, when the request gets its slot."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nemotron_diffusion_plugin.core import Request
from nemotron_diffusion_plugin.settings import ServerSettings
from nemotron_diffusion_plugin.vllm.settings import request_options


def read_request(settings: ServerSettings, prompt_len: int, params: Any, max_model_len: int) -> Request:
    """Return a request of `prompt_len` tokens with vLLM's sampling parameters."""
    logprobs, named = wanted_logprobs(params)
    return Request(
        request_options(settings, params),
        prompt_len,
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


def wanted_logprobs(params: Any) -> tuple[int | None, Sequence[int]]:
    """How many of the likeliest tokens (-1: all) and which ids a request wants the log-probabilities of.

    Ids that it names stand in the place of the likeliest, as vLLM has it. None where it wants none.
    """
    return (0, params.logprob_token_ids) if params.logprob_token_ids else (params.logprobs, ())
