"""`SchedulerOutputStreamer.build_additional_customized_info`: counts of requests that asked go into their meta_info."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nemotron_diffusion_patches.sglang import HookPatch, around

Build = Callable[[list[Any]], "dict[str, list[Any]]"]


def patch(build: Build) -> HookPatch:
    """`build(reqs)` returns a list for each of the requests that are sent, by the key of `meta_info`."""

    def build_additional_customized_info(
        original: Callable[..., dict[str, list[Any]]], self: Any, reqs: list[Any]
    ) -> dict[str, list[Any]]:
        return {**original(self, reqs), **build(reqs)}

    return around(
        "sglang.srt.managers.scheduler_components.output_streamer.SchedulerOutputStreamer."
        "build_additional_customized_info",
        build_additional_customized_info,
        name="response-counts",
        reason="a worker's numbers about a whole request can reach its response only through a subclass of the "
        "scheduler's output streamer, which cannot be chosen",
        upstream="the streamer's class is fixed",
        remove_when="a plugin can name the streamer's class, or add to a request's meta_info",
    )


def enable() -> None:
    """Make SGLang ask in this process; called in the scheduler's, once the worker is ours."""
    from sglang.srt.managers.scheduler_components.output_streamer import SchedulerOutputStreamer

    SchedulerOutputStreamer.has_additional_customized_info = True
