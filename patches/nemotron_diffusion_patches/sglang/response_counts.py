"""`SchedulerOutputStreamer.build_additional_customized_info`: counts of requests that asked go into their meta_info."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nemotron_diffusion_patches import Description
from nemotron_diffusion_patches.sglang import HookPatch, around

Build = Callable[[list[Any]], "dict[str, list[Any]]"]

ABOUT = Description(
    name="response-counts",
    targets=(
        "sglang.srt.managers.scheduler_components.output_streamer.SchedulerOutputStreamer."
        "build_additional_customized_info",
    ),
    reason="a worker's numbers about a whole request can reach its response only through a subclass of the "
    "scheduler's output streamer, which cannot be chosen",
    upstream="the streamer's class is fixed",
    remove_when="a plugin can name the streamer's class, or add to a request's meta_info",
)

ABOUT_META_INFO = Description(
    name="meta-info",
    targets=("sglang.srt.managers.tokenizer_manager.TokenizerManager.update_request_meta_info",),
    reason="what one request of a batch adds to its meta_info is added to all of them, empty",
    upstream="additions to meta_info are columns over the requests of a batch",
    remove_when="an addition can be left out for a request",
)


def patch(build: Build) -> HookPatch:
    """`build(reqs)` returns a list for each of the requests that are sent, by the key of `meta_info`."""

    def build_additional_customized_info(
        original: Callable[..., dict[str, list[Any]]], self: Any, reqs: list[Any]
    ) -> dict[str, list[Any]]:
        return {**original(self, reqs), **build(reqs)}

    return around(ABOUT, build_additional_customized_info)


def patch_meta_info(key: str) -> HookPatch:
    """Requests that did not ask get no empty list under `key`, though one did whose output came along."""

    def update_request_meta_info(
        original: Callable[..., None],
        self: Any,
        meta_info: dict[str, Any],
        state: Any,
        customized_info: dict[str, list[Any]],
        index: int,
        finish_reason: Any,
    ) -> None:
        if key in customized_info and not customized_info[key][index]:
            customized_info = {name: values for name, values in customized_info.items() if name != key}
        original(self, meta_info, state, customized_info, index, finish_reason)

    return around(ABOUT_META_INFO, update_request_meta_info)


def enable() -> None:
    """Make SGLang ask in this process; called in the scheduler's, once the worker is ours."""
    from sglang.srt.managers.scheduler_components.output_streamer import SchedulerOutputStreamer

    SchedulerOutputStreamer.has_additional_customized_info = True
