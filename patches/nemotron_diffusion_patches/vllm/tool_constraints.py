"""`DelegatingParser._apply_structural_tag`: a request can do without the grammar that vLLM makes of its tools."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nemotron_diffusion_patches import Description, Patch
from nemotron_diffusion_patches.vllm import around

ABOUT = Description(
    name="tool-constraints",
    targets=("vllm.parser.abstract_parser.DelegatingParser._apply_structural_tag",),
    reason="a block of diffusion takes no grammar, and with tool_choice auto nobody asked for one: the answer is "
    "parsed, and vLLM itself drops all calls but one where one was asked for",
    upstream="a grammar is made of a request's tools where a strict level or parallel_tool_calls calls for it, and "
    "replaces what the client sent",
    remove_when="a grammar that vLLM made can be told from one that the client sent",
    process="API server",
)


def patch(constrains: Callable[[Any], bool]) -> Patch:
    """`constrains(request)` says whether vLLM may make a grammar of an OpenAI request's tools."""

    def _apply_structural_tag(original: Callable[..., Any], self: Any, request: Any) -> Any:
        return original(self, request) if constrains(request) else request

    return around(ABOUT, _apply_structural_tag)
