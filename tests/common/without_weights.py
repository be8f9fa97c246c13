"""`benchmarks/real_size.py` through a real engine: a checkpoint without weights, and acceptance that is made up."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from benchmarks import real_size

LENGTH = real_size.SELF_SPECULATION_LENGTH
TOKENS = 96


def measure(engine: str, options: str, folder: Path) -> None:
    """Run the script in its small form, and look at what it counted."""
    arguments = ["--engine", engine, "--small", "--methods", "ar,self_speculation", "--concurrency", "2"]
    arguments += ["--repeats", "1", "--requests", "4", "--max-tokens", str(TOKENS), "--output", str(folder)]
    arguments += ["--launcher", f"{sys.executable} -m tests.engines.{engine}.launch serve"]
    log = folder / "modes.log"
    status = real_size.main([*arguments, f"--server-options={options}"])
    assert status == 0, log.read_text(errors="replace")[-3000:]
    assert "drafter LoRA of random values: r=128" in log.read_text(errors="replace")
    result = json.loads((folder / "bench.json").read_text())
    assert {load["method"]: load["tokens"] for load in result["loads"]} == dict.fromkeys(
        ("ar", "self_speculation"), 4 * TOKENS
    )
    [cells] = [result["counts"]["self_speculation"]["all"]]
    assert abs(1 + cells["accepted"] / cells["cycles"] - LENGTH) < 0.5
    assert cells["forwards"]["draft"] == cells["cycles"]
    assert "| self-speculation | 2 | 6.82 |" in (folder / "report.md").read_text()
