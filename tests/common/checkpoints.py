"""The checkpoints that the tests serve, through either engine."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from nemotron_diffusion_plugin.tools.training.random_model import write_random_checkpoint
from tests.engines.server import CHECKOUT

TRAINED = CHECKOUT / "nemotron_diffusion_plugin" / "assets" / "tiny"

SAMPLING_DEFAULTS = {"top_p": 0.9, "top_k": 20}
"""What `generation_config.json` of the checkpoint "trained-with-defaults" says."""

RANDOM: dict[str, dict[str, Any]] = {
    "plain": {},
    "sharded": {
        "seed": 1,
        "shards": 3,
        "config": {
            "vocab_size": 1536,
            "hidden_size": 128,
            "num_attention_heads": 8,
            "num_key_value_heads": 2,
            "num_hidden_layers": 2,
            "rope_parameters": {"original_max_position_embeddings": 32, "factor": 32.0},
        },
    },
    "without-lora": {
        "seed": 2,
        "lora": False,
        "config": {
            "hidden_size": 80,
            "num_attention_heads": 3,
            "num_key_value_heads": 3,
            "num_hidden_layers": 2,
            "head_dim": 64,
            "rope_parameters": {"original_max_position_embeddings": 4096, "factor": 0.25},
        },
    },
    "one-layer": {"seed": 3, "config": {"num_hidden_layers": 1, "vocab_size": 512}},
}


def checkpoint_folder(name: str, folder: Path) -> Path:
    """The checkpoint's folder; random ones are written below `folder` on first use."""
    if name == "trained":
        return TRAINED
    path = folder / name
    if not path.exists() and name == "trained-with-defaults":
        shutil.copytree(TRAINED, path)
        config = json.loads((TRAINED / "generation_config.json").read_text())
        (path / "generation_config.json").write_text(json.dumps({**config, **SAMPLING_DEFAULTS}))
    elif not path.exists():
        write_random_checkpoint(path, **RANDOM[name])
    return path
