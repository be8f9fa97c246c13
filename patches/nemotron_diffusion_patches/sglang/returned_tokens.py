"""`SchedulerOutputStreamer.stream_output`: count the tokens that requests return, send no events without any."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nemotron_diffusion_patches import Description
from nemotron_diffusion_patches.sglang import HookPatch, around

ABOUT = Description(
    name="returned-tokens",
    targets=(
        "sglang.srt.managers.scheduler_components.output_streamer.SchedulerOutputStreamer.stream_output",
    ),
    reason="tokens per forward counts what clients get, after stop strings and limits; and a request that waits "
    "for its block would stream an event without a token at every step",
    upstream="SGLang tells a worker how many drafts were accepted, not how many tokens were returned, and streams "
    "every request of a step",
    remove_when="a worker hears of a request's returned tokens, and steps without a token stream nothing",
)


def patch(take_in: Callable[[list[Any]], list[Any]]) -> HookPatch:
    """`take_in(reqs)` gets the requests of a batch once their new tokens are known, and returns those to be sent."""

    def stream_output(
        original: Callable[..., Any], self: Any, reqs: Any, *arguments: Any, **keywords: Any
    ) -> Any:
        return original(self, take_in(list(reqs)), *arguments, **keywords)

    return around(ABOUT, stream_output)
