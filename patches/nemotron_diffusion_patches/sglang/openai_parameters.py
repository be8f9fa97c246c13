"""`to_sampling_params` of the OpenAI requests: what the client asked for, told from the server's defaults."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nemotron_diffusion_patches import Description
from nemotron_diffusion_patches.sglang import HookPatch, around

_REASON = (
    "what reaches the tokenizer manager no longer says which values the client sent, and which are defaults of the "
    "checkpoint or a grammar that SGLang made of the tools"
)
_UPSTREAM = "the request, the checkpoint's defaults and the grammar of its tools become one dictionary"
_REMOVE_WHEN = "a plugin can validate an OpenAI request"

CHAT = Description(
    name="chat-parameters",
    targets=("sglang.srt.entrypoints.openai.protocol.ChatCompletionRequest.to_sampling_params",),
    reason=_REASON,
    upstream=_UPSTREAM,
    remove_when=_REMOVE_WHEN,
)
RESPONSES = Description(
    name="responses-parameters",
    targets=("sglang.srt.entrypoints.openai.protocol.ResponsesRequest.to_sampling_params",),
    reason=_REASON,
    upstream=_UPSTREAM,
    remove_when=_REMOVE_WHEN,
)


def patches(
    constrains: Callable[[Any, bool], bool], apply_defaults: Callable[[Any, dict[str, Any]], None]
) -> list[HookPatch]:
    """One patch for each kind of request.

    Args:
        constrains: `constrains(request, constrained)` says whether the grammar that SGLang made of the request's tools
            holds, if it is `constrained` by one; raises ValueError for a request that cannot be honoured.
        apply_defaults: `apply_defaults(request, parameters)` changes the sampling parameters in place.
    """

    def convert(
        original: Callable[..., Any],
        self: Any,
        *arguments: Any,
        tool_call_constraint: Any = None,
        **keywords: Any,
    ) -> Any:
        if not constrains(self, tool_call_constraint is not None):
            tool_call_constraint = None
        parameters = original(self, *arguments, tool_call_constraint=tool_call_constraint, **keywords)
        apply_defaults(self, parameters)
        return parameters

    def chat(*arguments: Any, **keywords: Any) -> Any:
        return convert(*arguments, **keywords)

    def responses(*arguments: Any, **keywords: Any) -> Any:
        return convert(*arguments, **keywords)

    return [around(CHAT, chat), around(RESPONSES, responses)]
