"""The servers of the tests: which checkpoint each one serves, and how it is started."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from tests.common.cases import Reference
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


SETUPS: dict[str, Setup] = {
    "trained": Setup("trained"),
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

    def detokenize(self, token_ids: list[int]) -> str:
        """The text of token ids as the server's tokenizer writes it, special tokens included."""
        body = {"model": self.client.model, "tokens": token_ids}
        return str(self.client.post(body, path="/detokenize").json()["prompt"])
