"""Where the drafter LoRA is looked for, and what is logged about it."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

import pytest

from nemotron_diffusion_plugin.model.reader import read_config
from nemotron_diffusion_plugin.serving.lora_files import Source, dummy_drafter_lora, find_drafter_lora


def test_beside_a_local_checkpoint(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "nemotron_diffusion_plugin"):
        lora = find_drafter_lora(Source(str(folder)), read_config(folder))
    assert lora is not None
    assert lora.rank == 8
    assert caplog.messages == ["drafter LoRA loaded: r=8, alpha=32"]


def test_a_base_model_has_none(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    shutil.rmtree(folder / "linear_spec_lora")
    engines = logging.getLogger("some.engine")
    with caplog.at_level(logging.INFO, engines.name):
        assert find_drafter_lora(Source(str(folder)), read_config(folder), engines) is None
    assert [record.name for record in caplog.records] == ["some.engine"]
    assert "drafts with the base weights" in caplog.text


def test_in_a_hub_repository(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def snapshot_download(model: str, **arguments: Any) -> str:
        asked.append((model, arguments))
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    lora = find_drafter_lora(Source("owner/model", "abc", "/cache"), read_config(folder))
    assert lora is not None
    arguments = {"revision": "abc", "cache_dir": "/cache", "allow_patterns": ["linear_spec_lora/*"]}
    assert asked == [("owner/model", arguments)]


def test_without_weights_it_is_drawn_by_its_configuration(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source, config = Source(str(folder)), read_config(folder)
    stored = find_drafter_lora(source, config)
    (folder / "linear_spec_lora" / "adapter_model.safetensors").unlink()
    engines = logging.getLogger("some.engine")
    with caplog.at_level(logging.INFO, engines.name):
        lora = dummy_drafter_lora(source, config, engines)
    assert caplog.messages[-1] == "drafter LoRA of random values: r=8"
    assert lora is not None
    assert stored is not None
    assert (lora.rank, lora.alpha) == (stored.rank, stored.alpha)
    assert [a.shape for a in lora.a] == [a.shape for a in stored.a]
    for weight in (*lora.a, *lora.b):
        assert weight.isfinite().all()
        assert weight.unique().numel() > 100
    shutil.rmtree(folder / "linear_spec_lora")
    assert dummy_drafter_lora(source, config) is None
