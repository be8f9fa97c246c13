"""`RequestOutput`, `build_spec_decoding_metrics`: counts of a request that asked for them go into its response."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from nemotron_diffusion_patches import Description, Patch

_NAME = "build_spec_decoding_metrics"
_MARK = "_nemotron_diffusion_response_counts"
_ENDPOINTS = (
    "vllm.entrypoints.openai.chat_completion.serving",
    "vllm.entrypoints.openai.completion.serving",
    "vllm.entrypoints.scale_out.token_in_token_out.serving",
)

ABOUT = Description(
    name="response-counts",
    targets=("vllm.outputs.RequestOutput.__init__", *(f"{module}.{_NAME}" for module in _ENDPOINTS)),
    reason="an engine's output has no field for a plugin's own numbers; they travel in kv_transfer_params, the one "
    "dictionary that reaches the API server, and belong into the response's metrics",
    upstream="RequestSpecDecodeMetrics is a closed list of fields",
    remove_when="a scheduler can add fields to a request's metrics",
    process="API server",
)


def patch(key: str) -> Patch:
    """The scheduler puts the counts into `kv_transfer_params[key]`.

    They are taken out of there, whatever the endpoint. A `RequestOutput` of the library has them as its attribute
    `key`, a response under `key` in its `metrics.speculative_decoding`.
    """

    def install() -> None:
        from vllm.outputs import RequestOutput

        if not getattr(RequestOutput, _MARK, False):
            _take_out(RequestOutput, key)
        for name in _ENDPOINTS:
            module = importlib.import_module(name)
            if not getattr(getattr(module, _NAME), _MARK, False):
                setattr(module, _NAME, _with_counts(getattr(module, _NAME), key))

    def is_applied() -> bool:
        from vllm.outputs import RequestOutput

        modules = [importlib.import_module(name) for name in _ENDPOINTS]
        wrapped = [RequestOutput, *(getattr(module, _NAME) for module in modules)]
        return all(getattr(one, _MARK, False) for one in wrapped)

    return Patch(ABOUT, install, is_applied)


def _take_out(output_class: Any, key: str) -> None:
    original = output_class.__init__

    def __init__(self: Any, *arguments: Any, **keywords: Any) -> None:
        original(self, *arguments, **keywords)
        carried = self.kv_transfer_params
        if carried and key in carried:
            setattr(self, key, carried[key])
            self.kv_transfer_params = {name: carried[name] for name in carried if name != key} or None

    output_class.__init__ = __init__
    setattr(output_class, _MARK, True)


def _with_counts(original: Callable[[Any], Any], key: str) -> Callable[[Any], Any]:
    from vllm.entrypoints.generate.base.protocol import SpeculativeDecodingMetrics

    def build(final_output: Any) -> Any:
        metrics = original(final_output)
        counts = getattr(final_output, key, None)
        if counts is None:
            return metrics
        engine = {} if metrics is None else metrics.model_dump(exclude_none=True)
        return SpeculativeDecodingMetrics.model_construct(**engine, **{key: counts})

    setattr(build, _MARK, True)
    return build
