"""`get_prometheus_registry`: the page of several API servers shows a plugin's collector too."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nemotron_diffusion_patches import Description, Patch

_MARK = "_nemotron_diffusion_metrics_registry"

ABOUT = Description(
    name="metrics-registry",
    targets=("vllm.entrypoints.serve.instrumentator.metrics.get_prometheus_registry",),
    reason="with several API servers a collector in the global registry is not on the `/metrics` page",
    upstream="the page's registry is made anew, and collects the files of prometheus_client's multiprocess mode only",
    remove_when="a plugin can add a collector to the page's registry",
    process="API server",
)


def patch(collector: Callable[[], Any]) -> Patch:
    """`collector()` is registered in each registry that is made for a page."""

    def install() -> None:
        module = _module()
        original = module.get_prometheus_registry
        if getattr(original, _MARK, False):
            return

        def get_prometheus_registry() -> Any:
            registry = original()
            registry.register(collector())
            return registry

        setattr(get_prometheus_registry, _MARK, True)
        module.get_prometheus_registry = get_prometheus_registry

    def is_applied() -> bool:
        return getattr(_module().get_prometheus_registry, _MARK, False)

    return Patch(ABOUT, install, is_applied)


def _module() -> Any:
    from vllm.entrypoints.serve.instrumentator import metrics

    return metrics
