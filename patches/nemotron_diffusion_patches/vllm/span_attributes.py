"""`OutputProcessor.do_tracing`: what a request took goes into its OpenTelemetry span."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextvars import ContextVar
from typing import Any

from nemotron_diffusion_patches import Description, Patch

_MARK = "_nemotron_diffusion_span_attributes"
_added: ContextVar[Mapping[str, Any] | None] = ContextVar(_MARK, default=None)

ABOUT = Description(
    name="span-attributes",
    targets=(
        "vllm.v1.engine.output_processor.OutputProcessor.do_tracing",
        "vllm.v1.engine.output_processor.instrument_manual",
    ),
    reason="a request's span has a fixed list of attributes",
    upstream="do_tracing builds the attributes and the span in one function",
    remove_when="an output's own numbers become attributes of the span",
    process="API server",
)


def patch(key: str, attributes: Callable[[Mapping[str, Any]], Mapping[str, Any]]) -> Patch:
    """`attributes(counts)` are added to the span of a request whose output carries `kv_transfer_params[key]`."""

    def install() -> None:
        import vllm.v1.engine.output_processor as module

        begin_span, original = module.instrument_manual, module.OutputProcessor.do_tracing

        def instrument_manual(*arguments: Any, **keywords: Any) -> Any:
            added = _added.get()
            if added is not None:
                keywords["attributes"] = {**(keywords.get("attributes") or {}), **attributes(added)}
            return begin_span(*arguments, **keywords)

        def do_tracing(self: Any, engine_core_output: Any, *arguments: Any, **keywords: Any) -> None:
            token = _added.set((engine_core_output.kv_transfer_params or {}).get(key))
            try:
                original(self, engine_core_output, *arguments, **keywords)
            finally:
                _added.reset(token)

        module.instrument_manual = instrument_manual
        module.OutputProcessor.do_tracing = do_tracing
        setattr(module, _MARK, True)

    def is_applied() -> bool:
        import vllm.v1.engine.output_processor as module

        return bool(getattr(module, _MARK, False))

    return Patch(ABOUT, install, is_applied)
