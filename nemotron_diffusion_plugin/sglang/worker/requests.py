"""Reads what SGLang keeps of a request, once, when the request gets its slot."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from nemotron_diffusion_plugin.core import Request
from nemotron_diffusion_plugin.settings import ServerSettings
from nemotron_diffusion_plugin.sglang.parameters import is_greedy, request_options, stop_token_ids


def read_request(settings: ServerSettings, req: Any, max_model_len: int) -> Request:
    """Return a request with SGLang's sampling parameters."""
    params, prompt_len = req.sampling_params, len(req.origin_input_ids)
    greedy = is_greedy(params)
    logprobs, named = wanted_logprobs(req)
    return Request(
        request_options(settings, req),
        prompt_len,
        limit=min(prompt_len + params.max_new_tokens, max_model_len),
        temperature=0.0 if greedy else params.temperature,
        min_tokens=params.min_new_tokens,
        stop_ids=stop_token_ids(req),
        seeded=params.sampling_seed is not None and not greedy,
        logprobs=logprobs,
        named_logprobs=named,
    )


def wanted_logprobs(req: Any) -> tuple[int | None, Sequence[int]]:
    """How many of the likeliest tokens and which ids a request wants the log-probabilities of; None for none."""
    if not req.return_logprob:
        return None, ()
    return req.logprob.top_logprobs_num or 0, req.logprob.token_ids_logprob or ()


def noise_seed(req: Any) -> int:
    """The seed of a request's noise: its own, or one made of its id, which every tensor-parallel rank knows."""
    given = req.sampling_params.sampling_seed
    if given is not None:
        return int(given)
    digest = hashlib.blake2b(str(req.rid).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 2
