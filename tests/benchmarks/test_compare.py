"""What `make bench` asks for, and what it removes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.compare import METHODS, begin_anew, options
from nemotron_diffusion_plugin.tools.bench.data import open_source
from nemotron_diffusion_plugin.tools.bench.result import SCHEMA
from nemotron_diffusion_plugin.tools.training.tasks import CATEGORIES
from tests.engines.recipe import ENGINES


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("option", ["--requests", "--check"])
def test_every_category_is_timed_and_compared_equally_often(engine: str, option: str) -> None:
    chosen = options(engine, Path("out"), METHODS, gpu=False)
    asked = open_source("tiny", None, seed=0).mixed(0, int(chosen[chosen.index(option) + 1]))
    counts = {category: sum(p.category == category for p in asked) for category in CATEGORIES}
    assert len(set(counts.values())) == 1, counts
    assert min(counts.values()) >= 1


@pytest.mark.parametrize("gpu", [False, True])
@pytest.mark.parametrize("engine", ENGINES)
def test_servers_run_in_float32(engine: str, gpu: bool) -> None:
    [given] = [o for o in options(engine, Path("out"), METHODS, gpu) if o.startswith("--server-options=")]
    assert "--dtype float32" in given
    assert ("--attention-backend triton" in given) == (gpu and engine == "sglang")


@pytest.mark.parametrize("finished", [None, "2026-01-01 00:00 UTC"])
def test_only_the_result_of_a_finished_run_is_removed(tmp_path: Path, finished: str | None) -> None:
    path, other = tmp_path / "bench.json", tmp_path / "notes.md"
    path.write_text(json.dumps({"schema": SCHEMA, "finished": finished}))
    other.write_text("kept")
    begin_anew(path)
    assert path.exists() == (finished is None)
    assert other.read_text() == "kept"
