"""The names of a checkpoint's tensors on their way into SGLang's Llama, and what is said when they do not match."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
import torch
from torch import nn

pytest.importorskip("sglang")

from sglang.srt.models.llama import LlamaForCausalLM

from nemotron_diffusion_plugin.model.config import NemotronLabsDiffusionConfig
from nemotron_diffusion_plugin.model.errors import CheckpointError
from nemotron_diffusion_plugin.model.names import expected_shapes
from nemotron_diffusion_plugin.sglang.models import nemotron_labs_diffusion as module
from nemotron_diffusion_plugin.sglang.models.nemotron_labs_diffusion import NemotronLabsDiffusionModel
from nemotron_diffusion_plugin.tools.training.random_model import write_random_checkpoint

pytestmark = pytest.mark.engine

Weights = Iterable[tuple[str, torch.Tensor]]
SIZES = {"num_hidden_layers": 2, "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 2}


class Llama:
    """SGLang's loader, which keeps the names it is given."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.error: Exception | None = None
        self.loras = 0

    def load_weights(self, weights: Weights) -> set[str]:
        for name, _ in weights:
            self.names.append(name)
            if self.error is not None:
                raise self.error
        return set(self.names)


@pytest.fixture
def llama(monkeypatch: pytest.MonkeyPatch) -> Llama:
    made = Llama()
    monkeypatch.setattr(LlamaForCausalLM, "load_weights", lambda self, weights: made.load_weights(weights))
    monkeypatch.setattr(module, "find_drafter_lora", lambda *arguments, **keywords: None)
    monkeypatch.setattr(
        NemotronLabsDiffusionModel,
        "_load_drafter_lora",
        lambda self: setattr(made, "loras", made.loras + 1),
    )
    return made


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> NemotronLabsDiffusionConfig:
    folder = tmp_path_factory.mktemp("checkpoint")
    write_random_checkpoint(folder, config=SIZES)
    return NemotronLabsDiffusionConfig.from_pretrained(folder)


@pytest.fixture
def model(llama: Llama, config: NemotronLabsDiffusionConfig) -> Any:
    made: Any = NemotronLabsDiffusionModel.__new__(NemotronLabsDiffusionModel)
    nn.Module.__init__(made)
    made.config, made.quant_config = config, None
    return made


def weights(model: Any, without: str = "", also: str = "") -> Weights:
    names = [name for name in expected_shapes(model.config) if not without or without not in name]
    return [(name, torch.zeros(1)) for name in [*names, *([also] if also else [])]]


def test_published_names_become_sglangs(model: Any, llama: Llama) -> None:
    model.load_weights(weights(model))
    assert len(llama.names) == len(set(llama.names)) == len(expected_shapes(model.config))
    layers = [f"model.layers.{layer}." for layer in range(model.config.num_hidden_layers)]
    assert all(
        name.startswith((*layers, "model.embed_tokens.", "model.norm.", "lm_head.")) for name in llama.names
    )
    assert {"model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"} <= set(llama.names)
    assert "model.layers.1.self_attn.q_proj.weight" in llama.names


def test_only_the_beginning_of_a_name_is_replaced() -> None:
    one = torch.zeros(1)
    renamed = module._renamed([("encoder.encoder.x", one), ("a.diffusion_head.b", one), ("lm_head.c", one)])
    assert [name for name, _ in renamed] == ["model.encoder.x", "a.diffusion_head.b", "lm_head.c"]


@pytest.mark.parametrize(
    ("without", "also", "named"),
    [
        ("layers.1.mlp.up_proj", "", "encoder.layers.1.mlp.up_proj.weight"),
        ("", "encoder.layers.7.mlp.up_proj.weight", "encoder.layers.7.mlp.up_proj.weight"),
    ],
)
def test_names_that_do_not_match(without: str, also: str, named: str, model: Any) -> None:
    with pytest.raises(CheckpointError, match=named):
        model.load_weights(weights(model, without, also))


@pytest.mark.parametrize("kind", [AssertionError, KeyError, RuntimeError, ValueError])
def test_a_failure_inside_sglang_is_explained_by_the_names(kind: Any, model: Any, llama: Llama) -> None:
    llama.error = kind("no such parameter")
    with pytest.raises(CheckpointError, match=r"encoder\.layers\.7\.extra"):
        model.load_weights(weights(model, also="encoder.layers.7.extra"))
    with pytest.raises(kind, match="no such parameter"):
        model.load_weights(weights(model))


def test_values_are_checked(model: Any) -> None:
    bad = [(name, torch.full((1,), float("nan"))) for name, _ in weights(model)]
    with pytest.raises(CheckpointError, match="holds NaN or infinite values"):
        model.load_weights(bad)


def test_quantized_checkpoints_have_names_of_their_own(model: Any) -> None:
    model.quant_config = object()
    model.load_weights(weights(model, also="encoder.layers.0.mlp.up_proj.weight_scale"))


class TestUpdates:
    """SGLang's updates of weights bring a few tensors at a time, once a checkpoint has been loaded."""

    def test_some_tensors(self, model: Any, llama: Llama) -> None:
        model.load_weights(weights(model))
        model.load_weights([("encoder.norm.weight", torch.zeros(1))])
        assert llama.names[-1] == "model.norm.weight"
        assert llama.loras == 1

    def test_a_load_that_failed_was_none(self, model: Any, llama: Llama) -> None:
        for _ in range(2):
            with pytest.raises(CheckpointError, match=r"encoder\.norm\.weight"):
                model.load_weights(weights(model, "encoder.norm"))
        assert llama.loras == 0
        model.load_weights(weights(model))
        assert llama.loras == 1

    def test_values_are_still_checked(self, model: Any) -> None:
        model.load_weights(weights(model))
        with pytest.raises(CheckpointError, match="holds NaN or infinite values"):
            model.load_weights([("encoder.norm.weight", torch.full((1,), torch.inf))])

    def test_what_sglang_says_comes_through(self, model: Any, llama: Llama) -> None:
        model.load_weights(weights(model))
        llama.error = KeyError("no such parameter")
        with pytest.raises(KeyError, match="no such parameter"):
            model.load_weights([("encoder.nothing", torch.zeros(1))])
