"""`layerwise.materialize_layer`: a layer of which an update brings a part keeps the rest."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nemotron_diffusion_patches import Description, Patch

_MARK = "_nemotron_diffusion_partial_layer"

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

    def install() -> None:
        import vllm.model_executor.model_loader.reload.layerwise as module

        original = module.materialize_layer

        def materialize_layer(layer: Any, info: Any) -> None:
            original(layer, info)
            made(layer, info)

        module.materialize_layer = materialize_layer
        setattr(module, _MARK, True)

    def is_applied() -> bool:
        import vllm.model_executor.model_loader.reload.layerwise as module

        return bool(getattr(module, _MARK, False))

    return Patch(ABOUT, install, is_applied)
