"""`TokenizerManager._create_tokenized_object`: validate before a streamed answer has begun."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nemotron_diffusion_patches import Description
from nemotron_diffusion_patches.sglang import HookPatch, around

ABOUT = Description(
    name="request-validation",
    targets=("sglang.srt.managers.tokenizer_manager.TokenizerManager._create_tokenized_object",),
    reason="what the scheduler refuses reaches the client of a streaming request after status 200",
    upstream="SGLang's own parameters are validated here, a plugin's are not",
    remove_when="a speculative algorithm can validate requests",
)


def patch(validate: Callable[[Any, Any, Any], None]) -> HookPatch:
    """`validate(tokenizer_manager, given, request)` raises ValueError for a request that cannot be honoured.

    `given` is the request as it came, `request` what SGLang has made of it.
    """

    def _create_tokenized_object(
        original: Callable[..., Any], self: Any, given: Any, *arguments: Any, **keywords: Any
    ) -> Any:
        request = original(self, given, *arguments, **keywords)
        validate(self, given, request)
        return request

    return around(ABOUT, _create_tokenized_object)
