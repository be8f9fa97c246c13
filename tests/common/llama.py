"""A small Llama of random weights: a model that is not ours."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM


def write_llama(folder: Path) -> LlamaForCausalLM:
    """The model, whose checkpoint has been written to `folder`."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=300,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=256,
        initializer_range=0.4,
    )
    model = LlamaForCausalLM(config).eval()
    model.save_pretrained(folder)
    return model
