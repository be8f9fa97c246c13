"""A very small target with random weights, and a head for it."""

from __future__ import annotations

import torch

from nemotron_diffusion_plugin.model.config import NemotronLabsDiffusionConfig
from nemotron_diffusion_plugin.reference.model import ReferenceModel
from nemotron_diffusion_plugin.tools.training.base import initialize
from nemotron_diffusion_plugin.tools.training.eagle3.head import Eagle3Head, HeadConfig
from nemotron_diffusion_plugin.tools.training.eagle3.recipe import Settings
from nemotron_diffusion_plugin.tools.training.geometry import tiny_config

SIZES = {"hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 4, "num_attention_heads": 2}
SETTINGS = Settings(
    steps=8,
    draft_steps=3,
    layers=(1, 2, 3),
    intermediate_size=64,
    num_attention_heads=2,
    num_key_value_heads=1,
    tokens_per_batch=512,
)


def small_target(seed: int = 0) -> ReferenceModel:
    config = NemotronLabsDiffusionConfig(**{**tiny_config(), **SIZES, "num_key_value_heads": 1})
    model = ReferenceModel(config)
    initialize(model, seed)
    return model.eval().requires_grad_(False)


def random_head(model: ReferenceModel, seed: int = 0) -> Eagle3Head:
    """A head whose drafts depend on everything it reads."""
    torch.manual_seed(seed)
    config = HeadConfig(
        hidden_size=model.config.hidden_size,
        vocab_size=model.config.vocab_size,
        intermediate_size=64,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=256,
        layers=(1, 2, 3),
    )
    head = Eagle3Head(config)
    with torch.no_grad():
        for parameter in head.parameters():
            if parameter.dim() == 2:
                parameter.mul_(3.0)
    return head.eval().requires_grad_(False)
