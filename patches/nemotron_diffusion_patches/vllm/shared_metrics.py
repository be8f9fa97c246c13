"""`MultiProcessCollector.collect`: the page of several API servers shows a plugin's collector too."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from nemotron_diffusion_patches import Description, Patch
from nemotron_diffusion_patches.vllm import around

ABOUT = Description(
    name="shared-metrics",
    targets=("prometheus_client.multiprocess.MultiProcessCollector.collect",),
    reason="with several API servers a collector in the global registry is not on the `/metrics` page",
    upstream="for every page a registry is made anew, with this collector of prometheus_client's files alone",
    remove_when="a plugin can add a collector to the page",
    process="API server",
)


def patch(collector: Callable[[], Any]) -> Patch:
    """What `collector()` collects is shown after the rest of the page."""

    def collect(original: Callable[..., Iterable[Any]], self: Any) -> Iterable[Any]:
        return [*original(self), *collector().collect()]

    return around(ABOUT, collect)
