"""The counter board between two processes and what Prometheus sees of it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.multiprocess import MultiProcessCollector

from nemotron_diffusion_plugin.options import DecodingMode
from nemotron_diffusion_plugin.settings import ServerSettings
from nemotron_diffusion_plugin.vllm import board as board_module
from nemotron_diffusion_plugin.vllm.board import (
    PER_ENGINE,
    PER_MODE,
    BoardReader,
    CounterBoard,
    board_path,
    decision,
)
from nemotron_diffusion_plugin.vllm.front.metrics import ModeCollector, export


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(board_module.tempfile, "gettempdir", lambda: str(tmp_path))
    return _engine("abc", 0)


def test_reader_follows_the_writer(engine: Any) -> None:
    reader = BoardReader(engine)
    assert reader.value("cycles", DecodingMode.AR) == 0
    board = CounterBoard(board_path(engine))
    expected = {}
    for number, mode in enumerate(DecodingMode):
        for place, name in enumerate(PER_MODE):
            expected[name, mode] = 100 * number + place
            board.add(name, mode, expected[name, mode])
    for place, name in enumerate(PER_ENGINE):
        expected[name, None] = 1000 + place
        board.add(name, amount=1000 + place)
    assert {key: reader.value(*key) for key in expected} == expected
    board.add("cycles", DecodingMode.AR)
    assert reader.value("cycles", DecodingMode.AR) == expected["cycles", DecodingMode.AR] + 1
    board.close()
    assert not board.path.exists()


def test_several_api_servers_show_the_sum_over_the_engines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each has a configuration of its own; the page of each is made anew."""
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    monkeypatch.setattr(MultiProcessCollector, "collect", MultiProcessCollector.collect)  # to be restored
    boards = [CounterBoard(board_path(_engine(f"engine {rank}", rank))) for rank in range(2)]
    for board, amount in zip(boards, (3, 4), strict=True):
        board.add("cycles", DecodingMode.AR, amount)
    server = _engine("api server", 0)
    server.model_config = SimpleNamespace(served_model_name="m")
    export(server, ())
    labels = {"model_name": "m", "decoding_mode": "ar"}
    page = CollectorRegistry()
    MultiProcessCollector(page)
    assert page.get_sample_value("nemotron_diffusion:cycles_total", labels) == 7


def _engine(instance_id: str, rank: int) -> Any:
    parallel = SimpleNamespace(data_parallel_rank=rank, data_parallel_index=rank)
    return SimpleNamespace(instance_id=instance_id, parallel_config=parallel)


def test_a_new_writer_starts_at_zero(engine: Any) -> None:
    first = CounterBoard(board_path(engine))
    first.add("cycles", DecodingMode.AR, 5)
    CounterBoard(board_path(engine))
    assert BoardReader(engine).value("cycles", DecodingMode.AR) == 0


def test_only_the_owner_may_read_the_file(engine: Any) -> None:
    board = CounterBoard(board_path(engine))
    assert board.path.stat().st_mode & 0o777 == 0o600


def test_file_goes_with_the_process(tmp_path: Path) -> None:
    path = tmp_path / "engine.counters"
    program = (
        "import pathlib, sys; from nemotron_diffusion_plugin.vllm.board import CounterBoard;"
        f"b = CounterBoard(pathlib.Path({str(path)!r})); assert b.path.exists()"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=Path(__file__).parents[3])
    assert not path.exists()


def test_reader_removes_what_a_killed_engine_leaves(engine: Any) -> None:
    board = CounterBoard(board_path(engine))
    board.close.detach()
    reader = BoardReader(engine)
    assert board.path.exists()
    del reader
    assert not board.path.exists()


def test_collector_names_and_values(engine: Any) -> None:
    board = CounterBoard(board_path(engine))
    board.add("denoise_forwards", DecodingMode.DIFFUSION, 7)
    board.add("accepted_drafts", DecodingMode.SELF_SPECULATION, 9)
    board.add("bidirectional_forwards", amount=11)
    settings = ServerSettings.read(32, {"auto_block_sizes": [6, 12]})
    for length in (1, 2, 6, 6, 7, 12):
        board.add(decision(settings, length))
    families = list(ModeCollector(BoardReader(engine), "some model", settings.auto_blocks).collect())
    values = {
        (
            sample.name,
            *(value for name, value in sorted(sample.labels.items()) if name != "model_name"),
        ): sample.value
        for family in families
        for sample in family.samples
    }
    assert values["nemotron_diffusion:forwards_total", "diffusion", "denoise"] == 7
    assert values["nemotron_diffusion:accepted_drafts_total", "self_speculation"] == 9
    assert values["nemotron_diffusion:engine_forwards_total", "bidirectional"] == 11
    decisions = {key: value for key, value in values.items() if "policy_decisions" in key[0]}
    assert decisions == {
        ("nemotron_diffusion:policy_decisions_total", block): count
        for block, count in (("1", 1), ("6", 3), ("12", 2))
    }
    assert sum(values.values()) == 27 + 6
    assert all(
        sample.labels["model_name"] == "some model" for family in families for sample in family.samples
    )
