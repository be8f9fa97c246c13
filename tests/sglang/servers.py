"""The servers of the tests: which checkpoint each one serves, and how it is started."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.common.auto import AR_IN_COMPANY, ON_A_GPU
from tests.common.cases import Case
from tests.common.eagle3 import DEPTH, HEAD
from tests.engines.sglang.launch import Server
from tests.served import running
from tests.served.client import Answer
from tests.served.endpoint import CHAT, SGLANG
from tests.served.metrics import Metrics
from tests.sglang.client import Client
from tests.sglang.inside import forward_log

__all__ = ["SETUPS", "Client", "Running", "Server", "Setup"]

ALWAYS = {
    # The scheduler looks for lost KV slots whenever nothing runs, and ends with the server when it finds one.
    "SGLANG_ENABLE_STRICT_MEM_CHECK_DURING_IDLE": "1",
    # SGLang would compile the repetition penalty for a quarter of a minute.
    "TORCHDYNAMO_DISABLE": "1",
}
INTERPRETED = {"TRITON_INTERPRET": "1"}
"""Also where KV is handed out in pages, by a Triton kernel."""


@dataclass(frozen=True)
class Setup:
    """How a server is started.

    Attributes:
        context: the longest prompt and answer together, in tokens.
        environment_defaults: the server's decoding options, by environment instead of by flag.
        page_size: tokens of a page of the KV pool.
        chunk: tokens of a prompt that one step takes in, 0 for all.
        logs_forwards: whether `tests.sglang.inside.forward_log` is loaded.
        overlap: whether steps are scheduled ahead.
        retracts: whether requests are retracted, which drafts a block again and so changes the counters.
    """

    checkpoint: str
    context: int = 512
    options: tuple[str, ...] = ()
    defaults: dict[str, Any] = field(default_factory=dict)
    environment_defaults: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    page_size: int = 1
    chunk: int = 0
    logs_forwards: bool = False
    overlap: bool = True
    retracts: bool = False

    cuts_blocks = False
    answer_reserve = 2
    """Positions of the context that no answer gets: SGLang keeps them for itself."""

    @property
    def ahead(self) -> bool:
        return self.overlap

    @property
    def reference_defaults(self) -> dict[str, Any]:
        return self.defaults or self.environment_defaults

    def variables_in(self, folder: Path) -> dict[str, str]:
        defaults = self.environment_defaults
        named = {"NEMOTRON_DIFFUSION_OPTIONS": json.dumps(defaults)} if defaults else {}
        path = os.environ.get("PYTHONPATH", "")
        log = forward_log.variables(folder, path) if self.logs_forwards else {}
        return {**ALWAYS, **named, **self.environment, **log}

    @property
    def command_line(self) -> tuple[str, ...]:
        flag = ("--decoding-options", json.dumps(self.defaults)) if self.defaults else ()
        return (
            *("--context-length", str(self.context), "--page-size", str(self.page_size)),
            *(("--chunked-prefill-size", str(self.chunk)) if self.chunk else ()),
            *(() if self.overlap else ("--disable-overlap-schedule",)),
            *(*self.options, *flag),
        )


SETUPS: dict[str, Setup] = {
    "trained": Setup(
        "trained",
        options=(
            "--constrained-json-disable-any-whitespace",  # a small model would fill JSON with blanks for ever
            *("--tool-call-parser", "hermes"),
            *("--reasoning-parser", "mimo"),  # the template thinks only when asked to, and so must the parser
        ),
        defaults=ON_A_GPU,
        logs_forwards=True,
    ),
    # Every request has a grammar, which counts what it thinks; and defaults that a request need not name.
    "thinking": Setup(
        "trained-with-defaults",
        options=(
            *("--tool-call-parser", "hermes"),
            *("--reasoning-parser", "mimo", "--enable-strict-thinking"),
            *("--preferred-sampling-params", '{"min_p": 0.01}'),
        ),
        defaults=ON_A_GPU,
    ),
    # No step is scheduled ahead, prompts are cut, and KV is handed out in pages.
    "paged": Setup(
        "sharded",
        page_size=32,
        chunk=32,
        overlap=False,
        environment_defaults={"decoding_mode": "ar", "block_size": 16},
        environment=INTERPRETED,
    ),
    # Too little KV for 16 requests, and one of them retracted in every 25th step; diffusion for who names no mode.
    "pool": Setup(
        "without-lora",
        options=("--max-total-tokens", "700"),
        defaults={"decoding_mode": "diffusion", "threshold": 0.6, "block_size": 16},
        environment={
            "SGLANG_TEST_RETRACT": "1",
            "SGLANG_TEST_RETRACT_INTERVAL": "25",
            "SGLANG_CLIP_MAX_NEW_TOKENS_ESTIMATION": "30",  # requests are admitted that will not fit
        },
        retracts=True,
    ),
    # SGLang's own speculator beside our model as its target.
    "eagle3": Setup(
        "trained",
        options=(
            *("--speculative-algorithm", "EAGLE3", "--speculative-draft-model-path", str(HEAD)),
            *("--speculative-num-steps", str(DEPTH), "--speculative-eagle-topk", "1"),
            *("--speculative-num-draft-tokens", str(DEPTH + 1)),
        ),
    ),
    "ngram": Setup(
        "trained",
        options=("--speculative-algorithm", "NGRAM", "--speculative-num-draft-tokens", str(DEPTH + 1)),
    ),
    "auto": Setup("trained", defaults=AR_IN_COMPANY),
    # In the long lane only: no weights at first, other weights, pages and cut prompts each alone, our kernels, another
    # attention backend.
    "dummy": Setup("trained", options=("--load-format", "dummy")),
    "plain": Setup(
        "plain",
        page_size=32,
        environment_defaults={"decoding_mode": "ar", "block_size": 16},
        environment=INTERPRETED,
    ),
    "sync": Setup("sharded", chunk=16, overlap=False),
    "kernels": Setup(
        "one-layer",
        context=64,
        page_size=16,
        options=("--attention-backend", "nemotron_block", "--max-total-tokens", "512"),
        environment=INTERPRETED,
        defaults={"kernels": "triton"},
    ),
    "triton": Setup(
        "one-layer",
        context=64,
        options=("--attention-backend", "triton", "--max-total-tokens", "512", "--disable-radix-cache"),
        environment=INTERPRETED,
        defaults=ON_A_GPU,
    ),
}


def has_bad_regex(fields: Any) -> bool:
    """Whether `stop_regex` of a body or of its sampling parameters holds an expression that does not compile."""
    given = fields.get("stop_regex") if isinstance(fields, dict) else None
    for expression in given if isinstance(given, list) else [given]:
        try:
            if isinstance(expression, str):
                re.compile(expression)
        except re.error:
            return True
    return False


class Running(running.Running[Client]):
    """A server of SGLang."""

    options_field = SGLANG

    def idle(self) -> bool:
        """SGLang's memory check ends a server that lost KV."""
        return self.client.empty_cache(60.0) and self.server.is_running()

    def was_interrupted(self, before: Metrics, after: Metrics) -> bool:
        return bool(self.setup.retracts)

    def complete_with_hits(self, case: Case, **fields: Any) -> tuple[Answer, int]:
        answer = self.client.complete(case, **fields)
        return answer, int(answer.raw["cached_tokens"])

    def is_known_error(self, path: str, content: bytes) -> bool:
        body = json.loads(content)
        if not isinstance(body, dict):
            return path == CHAT
        chat_format = path == CHAT and not isinstance(body.get("response_format") or {}, dict)
        embeds = path == "/generate" and body.get("input_embeds") in ([], [[]])
        return chat_format or embeds or has_bad_regex(body) or has_bad_regex(body.get("sampling_params"))

    def detokenize(self, token_ids: list[int]) -> str:
        body = {"model": self.client.model, "tokens": token_ids, "skip_special_tokens": False}
        return str(self.client.post(body, path="/detokenize").json()["text"])

    @property
    def forward_log(self) -> Path:
        return self.folder / forward_log.FILE

    def retractions(self, why: str) -> int:
        """How many retractions the log tells of: "KV cache pool is full" or "Testing retraction"."""
        return self.server.log.read_text(errors="replace").count(why)
