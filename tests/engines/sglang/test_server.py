"""A real SGLang server of a small Llama: its tokens are those of Transformers, and nothing outlives it.

The plugin is installed beside it, and leaves a model that is not ours alone.
"""

from __future__ import annotations

import json
import os
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.common.llama import write_llama
from tests.engines.sglang.launch import Server

pytestmark = pytest.mark.engine
PROMPTS = [[(n * k) % 290 + 3 for k in range(1, 4 + 9 * n)] for n in range(1, 7)]


def answers(server: Server, prompts: list[list[int]], tokens: int) -> list[list[int]]:
    parameters: dict[str, Any] = {"temperature": 0, "max_new_tokens": tokens, "ignore_eos": True}
    parameters["custom_params"] = {"decoding_mode": "none of ours"}
    body = json.dumps({"input_ids": prompts, "sampling_params": parameters}).encode()
    request = urllib.request.Request(f"{server.url}/generate", body, {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return [list(each["output_ids"]) for each in json.load(answer)]


def get(server: Server, path: str) -> Any:
    with urllib.request.urlopen(f"{server.url}{path}", timeout=30) as answer:
        return answer.read().decode()


def processes_of(group: int) -> list[str]:
    """Return the processes of a process group that have not ended."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, process_group = status.read_text().rpartition(")")[2].split()[:3]
        except OSError:
            continue
        if int(process_group) == group and state != "Z":
            found.append(status.parent.name)
    return found


def test_a_small_llama(tmp_path: Path) -> None:
    model = write_llama(tmp_path / "model")
    options = ("--skip-tokenizer-init", "--context-length", "256", "--chunked-prefill-size", "32")
    with Server(tmp_path / "model", *options, log=tmp_path / "log") as server:
        group = os.getpgid(server._process.pid) if server._process else 0
        assert len(processes_of(group)) >= 3
        together = answers(server, PROMPTS, 8)
        assert together == [answers(server, [prompt], 8)[0] for prompt in PROMPTS]
        assert json.loads(get(server, "/v1/models"))["data"][0]["owned_by"] == "sglang"
        assert "sglang:prompt_tokens_total" in get(server, "/metrics")
        assert "nemotron_diffusion" not in get(server, "/metrics")
        assert json.loads(get(server, "/server_info"))["speculative_algorithm"] is None
    assert processes_of(group) == []
    for prompt, tokens in zip(PROMPTS, together, strict=True):
        with torch.no_grad():
            logits = model(torch.tensor([prompt + tokens])).logits[0]
        assert logits[len(prompt) - 1 : -1].argmax(-1).tolist() == tokens
