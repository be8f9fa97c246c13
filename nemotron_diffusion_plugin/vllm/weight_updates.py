"""Updates of weights in a worker: checked first, whole or not at all, the drafter LoRA with them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any
from weakref import WeakSet

from torch import nn
from vllm.model_executor.model_loader.reload.layerwise import finalize_layerwise_reload, get_layerwise_info

from nemotron_diffusion_patches import Patch
from nemotron_diffusion_patches.vllm import partial_layer, reload_weights, weight_transfer
from nemotron_diffusion_plugin.model.errors import CheckpointError
from nemotron_diffusion_plugin.serving.lora_files import Source
from nemotron_diffusion_plugin.serving.weights import CheckpointLoader

_models: WeakSet[nn.Module] = WeakSet()
_layers: WeakSet[nn.Module] = WeakSet()
"""The layers whose values are the checkpoint's, not quantized."""


def worker_patches() -> list[Patch]:
    """The patches that a worker with our model needs."""
    return [
        reload_weights.patch(_reload),
        weight_transfer.patch(lambda worker: _whole(worker.weight_transfer_engine)),
        partial_layer.patch(_keep_the_rest),
    ]


def adopt(model: nn.Module) -> None:
    """Let updates of a new model's weights come by here; it has a `loader` and the `source` of its weights."""
    _models.add(model)
    if not model.loader.quantized:
        _layers.update(model.modules())
    for patch in worker_patches():
        patch.apply()


def _reload(runner: Any, run: Callable[[], None], is_from_disk: bool, path: str | None) -> None:
    model = runner.get_model()
    if model not in _models:
        run()
        return
    config = runner.vllm_config.model_config
    with _kept(config, "model", "model_weights", "revision"), _put_back(model, config):
        if is_from_disk and (path or not config.model_weights):  # else they are in an object store
            loader: CheckpointLoader = model.loader
            with loader.update_from(
                model.source if path is None else Source(path, None, model.source.cache_dir)
            ):
                run()
        else:
            run()


def _whole(engine: Any) -> AbstractContextManager[None]:
    """Around a call of a transfer engine (None where there is none), which may be for the weights of a drafter."""
    if engine is None or engine.model not in _models:
        return nullcontext()
    return _put_back(engine.model, engine.model_config)


@contextmanager
def _kept(owner: Any, *names: str) -> Iterator[None]:
    """After an error the attributes are what they were."""
    before = {name: getattr(owner, name) for name in names}
    try:
        yield
    except BaseException:
        for name, value in before.items():
            setattr(owner, name, value)
        raise


@contextmanager
def _put_back(model: nn.Module, model_config: Any) -> Iterator[None]:
    """After an error the layers that wait for tensors get their old ones back; layers that are done stay new."""
    try:
        yield
    except BaseException:
        for layer in model.modules():
            info = get_layerwise_info(layer)
            info.load_numel = 0
            info.loaded_weights.clear()
        finalize_layerwise_reload(model, model_config)
        raise


def _keep_the_rest(layer: nn.Module, info: Any) -> None:
    if layer not in _layers or info.kernel_tensors is None or info.load_numel >= info.load_numel_total:
        return
    for name, old in info.kernel_tensors[0].items():
        new = getattr(layer, name)
        if new.shape != old.shape:
            raise CheckpointError(
                f"{getattr(layer, 'prefix', type(layer).__name__)}: got {info.load_numel} of {info.load_numel_total} "
                "values, expected all: vLLM keeps its weights packed on this device, and cannot replace a part of them"
            )
        new.data.copy_(old.data)
