"""`SchedulerOutputStreamer.stream_output`: count the tokens that requests return."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nemotron_diffusion_patches.sglang import HookPatch, around


def patch(count: Callable[[list[Any]], None]) -> HookPatch:
    """`count(reqs)` is called with the requests of a batch once their new tokens are known and trimmed."""

    def stream_output(
        original: Callable[..., Any], self: Any, reqs: Any, *arguments: Any, **keywords: Any
    ) -> Any:
        count(list(reqs))
        return original(self, reqs, *arguments, **keywords)

    return around(
        "sglang.srt.managers.scheduler_components.output_streamer.SchedulerOutputStreamer.stream_output",
        stream_output,
        name="returned-tokens",
        reason="tokens per forward counts what clients get, after stop strings and limits",
        upstream="SGLang tells a worker how many drafts were accepted, not how many tokens were returned",
        remove_when="a worker hears of a request's returned tokens",
    )
