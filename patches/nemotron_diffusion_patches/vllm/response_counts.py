"""`build_spec_decoding_metrics`: put the counts of a request that asked for them into its response."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from nemotron_diffusion_patches import Patch
from nemotron_diffusion_patches.vllm import SUPPORTED

_NAME = "build_spec_decoding_metrics"
_MARK = "_nemotron_diffusion_response_counts"
_ENDPOINTS = (
    "vllm.entrypoints.openai.chat_completion.serving",
    "vllm.entrypoints.openai.completion.serving",
)


def patch(key: str) -> Patch:
    """The scheduler puts the counts into `kv_transfer_params[key]`; the response gets them in its `metrics`."""

    def install() -> None:
        for name in _ENDPOINTS:
            module = importlib.import_module(name)
            if not getattr(getattr(module, _NAME), _MARK, False):
                setattr(module, _NAME, _with_counts(getattr(module, _NAME), key))

    def is_applied() -> bool:
        modules = [importlib.import_module(name) for name in _ENDPOINTS]
        return all(getattr(getattr(module, _NAME), _MARK, False) for module in modules)

    return Patch(
        name="response-counts",
        target=f"{_NAME} of {' and '.join(_ENDPOINTS)}",
        reason="an engine's output has no field for a plugin's own numbers; they travel in kv_transfer_params, the one "
        "dictionary that reaches the API server, and belong into the response's metrics",
        upstream="RequestSpecDecodeMetrics is a closed list of fields",
        supported=SUPPORTED,
        remove_when="a scheduler can add fields to a request's metrics",
        install=install,
        is_applied=is_applied,
    )


def _with_counts(original: Callable[[Any], Any], key: str) -> Callable[[Any], Any]:
    from vllm.entrypoints.generate.base.protocol import SpeculativeDecodingMetrics

    def build(final_output: Any) -> Any:
        metrics = original(final_output)
        carried = getattr(final_output, "kv_transfer_params", None)
        if not carried or key not in carried:
            return metrics
        counts = {key: carried.pop(key)}
        if not carried:
            final_output.kv_transfer_params = None
        engine = {} if metrics is None else metrics.model_dump(exclude_none=True)
        return SpeculativeDecodingMetrics.model_construct(**engine, **counts)

    setattr(build, _MARK, True)
    return build
