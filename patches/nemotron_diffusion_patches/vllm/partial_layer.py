"""`layerwise.materialize_layer`: a layer of which an update brings a part keeps the rest."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nemotron_diffusion_patches import Description, Patch
from nemotron_diffusion_patches.vllm import around

ABOUT = Description(
    name="partial-layer",
    targets=("vllm.model_executor.model_loader.reload.layerwise.materialize_layer",),
    reason="an update that brings q without k and v, or one of the two halves of the MLP, would leave whatever the "
    "memory holds in the other rows",
    upstream="a layer is loaded into new memory, of which everything is copied over the old values",
    remove_when="vLLM copies only what was loaded",
    process="worker",
)


def patch(made: Callable[[Any, Any], None]) -> Patch:
    """`made(layer, info)` is called when a layer has its new memory; `info` says what vLLM will load into it."""

    def materialize_layer(original: Callable[..., None], layer: Any, info: Any) -> None:
        original(layer, info)
        made(layer, info)

    return around(ABOUT, materialize_layer)
