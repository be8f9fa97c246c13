"""`to_sampling_params` of the OpenAI requests: what the client asked for, told from the server's defaults."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nemotron_diffusion_patches import Description
from nemotron_diffusion_patches.sglang import HookPatch, around


def _about(kind: str, request: str) -> Description:
    return Description(
        name=f"{kind}-parameters",
        targets=(f"sglang.srt.entrypoints.openai.protocol.{request}.to_sampling_params",),
        reason="what reaches the tokenizer manager no longer says which values the client sent, and which are defaults "
        "of the checkpoint or a grammar that SGLang made of the tools",
        upstream="the request, the checkpoint's defaults and the grammar of its tools become one dictionary",
        remove_when="a plugin can validate an OpenAI request",
    )


CHAT = _about("chat", "ChatCompletionRequest")
RESPONSES = _about("responses", "ResponsesRequest")


def patches(changes: Callable[[Any, bool], dict[str, Any] | None]) -> list[HookPatch]:
    """One patch for each kind of request.

    `changes(request, constrained)` returns the sampling parameters that become others, or None where the request stays
    as it is; `constrained` says whether SGLang has made a grammar of the request's tools, which is dropped with the
    changes. It raises ValueError for a request that cannot be honoured.
    """

    def convert(
        original: Callable[..., Any],
        self: Any,
        *arguments: Any,
        tool_call_constraint: Any = None,
        **keywords: Any,
    ) -> Any:
        changed = changes(self, tool_call_constraint is not None)
        kept = tool_call_constraint if changed is None else None
        parameters = original(self, *arguments, tool_call_constraint=kept, **keywords)
        return {
            **parameters,
            **{name: value for name, value in (changed or {}).items() if name in parameters},
        }

    def chat(*arguments: Any, **keywords: Any) -> Any:
        return convert(*arguments, **keywords)

    def responses(*arguments: Any, **keywords: Any) -> Any:
        return convert(*arguments, **keywords)

    return [around(CHAT, chat), around(RESPONSES, responses)]
