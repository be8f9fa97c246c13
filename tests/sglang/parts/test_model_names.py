"""How SGLang's model class loads: what it gives to SGLang's Llama, and where the drafter LoRA goes."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

pytest.importorskip("sglang")

from sglang.srt.models.llama import LlamaForCausalLM

from nemotron_diffusion_plugin.model.names import expected_shapes
from nemotron_diffusion_plugin.model.reader import read_config
from nemotron_diffusion_plugin.model.spec import ARCHITECTURES, SPECS
from nemotron_diffusion_plugin.serving import weights
from nemotron_diffusion_plugin.serving.draft_lora import LowRankBranch
from nemotron_diffusion_plugin.serving.lora_files import Source
from nemotron_diffusion_plugin.serving.weights import Weights
from nemotron_diffusion_plugin.sglang.models import nemotron_labs_diffusion as module
from nemotron_diffusion_plugin.sglang.models.nemotron_labs_diffusion import NemotronLabsDiffusionModel
from nemotron_diffusion_plugin.sglang.registration import MODELS
from nemotron_diffusion_plugin.tools.training.random_model import write_random_checkpoint

pytestmark = pytest.mark.engine

SIZES = {"num_hidden_layers": 2, "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 2}


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names that SGLang's Llama is given."""
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
def arguments(folder: Path, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    made = SimpleNamespace(
        model_path=str(folder),
        revision="abc",
        download_dir="/cache",
        load_format="safetensors",
        device="cpu",
    )
    parallel = SimpleNamespace(tp_rank=1, tp_size=2)
    monkeypatch.setattr(module, "get_server_args", lambda: made)
    monkeypatch.setattr(module, "get_parallel", lambda: parallel)
    return made


@pytest.fixture
def model(arguments: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Our class around two branches, without SGLang's layers."""

    def build(self: Any, config: Any, quant_config: Any = None, prefix: str = "") -> None:
        nn.Module.__init__(self)
        self.config, self.quant_config = config, quant_config
        self.model = nn.Module()
        self.model.layers = nn.ModuleList()
        self.model.norm = nn.LayerNorm(4, dtype=torch.bfloat16)
        self.branches = nn.ModuleList(LowRankBranch(layer) for layer in range(2))

    monkeypatch.setattr(LlamaForCausalLM, "__init__", build)
    monkeypatch.setattr("nemotron_diffusion_plugin.sglang.registration.check_in_place", lambda: None)
    return NemotronLabsDiffusionModel(read_config(arguments.model_path))


def published(model: Any) -> Weights:
    return [(name, torch.zeros(1)) for name in expected_shapes(model.config)]


def test_published_names_become_sglangs(model: Any, taken: list[str]) -> None:
    assert model.load_weights(published(model)) == set(taken)
    assert len(taken) == len(set(taken)) == len(expected_shapes(model.config))
    layers = [f"model.layers.{layer}." for layer in range(model.config.num_hidden_layers)]
    assert all(name.startswith((*layers, "model.embed_tokens.", "model.norm.", "lm_head.")) for name in taken)
    assert {"model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"} <= set(taken)


def test_every_layer_gets_this_ranks_part_of_the_adapter(model: Any, taken: list[str]) -> None:
    model.load_weights(published(model))
    for branch in model.branches:
        assert (branch.a.dtype, branch.b.dtype) == (torch.bfloat16, torch.bfloat16)
        assert branch.a.shape == (8, 32), "half of the 2 heads of 32"
        assert (branch.shard.rank, branch.shard.ranks) == (1, 2)
        assert branch.shard.all_reduce is module.tensor_model_parallel_all_reduce


def test_the_adapter_is_looked_for_where_the_weights_are(
    arguments: SimpleNamespace, model: Any, taken: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sources: list[Source] = []
    monkeypatch.setattr(weights, "find_drafter_lora", lambda source, *_: sources.append(source))
    arguments.model_path = "owner/other"
    model.load_weights(published(model))
    assert sources == [Source("owner/other", "abc", "/cache")]


def test_rows_of_a_tensor_by_its_published_name(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """With heads that are wider than `hidden_size / num_attention_heads`."""
    rows = torch.arange(160.0)[:, None].expand(160, 2).to(torch.bfloat16)
    qkv = SimpleNamespace(weight=rows)
    del model.model.layers
    model.model.layers = [SimpleNamespace(self_attn=SimpleNamespace(q_size=96, kv_size=32, qkv_proj=qkv))]
    asked: list[Any] = []
    monkeypatch.setattr(LlamaForCausalLM, "get_weights_by_name", lambda self, *asks: asked.append(asks))
    for part, first in (("q", 0), ("k", 96), ("v", 128)):
        for prefix in ("encoder", "model"):
            name = f"{prefix}.layers.0.self_attn.{part}_proj.weight"
            assert model.get_weights_by_name(name, 2) == [[first] * 2, [first + 1.0] * 2]
    assert asked == []
    model.get_weights_by_name("encoder.norm.weight", 5)
    model.get_weights_by_name("encoder.layers.1.self_attn.k_proj.weight")
    assert asked == [("model.norm.weight", 5, 1), ("model.layers.1.self_attn.k_proj.weight", 100, 1)]


def test_a_quantized_checkpoint_has_names_of_its_own(arguments: Any, model: Any, taken: list[str]) -> None:
    quantized = NemotronLabsDiffusionModel(model.config, quant_config=object())
    quantized.load_weights([("encoder.norm.weight_scale", torch.zeros(1))])
    assert taken == ["model.norm.weight_scale"]


@pytest.mark.parametrize(("load_format", "drawn"), [("dummy", True), ("safetensors", False)])
def test_after_loading_without_weights(
    load_format: str, drawn: bool, arguments: SimpleNamespace, model: Any, taken: list[str]
) -> None:
    arguments.load_format = load_format
    model.post_load_weights()
    assert all(branch.loaded is drawn for branch in model.branches)


def test_every_architecture_has_a_class() -> None:
    from sglang.srt.models.registry import import_model_classes

    classes = import_model_classes(MODELS, strict=True)
    assert set(classes) == set(ARCHITECTURES)
    for spec in SPECS:
        assert hasattr(classes[spec.architecture], "get_image_feature") is spec.takes_images
