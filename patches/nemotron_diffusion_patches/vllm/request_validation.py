"""`to_sampling_params` and its like of the OpenAI requests: validate before an answer has begun."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from nemotron_diffusion_patches import Description, Patch

_MARK = "_nemotron_diffusion_request_validation"

ABOUT = Description(
    name="request-validation",
    targets=tuple(
        f"vllm.entrypoints.{name}"
        for name in (
            "openai.chat_completion.protocol.ChatCompletionRequest.to_sampling_params",
            "openai.chat_completion.protocol.ChatCompletionRequest.to_beam_search_params",
            "openai.completion.protocol.CompletionRequest.to_sampling_params",
            "openai.completion.protocol.CompletionRequest.to_beam_search_params",
            "openai.responses.protocol.ResponsesRequest.to_sampling_params",
            "scale_out.token_in_token_out.serving.ServingTokens.serve_tokens",
        )
    ),
    reason="vLLM runs the admission check inside the stream, too late to answer a bad option with 400, "
    "and no longer knows then what the client asked for and what is the server's default; beam search drops options",
    upstream="InputProcessor validates when the generator of a streamed answer is first asked",
    remove_when="vLLM validates parameters before it answers a streaming request with 200",
    process="API server",
)


def patch(
    validate: Callable[[Any, Any], None],
    validate_tokens: Callable[[Any, Mapping[str, Any]], None],
    validate_beams: Callable[[Any], None],
) -> Patch:
    """Each raises ValueError for what cannot be honoured.

    Args:
        validate: called with an OpenAI request and the sampling parameters made of it.
        validate_tokens: called with the sampling parameters of a request to generate from tokens, and the defaults in
            force, which are none there.
        validate_beams: called with `vllm_xargs` of a request with beam search, whose parameters carry no options.
    """

    def install() -> None:
        for request in _requests():
            if not getattr(request, _MARK, False):
                _wrap_request(request, validate, validate_beams)
        serving = _serving_tokens()
        if not getattr(serving, _MARK, False):
            _wrap_serving(serving, validate_tokens)

    def is_applied() -> bool:
        return all(getattr(each, _MARK, False) for each in (*_requests(), _serving_tokens()))

    return Patch(ABOUT, install, is_applied)


def _wrap_request(
    request: Any, validate: Callable[[Any, Any], None], validate_beams: Callable[[Any], None]
) -> None:
    original = request.to_sampling_params

    def to_sampling_params(self: Any, *arguments: Any, **keywords: Any) -> Any:
        params = original(self, *arguments, **keywords)
        validate(self, params)
        return params

    request.to_sampling_params = to_sampling_params
    setattr(request, _MARK, True)
    beam_original = getattr(request, "to_beam_search_params", None)
    if beam_original is None:
        return

    def to_beam_search_params(self: Any, *arguments: Any, **keywords: Any) -> Any:
        validate_beams(self.vllm_xargs)
        return beam_original(self, *arguments, **keywords)

    request.to_beam_search_params = to_beam_search_params


def _wrap_serving(serving: Any, validate: Callable[[Any, Mapping[str, Any]], None]) -> None:
    original = serving.serve_tokens

    async def serve_tokens(self: Any, request: Any, *arguments: Any, **keywords: Any) -> Any:
        try:
            validate(request.sampling_params, {})
        except ValueError as error:
            return self.create_error_response(error)
        return await original(self, request, *arguments, **keywords)

    serving.serve_tokens = serve_tokens
    setattr(serving, _MARK, True)


def _requests() -> list[Any]:
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
    from vllm.entrypoints.openai.completion.protocol import CompletionRequest
    from vllm.entrypoints.openai.responses.protocol import ResponsesRequest

    return [ChatCompletionRequest, CompletionRequest, ResponsesRequest]


def _serving_tokens() -> Any:
    from vllm.entrypoints.scale_out.token_in_token_out.serving import ServingTokens

    return ServingTokens
