"""`TokenizerManager.convert_to_span_attrs`: what a request took goes into its OpenTelemetry span."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from nemotron_diffusion_patches import Description
from nemotron_diffusion_patches.sglang import HookPatch, around

ABOUT = Description(
    name="span-attributes",
    targets=("sglang.srt.managers.tokenizer_manager.TokenizerManager.convert_to_span_attrs",),
    reason="a request's span has a fixed list of attributes",
    upstream="the attributes are built in one function",
    remove_when="additions to meta_info become attributes of the span",
)


def patch(key: str, attributes: Callable[[Mapping[str, Any]], Mapping[str, Any]]) -> HookPatch:
    """`attributes(counts)` are added to the span of a request whose additions to `meta_info` hold `key`."""

    def convert_to_span_attrs(
        original: Callable[..., dict[str, Any]], self: Any, state: Any, recv_obj: Any, i: int
    ) -> dict[str, Any]:
        from sglang.srt.managers.io_struct import unwrap_from_pickle

        span = original(self, state, recv_obj, i)
        added = (unwrap_from_pickle(getattr(recv_obj, "customized_info", None)) or {}).get(key)
        return {**span, **attributes(added[i][0])} if span and added and added[i] else span

    return around(ABOUT, convert_to_span_attrs)
