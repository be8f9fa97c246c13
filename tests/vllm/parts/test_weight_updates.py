"""Updates of weights in vLLM's worker: parts of a layer, and what an error leaves behind."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
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

from nemotron_diffusion_plugin.model.errors import CheckpointError
from nemotron_diffusion_plugin.serving.lora_files import Source
from nemotron_diffusion_plugin.vllm import weight_updates

pytestmark = pytest.mark.engine

CONFIG = SimpleNamespace(dtype=torch.float32)


def load_shard(param: torch.Tensor, loaded: torch.Tensor, shard: int) -> None:
    param.data[2 * shard : 2 * shard + 2].copy_(loaded)


class Loader:
    """A loader that notes from where it is asked to update."""

    def __init__(self, quantized: bool = False) -> None:
        self.quantized = quantized
        self.sources: list[Source] = []

    @contextmanager
    def update_from(self, source: Source) -> Iterator[None]:
        self.sources.append(source)
        if source.model == "/bad":
            raise CheckpointError("bad")
        yield


class Model(nn.Module):
    """Two layers of three parts each, filled with 1 and 2."""

    def __init__(self, loader: Loader) -> None:
        super().__init__()
        self.loader, self.source = loader, Source("/old", "abc", "/cache")
        self.layers = nn.ModuleList(nn.Module() for _ in range(2))
        for number, layer in enumerate(self.layers):
            layer.weight = nn.Parameter(torch.full((6, 2), number + 1.0), requires_grad=False)
            layer.weight.weight_loader = load_shard
        record_metadata_for_reloading(self)
        weight_updates.adopt(self)

    def load(self, layer: int, shard: int) -> None:
        weight: Any = self.layers[layer].weight
        weight.weight_loader(weight, torch.full((2, 2), 9.0), shard)

    def rows(self) -> list[list[float]]:
        return [layer.weight[::2, 0].tolist() for layer in self.layers]


@pytest.fixture
def model() -> Model:
    return Model(Loader())


def config(**values: Any) -> SimpleNamespace:
    return SimpleNamespace(**{"model": "/old", "model_weights": "", "revision": "abc", **values})


def run_reload(model: nn.Module, settings: Any, run: Callable[[], None], path: str | None = None) -> None:
    runner = SimpleNamespace(get_model=lambda: model, vllm_config=SimpleNamespace(model_config=settings))
    weight_updates._reload(runner, run, True, path)


def test_a_part_of_a_layer_keeps_the_rest(model: Model) -> None:
    places = [layer.weight.data_ptr() for layer in model.layers]
    initialize_layerwise_reload(model)
    model.load(0, 1)
    finalize_layerwise_reload(model, CONFIG)
    assert model.rows() == [[1.0, 9.0, 1.0], [2.0, 2.0, 2.0]]
    assert [layer.weight.data_ptr() for layer in model.layers] == places


def test_parts_that_come_one_after_the_other(model: Model) -> None:
    initialize_layerwise_reload(model)
    for shard in (2, 0, 1):
        model.load(1, shard)
    finalize_layerwise_reload(model, CONFIG)
    assert model.rows() == [[1.0, 1.0, 1.0], [9.0, 9.0, 9.0]]


def test_packed_weights_cannot_keep_the_rest(model: Model) -> None:
    """As where vLLM packs weights for a CPU and throws the originals away."""
    initialize_layerwise_reload(model)
    info = weight_updates.get_layerwise_info(model.layers[0])
    info.kernel_tensors[0]["weight"] = nn.Parameter(torch.empty(0), requires_grad=False)
    model.load(0, 1)
    with (
        pytest.raises(CheckpointError, match="got 4 of 12 values, expected all"),
        weight_updates._put_back(model, CONFIG),
    ):
        finalize_layerwise_reload(model, CONFIG)
    assert model.layers[0].weight.numel() == 0


def test_quantized_layers_and_other_models_are_left_to_vllm() -> None:
    seen: list[nn.Module] = [Model(Loader(quantized=True)).layers[0], nn.Linear(2, 2)]
    for layer in seen:
        weight_updates._keep_the_rest(layer, SimpleNamespace(kernel_tensors="never looked at"))


def test_after_an_error_layers_that_wait_get_their_weights_back(model: Model) -> None:
    places = [layer.weight.data_ptr() for layer in model.layers]
    engine = SimpleNamespace(model=model, model_config=CONFIG)
    initialize_layerwise_reload(model)
    for shard in range(3):
        model.load(0, shard)
    model.load(1, 0)
    with pytest.raises(OSError, match="lost"), weight_updates._whole(engine):
        raise OSError("lost")
    assert model.rows() == [[9.0, 9.0, 9.0], [2.0, 2.0, 2.0]], "what was done is not undone"
    assert [layer.weight.data_ptr() for layer in model.layers] == places
    initialize_layerwise_reload(model)
    model.load(1, 0)
    with weight_updates._whole(engine):
        finalize_layerwise_reload(model, CONFIG)
    assert model.rows() == [[9.0, 9.0, 9.0], [9.0, 2.0, 2.0]]


@pytest.mark.parametrize("engine", [None, SimpleNamespace(model=nn.Linear(2, 2))])
def test_other_transfers_are_left_alone(engine: Any) -> None:
    with pytest.raises(OSError, match="lost"), weight_updates._whole(engine):
        raise OSError("lost")


class TestReload:
    def test_where_from(self, model: Model) -> None:
        calls: list[int] = []
        run_reload(model, config(), lambda: calls.append(1))
        run_reload(model, config(), lambda: calls.append(2), "/new")
        run_reload(model, config(model_weights="s3://bucket"), lambda: calls.append(3))
        run_reload(nn.Linear(2, 2), config(), lambda: calls.append(4))
        assert calls == [1, 2, 3, 4]
        assert model.loader.sources == [Source("/old", "abc", "/cache"), Source("/new", None, "/cache")]

    def test_a_checkpoint_that_is_refused_is_not_begun(self, model: Model) -> None:
        with pytest.raises(CheckpointError, match="bad"):
            run_reload(model, config(), lambda: pytest.fail("begun"), "/bad")

    def test_after_an_error_the_configuration_is_what_it_was(self, model: Model) -> None:
        settings = config()

        def run() -> None:
            settings.model, settings.revision = "/new", None
            initialize_layerwise_reload(model)
            raise OSError("lost")

        with pytest.raises(OSError, match="lost"):
            run_reload(model, settings, run, "/new")
        assert settings == config()
        assert model.rows() == [[1.0, 1.0, 1.0], [2.0, 2.0, 2.0]]
