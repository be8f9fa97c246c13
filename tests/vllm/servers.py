"""The servers of the tests: which checkpoint each one serves, and how it is started."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nemotron_diffusion_plugin.checkpoint.random_model import write_random_checkpoint
from tests.engines.vllm.launch import CHECKOUT, Server
from tests.vllm.cases import Reference
from tests.vllm.client import Client

TRAINED = CHECKOUT / "nemotron_diffusion_plugin" / "assets" / "tiny"

RANDOM: dict[str, dict[str, Any]] = {
    "plain": {},
    "sharded": {
        "seed": 1,
        "shards": 3,
        "config": {
            "vocab_size": 1536,
            "hidden_size": 128,
            "num_attention_heads": 8,
            "num_key_value_heads": 2,
            "num_hidden_layers": 2,
            "rope_parameters": {"original_max_position_embeddings": 32, "factor": 32.0},
        },
    },
    "without-lora": {
        "seed": 2,
        "lora": False,
        "config": {
            "hidden_size": 80,
            "num_attention_heads": 3,
            "num_key_value_heads": 3,
            "num_hidden_layers": 2,
            "head_dim": 64,
            "rope_parameters": {"original_max_position_embeddings": 4096, "factor": 0.25},
        },
    },
    "one-layer": {"seed": 3, "config": {"num_hidden_layers": 1, "vocab_size": 512}},
}


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


def checkpoint_folder(name: str, folder: Path) -> Path:
    """The checkpoint's folder; random ones are written below `folder` on first use."""
    if name == "trained":
        return TRAINED
    path = folder / name
    if not path.exists():
        write_random_checkpoint(path, **RANDOM[name])
    return path
