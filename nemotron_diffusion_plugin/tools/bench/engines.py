"""What differs between the engines: how a server is started for each kind of method, and what a request says."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from nemotron_diffusion_plugin.settings import SYNTHETIC_ACCEPTANCE
from nemotron_diffusion_plugin.tools.bench.methods import Method, ServerKind
from nemotron_diffusion_plugin.tools.bench.setup import Setup
from nemotron_diffusion_plugin.tools.client.served_model import REQUEST_FIELDS

ENGINES = tuple(REQUEST_FIELDS)
VLLM_REPORTS_ACCEPTANCE = ("--per-request-spec-decode-metrics", "summary")
"""vLLM's option without which its answers do not say how many drafts were accepted."""


@dataclass(frozen=True)
class Engine:
    """One inference engine.

    Attributes:
        launcher: the command before the model's name.
        always: options every server of a benchmark gets: no prompt is answered from a cache, acceptance is reported.
    """

    name: str
    launcher: tuple[str, ...]
    always: tuple[str, ...]

    def command(self, kind: ServerKind, setup: Setup, port: int) -> list[str]:
        """Return the command line of a server; the setup's options come last and so win."""
        program = shlex.split(setup.launcher) if setup.launcher else list(self.launcher)
        speculation = _SPECULATION[self.name](kind, setup)
        dummy = ["--load-format", "dummy"] if setup.synthetic else []
        more = shlex.split(setup.server_options)
        return [*program, setup.model, "--port", str(port), *self.always, *dummy, *speculation, *more]

    def variables(self, kind: ServerKind, setup: Setup) -> dict[str, str]:
        """Return the environment variables that a server needs on top."""
        if self.name == "sglang" and kind is ServerKind.EAGLE3 and kind.value in setup.synthetic:
            length = str(setup.synthetic[kind.value])
            return {"SGLANG_SIMULATE_ACC_LEN": length, "SGLANG_SIMULATE_ACC_METHOD": "match-expected"}
        return {}

    def body(
        self, method: Method, model: str, messages: Sequence[dict[str, str]], setup: Setup
    ) -> dict[str, Any]:
        """Return a greedy chat request."""
        body: dict[str, Any] = {
            "model": model,
            "messages": list(messages),
            "max_tokens": setup.max_tokens,
            "temperature": 0,
        }
        if method.options:
            body[REQUEST_FIELDS[self.name]] = method.options
        if setup.ignore_eos:  # special tokens too, so that every event has text
            body |= {"ignore_eos": True, "skip_special_tokens": False}
        if self.name == "sglang":
            body["return_spec_tokens_details"] = True
        return body


def find_engine(name: str) -> Engine:
    """Return an engine by its name; raises `ValueError` for another one."""
    if name not in _ENGINES:
        raise ValueError(f"--engine: got '{name}', expected one of {', '.join(ENGINES)}")
    return _ENGINES[name]


def acceptance_histogram(reply: dict[str, Any]) -> list[int]:
    """Return how many verify forwards of a request accepted 0, 1, 2 … drafts, as its engine reports them."""
    speculative = ((reply.get("metrics") or {}).get("speculative_decoding") or {}).get("acceptance_histogram")
    details = (reply.get("sglext") or {}).get("spec_tokens_details") or {}
    found = speculative or details.get("spec_correct_drafts_histogram") or []
    return [int(count) for count in found]


def _vllm_speculation(kind: ServerKind, setup: Setup) -> list[str]:
    synthetic = setup.synthetic.get(kind.value)
    if kind is ServerKind.MODES:
        settings = {SYNTHETIC_ACCEPTANCE: synthetic}
        return ["--additional-config", json.dumps(settings)] if synthetic is not None else []
    config: dict[str, Any]
    if kind is ServerKind.NGRAM:
        config = {"method": "ngram", "prompt_lookup_min": 2, "prompt_lookup_max": 4}
        config["num_speculative_tokens"] = setup.ngram_drafts
    else:
        config = {"method": "eagle3", "model": setup.eagle3, "num_speculative_tokens": setup.eagle3_drafts}
    if synthetic is not None:
        config |= {"rejection_sample_method": "synthetic", "synthetic_acceptance_length": synthetic}
    return ["--speculative-config", json.dumps(config)]


def _sglang_speculation(kind: ServerKind, setup: Setup) -> list[str]:
    if kind is ServerKind.MODES:
        synthetic = setup.synthetic.get(kind.value)
        settings = {SYNTHETIC_ACCEPTANCE: synthetic}
        return ["--decoding-options", json.dumps(settings)] if synthetic is not None else []
    if kind is ServerKind.NGRAM:
        return [
            "--speculative-algorithm",
            "NGRAM",
            "--speculative-num-draft-tokens",
            str(setup.ngram_drafts + 1),
        ]
    return [
        *("--speculative-algorithm", "EAGLE3", "--speculative-draft-model-path", str(setup.eagle3)),
        *("--speculative-num-steps", str(setup.eagle3_drafts), "--speculative-eagle-topk", "1"),
        *("--speculative-num-draft-tokens", str(setup.eagle3_drafts + 1)),
    ]


_SPECULATION = {"vllm": _vllm_speculation, "sglang": _sglang_speculation}
_ENGINES = {
    "vllm": Engine(
        "vllm",
        ("vllm", "serve"),
        ("--no-enable-prefix-caching", *VLLM_REPORTS_ACCEPTANCE),
    ),
    "sglang": Engine(
        "sglang",
        ("python", "-m", "sglang.launch_server", "--model-path"),
        ("--disable-radix-cache", "--enable-metrics", "--sleep-on-idle"),
    ),
}
