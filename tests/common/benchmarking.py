"""`nemotron-diffusion bench` against a running server of either engine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from nemotron_diffusion_plugin.tools.cli import app
from tests.common.checkpoints import TRAINED

METHODS = (
    "ar",
    "self_speculation",
    "self_speculation_without_lora",
    "diffusion@0.95",
    "diffusion@0.7",
    "diffusion@0.5",
)
PROMPTS = 5


def measured(engine: str, url: str, folder: Path) -> dict[str, Any]:
    """Measure a server of the trained model, compared with the reference decoder; return the content of the result."""
    options = ["--engine", engine, "--url", url, "--model", str(TRAINED), "--output", str(folder)]
    options += ["--methods", ",".join(METHODS), "--check", str(PROMPTS), "--categories", "code,copying,units"]
    options += ["--per-category", "1", "--concurrency", "2", "--requests", "3", "--repeats", "1"]
    result = CliRunner().invoke(app, ["bench", *options])
    assert result.exit_code == 0, result.output
    content: dict[str, Any] = json.loads((folder / "bench.json").read_text())
    return content


def check(content: dict[str, Any]) -> None:
    """Every mode was equal to the reference decoder in text, tokens and forwards, and every cell is there."""
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
