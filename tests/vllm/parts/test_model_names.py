"""How vLLM's model class loads: what it gives to vLLM's Llama, and where the drafter LoRA goes."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

pytest.importorskip("vllm")

from vllm.model_executor.model_loader.reload.layerwise import (
    finalize_layerwise_reload,
    initialize_layerwise_reload,
    record_metadata_for_reloading,
)
from vllm.model_executor.models.interfaces import supports_multimodal
from vllm.model_executor.models.llama import LlamaForCausalLM
from vllm.model_executor.models.registry import ModelRegistry

from nemotron_diffusion_plugin.model.names import expected_shapes
from nemotron_diffusion_plugin.model.reader import read_config
from nemotron_diffusion_plugin.model.spec import ARCHITECTURES, SPECS, TEXT
from nemotron_diffusion_plugin.serving import weights
from nemotron_diffusion_plugin.serving.draft_lora import LowRankBranch
from nemotron_diffusion_plugin.serving.lora_files import Source
from nemotron_diffusion_plugin.serving.weights import Weights
from nemotron_diffusion_plugin.tools.training.random_model import write_random_checkpoint
from nemotron_diffusion_plugin.vllm import model as module
from nemotron_diffusion_plugin.vllm.model import NemotronLabsDiffusionForCausalLM
from nemotron_diffusion_plugin.vllm.registration import MODEL_CLASSES, register_all

pytestmark = pytest.mark.engine

SIZES = {"num_hidden_layers": 2, "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 2}


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names that vLLM's Llama is given."""
    names: list[str] = []

    def load_weights(self: Any, weights: Weights) -> set[str]:
        names.extend(name for name, _ in weights)
        return set(names)

    monkeypatch.setattr(LlamaForCausalLM, "load_weights", load_weights)
    return names


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("checkpoint")
    write_random_checkpoint(made, config=SIZES)
    return made


@pytest.fixture
def vllm_config(folder: Path, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """What the class reads of vLLM's configuration, on the second of two ranks; vLLM's layers are two branches."""

    def build(self: Any, *, vllm_config: Any, prefix: str, layer_type: type) -> None:
        nn.Module.__init__(self)
        self.config = vllm_config.model_config.hf_config
        self.model = nn.Module()
        self.model.norm = nn.LayerNorm(4, dtype=torch.bfloat16)
        self.branches = nn.ModuleList(LowRankBranch(layer) for layer in range(2))

    monkeypatch.setattr(LlamaForCausalLM, "__init__", build)
    monkeypatch.setattr(module, "server_settings", lambda config: SimpleNamespace(kernels="torch"))
    monkeypatch.setattr(module, "get_tensor_model_parallel_rank", lambda: 1)
    monkeypatch.setattr(module, "get_tensor_model_parallel_world_size", lambda: 2)
    return SimpleNamespace(
        model_config=SimpleNamespace(model=str(folder), revision="abc", hf_config=read_config(folder)),
        load_config=SimpleNamespace(load_format="safetensors", download_dir="/cache"),
        device_config=SimpleNamespace(device_type="cpu"),
        quant_config=None,
    )


def build(vllm_config: Any) -> Any:
    return NemotronLabsDiffusionForCausalLM(vllm_config=vllm_config)


def published(model: Any) -> Weights:
    return [(name, torch.zeros(1)) for name in expected_shapes(model.config)]


def test_published_names_become_vllms(vllm_config: Any, taken: list[str]) -> None:
    model = build(vllm_config)
    assert model.load_weights(published(model)) == set(taken)
    assert len(taken) == len(set(taken)) == len(expected_shapes(model.config))
    mapper = model.hf_to_vllm_mapper
    assert taken == [mapper.map_name(name) for name, _ in published(model)], (
        "one mapping for layers and tensors"
    )


def test_every_layer_gets_this_ranks_part_of_the_adapter(vllm_config: Any, taken: list[str]) -> None:
    model = build(vllm_config)
    model.load_weights(published(model))
    for branch in model.branches:
        assert (branch.a.dtype, branch.b.dtype) == (torch.bfloat16, torch.bfloat16)
        assert branch.a.shape == (8, 32), "half of the 2 heads of 32"
        assert (branch.shard.rank, branch.shard.ranks) == (1, 2)
        assert branch.shard.all_reduce is module.tensor_model_parallel_all_reduce


def test_the_adapter_is_looked_for_where_the_weights_are(
    vllm_config: Any, taken: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sources: list[Source] = []
    monkeypatch.setattr(weights, "find_drafter_lora", lambda source, *_: sources.append(source))
    model = build(vllm_config)
    vllm_config.model_config.model = "owner/other"  # as a reload with another path sets it
    model.load_weights(published(model))
    assert sources == [Source("owner/other", "abc", "/cache")]


@pytest.mark.parametrize("count", [3, None], ids=["some", "all"])
def test_an_update_of_weights_keeps_the_adapter(
    count: int | None, vllm_config: Any, taken: list[str]
) -> None:
    """vLLM takes a model's tensors away before an update, and puts back those that it did not bring."""
    model = build(vllm_config)
    record_metadata_for_reloading(model)
    model.load_weights(published(model))
    before = [(branch.a, branch.b) for branch in model.branches]
    initialize_layerwise_reload(model)
    assert not any(hasattr(branch, "a") for branch in model.branches)
    model.load_weights(
        [(name, torch.zeros(shape)) for name, shape in list(expected_shapes(model.config).items())[:count]]
    )
    finalize_layerwise_reload(model, vllm_config.model_config)
    for branch, (a, b) in zip(model.branches, before, strict=True):
        assert branch.a is a
        assert branch.b is b


def test_halves_of_the_adapter_come_in_an_update(vllm_config: Any, taken: list[str]) -> None:
    """This rank's columns of A, written while vLLM has the buffers, in place."""
    model = build(vllm_config)
    model.load_weights(published(model))
    a, b = model.branches[1].a, model.branches[1].b
    initialize_layerwise_reload(model)
    half = (torch.arange(8 * 64.0) % 200).reshape(8, 64)
    model.load_weights([(TEXT.lora_name(1, "A"), half), (TEXT.lora_name(1, "B"), torch.ones(32, 8))])
    finalize_layerwise_reload(model, vllm_config.model_config)
    assert model.branches[1].a is a
    assert model.branches[1].b is b
    assert torch.equal(a.float(), half[:, 32:])
    assert torch.equal(b, torch.full_like(b, 4.0))
    assert set(model.branches[1]._buffers) == {"a", "b"}, "what sleeps is saved and comes back"


def test_a_quantized_checkpoint_has_names_of_its_own(vllm_config: Any, taken: list[str]) -> None:
    vllm_config.quant_config = object()
    build(vllm_config).load_weights([("encoder.norm.weight_scale", torch.zeros(1))])
    assert taken == ["model.norm.weight_scale"]


@pytest.mark.parametrize(("load_format", "drawn"), [("dummy", True), ("safetensors", False)])
def test_without_weights_the_adapter_is_drawn(load_format: str, drawn: bool, vllm_config: Any) -> None:
    vllm_config.load_config.load_format = load_format
    assert all(branch.loaded is drawn for branch in build(vllm_config).branches)


def test_every_architecture_has_a_class() -> None:
    register_all()
    assert set(MODEL_CLASSES) == set(ARCHITECTURES)
    for spec in SPECS:
        model_class = ModelRegistry.models[spec.architecture].load_model_cls()
        assert supports_multimodal(model_class) is spec.takes_images
