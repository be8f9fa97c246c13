"""`to_sampling_params` and its like of the OpenAI requests: validate before an answer has begun."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nemotron_diffusion_patches import Description, Patch

_MARK = "_nemotron_diffusion_request_validation"

ABOUT = Description(
    name="request-validation",
    targets=tuple(
        f"vllm.entrypoints.openai.{name}"
        for name in (
            "chat_completion.protocol.ChatCompletionRequest.to_sampling_params",
            "chat_completion.protocol.ChatCompletionRequest.to_beam_search_params",
            "completion.protocol.CompletionRequest.to_sampling_params",
            "completion.protocol.CompletionRequest.to_beam_search_params",
            "responses.protocol.ResponsesRequest.to_sampling_params",
        )
    ),
    reason="vLLM runs the admission check inside the stream, too late to answer a bad option with 400, "
    "and beam search drops options",
    upstream="InputProcessor validates when the generator of a streamed answer is first asked",
    remove_when="vLLM validates parameters before it answers a streaming request with 200",
    process="API server",
)


def patch(validate: Callable[[Any], None], validate_beams: Callable[[Any], None]) -> Patch:
    """`validate(sampling_params)` raises ValueError for parameters that cannot be honoured.

    `validate_beams(vllm_xargs)` does the same for a request with beam search, whose parameters carry no options.
    """

    def install() -> None:
        for request in _requests():
            if getattr(request, _MARK, False):
                continue
            original = request.to_sampling_params

            def to_sampling_params(
                self: Any, *arguments: Any, _original: Any = original, **keywords: Any
            ) -> Any:
                params = _original(self, *arguments, **keywords)
                validate(params)
                return params

            request.to_sampling_params = to_sampling_params
            setattr(request, _MARK, True)
            beam_original = getattr(request, "to_beam_search_params", None)
            if beam_original is None:
                continue

            def to_beam_search_params(
                self: Any, *arguments: Any, _original: Any = beam_original, **keywords: Any
            ) -> Any:
                validate_beams(self.vllm_xargs)
                return _original(self, *arguments, **keywords)

            request.to_beam_search_params = to_beam_search_params

    def is_applied() -> bool:
        return all(getattr(request, _MARK, False) for request in _requests())

    return Patch(ABOUT, install, is_applied)


def _requests() -> list[Any]:
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
    from vllm.entrypoints.openai.completion.protocol import CompletionRequest
    from vllm.entrypoints.openai.responses.protocol import ResponsesRequest

    return [ChatCompletionRequest, CompletionRequest, ResponsesRequest]
