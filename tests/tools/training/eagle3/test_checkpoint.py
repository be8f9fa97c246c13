"""A head's folder: names and fields the engines look for, and the same head read back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from nemotron_diffusion_plugin.tools.training.eagle3.checkpoint import load_head, save_head
from tests.tools.training.eagle3.toy import random_head, small_target

NAMES = {
    "fc.weight": (48, 144),
    "lm_head.weight": (1024, 48),
    "norm.weight": (48,),
    "midlayer.hidden_norm.weight": (48,),
    "midlayer.input_layernorm.weight": (48,),
    "midlayer.post_attention_layernorm.weight": (48,),
    "midlayer.self_attn.q_proj.weight": (64, 96),
    "midlayer.self_attn.k_proj.weight": (32, 96),
    "midlayer.self_attn.v_proj.weight": (32, 96),
    "midlayer.self_attn.o_proj.weight": (48, 64),
    "midlayer.mlp.gate_proj.weight": (64, 48),
    "midlayer.mlp.up_proj.weight": (64, 48),
    "midlayer.mlp.down_proj.weight": (48, 64),
}


def test_names_and_shapes_are_those_of_published_heads(tmp_path: Path) -> None:
    save_head(tmp_path, random_head(small_target()))
    tensors = load_file(tmp_path / "model.safetensors")
    assert {name: tuple(tensor.shape) for name, tensor in tensors.items()} == NAMES
    assert {tensor.dtype for tensor in tensors.values()} == {torch.bfloat16}


def test_each_engine_finds_the_layers_it_keeps(tmp_path: Path) -> None:
    """vLLM's field names the layers by their inputs, SGLang's by the outputs before them."""
    save_head(tmp_path, random_head(small_target()))
    fields = json.loads((tmp_path / "config.json").read_text())
    assert fields["architectures"] == ["LlamaForCausalLMEagle3"]
    assert fields["eagle_aux_hidden_state_layer_ids"] == [1, 2, 3]
    assert fields["eagle_config"]["eagle_aux_hidden_state_layer_ids"] == [0, 1, 2]
    assert (fields["draft_vocab_size"], fields["num_hidden_layers"]) == (1024, 1)


def test_a_head_is_read_back(tmp_path: Path) -> None:
    head = random_head(small_target())
    save_head(tmp_path, head, torch.float32)
    read = load_head(tmp_path)
    assert read.config == head.config
    for (name, a), b in zip(head.named_parameters(), read.parameters(), strict=True):
        assert torch.equal(a, b), name


def test_another_models_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"]}))
    with pytest.raises(ValueError, match=r"got architectures \['LlamaForCausalLM'\], expected"):
        load_head(tmp_path)


def test_weights_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    save_head(tmp_path, random_head(small_target()))
    file = tmp_path / "model.safetensors"
    save_file({name: t for name, t in load_file(file).items() if name != "fc.weight"}, file)
    with pytest.raises(ValueError, match=r"(?s)does not fit its config\.json.*fc\.weight"):
        load_head(tmp_path)
