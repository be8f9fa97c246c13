"""What `nemotron-diffusion bench` counts is what the reference decoder needs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from nemotron_diffusion_plugin.tools.cli import app
from tests.common.checkpoints import TRAINED
from tests.served.running import Running
from tests.served.setups import ENGINE, VLLM, on

pytestmark = [pytest.mark.engine, on("trained")]

METHODS = (
    "ar",
    "self_speculation",
    "self_speculation_without_lora",
    "diffusion@0.95",
    "diffusion@0.7",
    "diffusion@0.5",
)
PROMPTS = 5


def measured(url: str, folder: Path) -> dict[str, Any]:
    """Measure a server of the trained model, compared with the reference decoder; return the content of the result."""
    options = ["--engine", ENGINE, "--url", url, "--model", str(TRAINED), "--output", str(folder)]
    options += ["--methods", ",".join(METHODS), "--check", str(PROMPTS), "--categories", "code,copying,units"]
    options += ["--per-category", "1", "--concurrency", "2", "--requests", "3", "--repeats", "1"]
    result = CliRunner().invoke(app, ["bench", *options])
    assert result.exit_code == 0, result.output
    content: dict[str, Any] = json.loads((folder / "bench.json").read_text())
    return content


def test_counts_equal_the_reference_decoder(running: Running, tmp_path: Path) -> None:
    """Every mode was equal to the reference decoder in text, tokens and forwards, and every cell is there."""
    content = measured(running.server.url, tmp_path)
    assert {name: check["prompts"] for name, check in content["checks"].items()} == dict.fromkeys(
        METHODS, PROMPTS
    )
    assert all(check["equal"] for check in content["checks"].values())
    for method in METHODS:
        cells = content["counts"][method]
        assert set(cells) == {"code", "copying", "units"}
        assert all(cell["requests"] == 1 and cell["tokens"] > 5 for cell in cells.values())
    tokens = {
        method: sum(cell["tokens"] for cell in content["counts"][method].values()) for method in METHODS[:3]
    }
    assert len(set(tokens.values())) == 1, "self-speculation gives the answers of AR"
    assert {load["method"] for load in content["loads"]} == set(METHODS)
    assert all(load["tokens"] > 15 and min(load["first"]) > 0 for load in content["loads"])
    if VLLM:
        return  # it does not tell which places of a draft were accepted
    drafting = content["counts"]["self_speculation"]["units"]
    assert drafting["by_position"][0] <= drafting["cycles"]
    assert sum(drafting["by_position"]) == drafting["accepted"]
