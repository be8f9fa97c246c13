"""The servers of the tests: which checkpoint each one serves, and how it is started."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.common.auto import AR_IN_COMPANY, ON_A_GPU
from tests.common.cases import Case
from tests.common.eagle3 import DEPTH, HEAD
from tests.engines.vllm.launch import Server
from tests.served import running
from tests.served.client import Answer
from tests.served.endpoint import VLLM
from tests.served.metrics import Metrics
from tests.vllm.client import Client
from tests.vllm.inside import file_transfer

__all__ = ["SETUPS", "Client", "Running", "Server", "Setup"]


@dataclass(frozen=True)
class Setup:
    """How a server is started.

    Attributes:
        context: the longest prompt and answer together, in tokens.
        asynchronous: whether steps are scheduled ahead.
        cuts_blocks: whether the token budget of a step holds fewer than two blocks.
        changes_weights: whether the server has the endpoints of updates and `tests.vllm.inside.file_transfer`.
    """

    checkpoint: str
    context: int = 512
    options: tuple[str, ...] = ()
    defaults: dict[str, Any] = field(default_factory=dict)
    asynchronous: bool = False
    cuts_blocks: bool = False
    changes_weights: bool = False

    page_size = 32
    answer_reserve = 0
    """Positions of the context that no answer gets."""

    @property
    def ahead(self) -> bool:
        return self.asynchronous

    @property
    def reference_defaults(self) -> dict[str, Any]:
        return self.defaults

    def variables_in(self, folder: Path) -> dict[str, str]:
        """A CPU schedules synchronously unless it is told to keep what a GPU does."""
        scheduling = {"VLLM_CPU_ASYNC_SCHEDULING": "1"} if self.asynchronous else {}
        if not self.changes_weights:
            return scheduling
        path = os.environ.get("PYTHONPATH", "")
        return {**scheduling, "VLLM_SERVER_DEV_MODE": "1", **file_transfer.variables(folder, path)}

    @property
    def command_line(self) -> tuple[str, ...]:
        scheduling = "--async-scheduling" if self.asynchronous else "--no-async-scheduling"
        config = ("--additional-config", json.dumps(self.defaults)) if self.defaults else ()
        transfer = ("--weight-transfer-config", json.dumps({"backend": file_transfer.NAME}))
        weights = transfer if self.changes_weights else ()
        return ("--max-model-len", str(self.context), scheduling, *self.options, *config, *weights)


STRUCTURED = (
    *("--enable-auto-tool-choice", "--tool-call-parser", "hermes"),
    # The template thinks only when asked to, and so must the parser.
    *("--reasoning-parser", "deepseek_v3"),
    *("--reasoning-config", '{"reasoning_start_str": "<think>", "reasoning_end_str": "</think>"}'),
    # A small model would fill JSON with blanks for ever.
    *("--structured-outputs-config.backend", "xgrammar"),
    *("--structured-outputs-config.disable_any_whitespace", "true"),
)

PAGES = ("--block-size", "32")
SETUPS: dict[str, Setup] = {
    "trained": Setup("trained", options=STRUCTURED, defaults=ON_A_GPU),
    # Blocks as large as an engine's pages, so that prefixes are found at every 32 tokens.
    "paged": Setup("sharded", options=(*PAGES, "--enable-scale-out")),
    # Too few pages for 16 requests, and a budget that cuts prompts and, with more than one request, blocks; diffusion
    # for who names no mode.
    "pool": Setup(
        "without-lora",
        options=(*PAGES, "--num-gpu-blocks-override", "40", "--max-num-batched-tokens", "40"),
        asynchronous=True,
        cuts_blocks=True,
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
    "auto": Setup(
        "trained-with-defaults",
        options=STRUCTURED,
        asynchronous=True,
        changes_weights=True,
        defaults=AR_IN_COMPANY,
    ),
    # In the long lane only: no weights at first, other weights, each limit alone, our kernels, two API servers, a
    # compiled model.
    "dummy": Setup("trained", options=("--load-format", "dummy"), changes_weights=True),
    "plain": Setup("plain", options=(*PAGES, "--enable-scale-out")),
    "budget": Setup("sharded", options=("--max-num-batched-tokens", "40"), cuts_blocks=True),
    "small-pool": Setup(
        "without-lora",
        options=(*PAGES, "--num-gpu-blocks-override", "40"),
        asynchronous=True,
        defaults={"decoding_mode": "diffusion", "threshold": 0.6, "block_size": 16},
    ),
    "kernels": Setup(
        "one-layer",
        context=64,
        options=("--attention-backend", "CUSTOM", "--no-enable-prefix-caching"),
        defaults={"kernels": "triton", "forward_costs": "arithmetic"},
    ),
    "several": Setup("one-layer", context=256, options=("--api-server-count", "2")),
    "compiled": Setup("one-layer", context=256, options=("--no-enforce-eager",)),
}


class Running(running.Running[Client]):
    """A server of vLLM."""

    options_field = VLLM

    def idle(self) -> bool:
        names = ("vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc")
        metrics = self.client.settled(lambda metrics: metrics.total(names[-1]) == 0)
        return not any(metrics.total(name) for name in names)

    def was_interrupted(self, before: Metrics, after: Metrics) -> bool:
        name = "vllm:num_preemptions_total"
        return after.total(name) > before.total(name)

    def complete_with_hits(self, case: Case, **fields: Any) -> tuple[Answer, int]:
        name = "vllm:prefix_cache_hits_total"
        before = self.client.settled().total(name)
        answer = self.client.complete(case, **fields)
        return answer, int(self.client.settled().total(name) - before)

    def is_known_error(self, path: str, content: bytes) -> bool:
        return False

    def detokenize(self, token_ids: list[int]) -> str:
        body = {"model": self.client.model, "tokens": token_ids}
        return str(self.client.post(body, path="/detokenize").json()["prompt"])
