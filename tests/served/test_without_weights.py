"""A server without weights: the cost of a step can be measured, with the drafter LoRA; and a trainer may send them."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from benchmarks import real_size
from tests.common.checkpoints import TRAINED
from tests.common.damage import WEIGHTS
from tests.served import updates
from tests.served.running import Running
from tests.served.setups import ENGINE, on
from tests.served.test_weight_updates import check_every_mode

pytestmark = [pytest.mark.engine, pytest.mark.long]

LENGTH = real_size.SELF_SPECULATION_LENGTH
TOKENS = 96
OPTIONS = {"vllm": "--max-model-len 512 --kv-cache-memory-bytes 128M", "sglang": "--context-length 512"}


def test_the_script_for_real_sizes(tmp_path: Path) -> None:
    """In its small form; acceptance is what it was told to make up."""
    arguments = ["--engine", ENGINE, "--small", "--methods", "ar,self_speculation", "--concurrency", "2"]
    arguments += ["--repeats", "1", "--requests", "4", "--max-tokens", str(TOKENS), "--output", str(tmp_path)]
    arguments += ["--launcher", f"{sys.executable} -m tests.engines.{ENGINE}.launch serve"]
    log = tmp_path / "modes.log"
    status = real_size.main([*arguments, f"--server-options={OPTIONS[ENGINE]}"])
    assert status == 0, log.read_text(errors="replace")[-3000:]
    assert "drafter LoRA of random values: r=128" in log.read_text(errors="replace")
    result = json.loads((tmp_path / "bench.json").read_text())
    assert {load["method"]: load["tokens"] for load in result["loads"]} == dict.fromkeys(
        ("ar", "self_speculation"), 4 * TOKENS
    )
    [cells] = [result["counts"]["self_speculation"]["all"]]
    assert abs(1 + cells["accepted"] / cells["cycles"] - LENGTH) < 0.5
    assert cells["forwards"]["draft"] == cells["cycles"]
    assert "| self-speculation | 2 | 6.82 |" in (tmp_path / "report.md").read_text()


@on("dummy")
def test_all_weights_are_sent(running: Running) -> None:
    """In buckets; the drafter LoRA, which is not among them, is the stored one."""
    tensors = list(load_file(TRAINED / WEIGHTS).items())
    buckets = [tensors[at : at + 20] for at in range(0, len(tensors), 20)]
    reply = updates.of(running).from_tensors(*buckets)
    assert reply.status_code == 200, reply.text
    check_every_mode(running)
