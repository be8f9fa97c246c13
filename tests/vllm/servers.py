"""The servers of the tests: which checkpoint each one serves, and how it is started."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from tests.common.auto import AR_IN_COMPANY, ON_A_GPU
from tests.common.cases import Reference
from tests.common.eagle3 import DEPTH, HEAD
from tests.common.endpoint import VLLM, Endpoint
from tests.engines.vllm.launch import Server
from tests.vllm.client import Client


@dataclass(frozen=True)
class Setup:
    """How a server is started."""

    checkpoint: str
    max_model_len: int = 512
    options: tuple[str, ...] = ()
    defaults: dict[str, Any] = field(default_factory=dict)
    asynchronous: bool = False

    @property
    def variables(self) -> dict[str, str]:
        """A CPU schedules synchronously unless it is told to keep what a GPU does."""
        return {"VLLM_CPU_ASYNC_SCHEDULING": "1"} if self.asynchronous else {}

    @property
    def command_line(self) -> tuple[str, ...]:
        scheduling = "--async-scheduling" if self.asynchronous else "--no-async-scheduling"
        config = ("--additional-config", json.dumps(self.defaults)) if self.defaults else ()
        return ("--max-model-len", str(self.max_model_len), scheduling, *self.options, *config)


STRUCTURED = (
    *("--enable-auto-tool-choice", "--tool-call-parser", "hermes"),
    # The template thinks only when asked to, and so must the parser.
    *("--reasoning-parser", "deepseek_v3"),
    *("--reasoning-config", '{"reasoning_start_str": "<think>", "reasoning_end_str": "</think>"}'),
    # A small model would fill JSON with blanks for ever.
    *("--structured-outputs-config.backend", "xgrammar"),
    *("--structured-outputs-config.disable_any_whitespace", "true"),
)

SETUPS: dict[str, Setup] = {
    "trained": Setup("trained", options=STRUCTURED, defaults=ON_A_GPU),
    # Blocks as large as an engine's pages, so that prefixes are found at every 32 tokens.
    "prefixes": Setup("plain", options=("--block-size", "32")),
    # A budget that cuts prompts and, with more than one request, blocks.
    "budget": Setup("sharded", options=("--max-num-batched-tokens", "40")),
    # Too few pages for 16 requests; diffusion for who names no mode.
    "pool": Setup(
        "without-lora",
        options=("--block-size", "32", "--num-gpu-blocks-override", "40"),
        asynchronous=True,
        defaults={"decoding_mode": "diffusion", "threshold": 0.6, "block_size": 16},
    ),
    # vLLM's own speculator beside our model as its target.
    "eagle3": Setup(
        "trained",
        options=(
            "--speculative-config",
            json.dumps({"method": "eagle3", "model": str(HEAD), "num_speculative_tokens": DEPTH}),
        ),
    ),
    "ngram": Setup(
        "trained",
        options=(
            "--speculative-config",
            json.dumps(
                {
                    "method": "ngram",
                    "num_speculative_tokens": DEPTH,
                    "prompt_lookup_min": 2,
                    "prompt_lookup_max": 4,
                }
            ),
        ),
    ),
    "auto": Setup("trained", options=STRUCTURED, asynchronous=True, defaults=AR_IN_COMPANY),
    "compiled": Setup("one-layer", max_model_len=256, options=("--no-enforce-eager",)),
}


@dataclass
class Running:
    """A server that answers, a client of it, and the reference decoder with its limits."""

    name: str
    setup: Setup
    server: Server
    client: Client
    reference: Reference

    @property
    def endpoint(self) -> Endpoint:
        return Endpoint(self.client.http, self.client.model, VLLM)

    def idle(self) -> bool:
        """Whether, after a while at most, nothing runs or waits and no KV is held."""
        names = ("vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc")
        metrics = self.client.settled(lambda metrics: metrics.total(names[-1]) == 0)
        return not any(metrics.total(name) for name in names)

    def is_known_error(self, path: str, content: bytes) -> bool:
        """Whether vLLM itself answers this body with 500, whatever the model: no such body is known."""
        return False

    def tokenize(self, text: str) -> list[int]:
        body = {"model": self.client.model, "prompt": text, "add_special_tokens": False}
        return list(self.client.post(body, path="/tokenize").json()["tokens"])

    def detokenize(self, token_ids: list[int]) -> str:
        """The text of token ids as the server's tokenizer writes it, special tokens included."""
        body = {"model": self.client.model, "tokens": token_ids}
        return str(self.client.post(body, path="/detokenize").json()["prompt"])
