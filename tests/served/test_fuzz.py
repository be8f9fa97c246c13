"""Random bodies: known fields with good, odd and wrong values, and our options among them, are never a 500."""

from __future__ import annotations

import json
import os
from collections.abc import Collection
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from nemotron_diffusion_plugin.options import OPTION_NAMES
from tests.served.endpoint import CHAT, COMPLETIONS
from tests.served.running import Running
from tests.served.setups import on

pytestmark = [pytest.mark.engine, on("trained")]

EXAMPLES = int(os.environ.get("NEMOTRON_DIFFUSION_FUZZ", "60"))
MOST_CHOICES = 8
"""SGLang lays out every choice before it checks a request: a huge `n` is a 500, or takes memory (tests/README.md)."""

ANYTHING = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**70), 2**70),
        st.floats(),
        st.text(max_size=8),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=5,
)
NUMBERS = st.one_of(st.integers(-3, 40), st.floats(-2, 3), st.sampled_from([0, 1, 2**31, 2**63, 1e308]))


def mostly(good: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(good, good, good, NUMBERS, ANYTHING)


OPTIONS: dict[str, st.SearchStrategy[Any]] = {
    "decoding_mode": st.sampled_from(["ar", "diffusion", "self_speculation", "auto"]),
    "block_size": st.integers(1, 32),
    "draft_lora": st.booleans(),
    "threshold": st.floats(0.05, 1.0),
    "denoising_steps": st.integers(1, 40),
    "commit_rule": st.sampled_from(["threshold", "schedule", "threshold_bound", "cumulative_error", "fixed"]),
    "tokens_per_step": st.integers(1, 40),
}
OPTIONS |= {name: ANYTHING for name in OPTION_NAMES if name not in OPTIONS}
FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "temperature": st.floats(0, 2),
    "top_p": st.floats(0.01, 1),
    "top_k": st.integers(-1, 50),
    "min_p": st.floats(0, 1),
    "presence_penalty": st.floats(-2, 2),
    "frequency_penalty": st.floats(-2, 2),
    "repetition_penalty": st.floats(0.1, 2),
    "seed": st.integers(0, 2**62),
    "n": st.integers(1, 3),
    "stop": st.one_of(st.text(min_size=1, max_size=5), st.lists(st.text(min_size=1, max_size=3), max_size=4)),
    "stop_token_ids": st.lists(st.integers(0, 1023), max_size=5),
    "ignore_eos": st.booleans(),
    "min_tokens": st.integers(0, 10),
    "logit_bias": st.dictionaries(st.integers(0, 1023).map(str), st.floats(-100, 100), max_size=4),
    "logprobs": st.integers(0, 5),
    "echo": st.booleans(),
    "stream": st.booleans(),
    "skip_special_tokens": st.booleans(),
    "response_format": st.sampled_from([{"type": "text"}, {"type": "json_object"}]),
}
BODIES = st.fixed_dictionaries(
    {
        "prompt": st.one_of(
            st.text(min_size=1, max_size=20), st.lists(st.integers(0, 1023), min_size=1, max_size=40)
        )
    },
    optional={
        "max_tokens": mostly(st.integers(1, 20)),
        "OPTIONS": mostly(
            st.fixed_dictionaries({}, optional={name: mostly(good) for name, good in OPTIONS.items()})
        ),
        **{name: mostly(good) for name, good in FIELDS.items()},
    },
)


def bounded(body: dict[str, Any], names: Collection[str], most: int) -> dict[str, Any]:
    """The body with integers of these names cut to `most`: a small machine would take minutes for more."""
    return {
        name: min(value, most) if name in names and isinstance(value, int) else value
        for name, value in body.items()
    }


def test_random_bodies(running: Running) -> None:
    statuses: list[int] = []

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(BODIES, st.booleans())
    def send(drawn: dict[str, Any], chat: bool) -> None:
        body: dict[str, Any] = {"model": running.endpoint.model, "max_tokens": 12, **drawn}
        if "OPTIONS" in body:
            body[running.endpoint.options_field] = body.pop("OPTIONS")
        if not isinstance(body["max_tokens"], int) or body["max_tokens"] > 40:
            body["max_tokens"] = 40
        body = bounded(body, ("n",), MOST_CHOICES)
        if chat:
            body["messages"] = [{"role": "user", "content": str(body.pop("prompt"))}]
            body.pop("echo", None)
        content = json.dumps(body)
        headers = {"Content-Type": "application/json"}
        path = CHAT if chat else COMPLETIONS
        reply = running.client.http.post(path, content=content, headers=headers)
        statuses.append(reply.status_code)
        known = reply.status_code >= 500 and running.is_known_error(path, content.encode())
        assert reply.status_code < 500 or known, (content, reply.text[-1500:])
        assert running.server.healthy(), content

    send()
    assert 200 in statuses
    assert 400 in statuses
    assert running.idle(), running.server.log_tail()
