"""A small checkpoint."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from nemotron_diffusion_plugin.tools.training.random_model import write_random_checkpoint


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    sizes = {"num_hidden_layers": 2, "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 2}
    write_random_checkpoint(folder, config=sizes)
    return folder


@pytest.fixture
def folder(checkpoint: Path, tmp_path: Path) -> Path:
    """A copy of the checkpoint, to change."""
    return shutil.copytree(checkpoint, tmp_path / "checkpoint")
