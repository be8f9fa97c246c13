"""The checkpoints that the tests serve, through either engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nemotron_diffusion_plugin.tools.training.random_model import write_random_checkpoint
from tests.engines.server import CHECKOUT

TRAINED = CHECKOUT / "nemotron_diffusion_plugin" / "assets" / "tiny"

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
    if not path.exists():
        write_random_checkpoint(path, **RANDOM[name])
    return path
