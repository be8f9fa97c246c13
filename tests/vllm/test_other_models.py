"""With the plugin installed, a model that is not ours is served as without it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tests.vllm.inside.run import run

pytestmark = pytest.mark.engine

CPU_PLUGIN = "triton_on_cpu"
OUR_PLUGIN = "nemotron_diffusion"


def test_llama_is_served_as_without_the_plugin(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=300,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=256,
        initializer_range=0.4,
    )
    LlamaForCausalLM(config).save_pretrained(tmp_path)
    without = run("other_model", tmp_path, VLLM_PLUGINS=CPU_PLUGIN)
    beside = run("other_model", tmp_path, VLLM_PLUGINS=f"{CPU_PLUGIN},{OUR_PLUGIN}")
    assert without.pop("ours") == []
    assert "nemotron_diffusion_plugin.vllm.registration" in beside.pop("ours")
    assert beside == without
    assert len({tuple(tokens) for tokens in beside["tokens"]}) == len(beside["tokens"])
    assert beside["speculative"] == beside["speculator"] == "None"
