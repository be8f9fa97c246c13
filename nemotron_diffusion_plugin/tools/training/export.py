"""Writing trained weights as a checkpoint folder of the published format."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from nemotron_diffusion_plugin.model.lora import DrafterLora
from nemotron_diffusion_plugin.reference.model import ReferenceModel
from nemotron_diffusion_plugin.tools.training.geometry import tiny_config
from nemotron_diffusion_plugin.tools.training.random_model import write_tensors


def export(folder: Path, model: ReferenceModel, lora: DrafterLora | None = None) -> None:
    """Write config, bfloat16 weights and adapter beside the tokenizer (docs/model.md, 1.1 and 1.3)."""
    content = json.dumps(tiny_config(), indent=2) + "\n"
    (folder / "config.json").write_text(content, encoding="utf-8")
    write_tensors(folder, {name: p.detach() for name, p in model.state_dict().items()}, dtype=torch.bfloat16)
    if lora is not None:
        lora.save(folder, torch.bfloat16)
