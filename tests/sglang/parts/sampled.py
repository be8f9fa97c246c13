"""SGLang's sampling parameters as a batch holds them, and the distribution they mean, token by token."""

from __future__ import annotations

import math
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import torch

ALL = 1 << 30
"""What SGLang makes of "no top_k"."""


def params(**values: Any) -> Any:
    """Sampling parameters of a request, neutral where nothing is given."""
    neutral = {
        **{"temperature": 1.0, "top_p": 1.0, "top_k": ALL, "min_p": 0.0},
        **{"frequency_penalty": 0.0, "presence_penalty": 0.0, "repetition_penalty": 1.0},
        **{"min_new_tokens": 0, "max_new_tokens": 50, "sampling_seed": None, "custom_params": None},
        **{"stop_token_ids": None, "ignore_eos": False},
    }
    return SimpleNamespace(**{**neutral, **values})


def batch_of(
    requests: Sequence[Any], logit_bias: torch.Tensor | None = None, return_logprob: bool = False
) -> Any:
    """SGLang's batch of requests with these sampling parameters."""
    info = SimpleNamespace(
        temperatures=torch.tensor([[one.temperature] for one in requests]),
        top_ks=torch.tensor([one.top_k for one in requests], dtype=torch.int32),
        top_ps=torch.tensor([one.top_p for one in requests]),
        min_ps=torch.tensor([one.min_p for one in requests]),
        logit_bias=logit_bias,
    )
    reqs = [SimpleNamespace(sampling_params=one) for one in requests]
    return SimpleNamespace(reqs=reqs, sampling_info=info, return_logprob=return_logprob)


def distribution(logits: Sequence[float], of: Any) -> list[float]:
    """Temperature, then the top_k most likely, of these the fewest that make up top_p, then min_p of the best."""
    largest = max(logits)
    weights = [math.exp((value - largest) / of.temperature) for value in logits]
    ranked = sorted(range(len(weights)), key=lambda token: -weights[token])[: of.top_k]
    total, before, kept = sum(weights[token] for token in ranked), 0.0, []
    for token in ranked:
        if before <= of.top_p:
            kept.append(token)
        before += weights[token] / total
    kept = [token for token in kept if weights[token] >= of.min_p * weights[ranked[0]]]
    left = sum(weights[token] for token in kept)
    return [weights[token] / left if token in kept else 0.0 for token in range(len(weights))]
