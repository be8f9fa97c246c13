"""A small checkpoint."""

from __future__ import annotations

from pathlib import Path

import pytest

from nemotron_diffusion_plugin.tools.training.random_model import write_random_checkpoint


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    sizes = {"num_hidden_layers": 2, "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 2}
    write_random_checkpoint(tmp_path, config=sizes)
    return tmp_path
