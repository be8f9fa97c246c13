"""The admission check: an option or a combination that cannot be honoured is answered with HTTP 400."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
from typing_extensions import override
from vllm.v1.worker.gpu.sample.logits_processor import LogitsProcessor

from nemotron_diffusion_plugin.options import DecodingMode, DecodingOptions, OptionError
from nemotron_diffusion_plugin.serving.overrides import checked_overrides
from nemotron_diffusion_plugin.serving.refusals import (
    penalties_of,
    refuse_all_but_ar,
    refuse_counts,
    refuse_in_diffusion,
)
from nemotron_diffusion_plugin.settings import ServerSettings
from nemotron_diffusion_plugin.vllm.settings import request_options

if TYPE_CHECKING:
    from vllm.sampling_params import SamplingParams

ADMISSION_PATH = f"{__name__}:Admission"

_settings: ServerSettings | None = None
_only_ar = False


def configure(settings: ServerSettings, only_ar: bool) -> None:
    """Tell this process's admission check what the server was started with.

    `only_ar`: the server runs another speculator (or none), so that the other two modes do not exist.
    """
    global _settings, _only_ar
    _settings, _only_ar = settings, only_ar


def validate_request(sampling_params: SamplingParams) -> None:
    """Raise `OptionError` for a request that this process's server cannot honour."""
    if _settings is None:
        return
    options = request_options(_settings, sampling_params)
    refuse_oversized(sampling_params)
    _refuse_unsendable_schema(sampling_params)
    _refuse_counts_without_a_place(sampling_params, options)
    if _only_ar:
        refuse_all_but_ar(options, _settings.defaults, "speculator")
    elif options.decoding_mode is DecodingMode.DIFFUSION:
        refuse_meaningless_in_diffusion(sampling_params, options)


def validate_beam_search(vllm_xargs: Any) -> None:
    """Raise `OptionError` for options that beam search, which asks for one token at a time, cannot honour."""
    if _settings is None:
        return
    options = _settings.options(vllm_xargs or {})
    refuse_counts(options, "beam search asks for one token at a time")
    if options.decoding_mode is DecodingMode.DIFFUSION and not _only_ar:
        refuse_in_diffusion({"use_beam_search": (True, False)}, options)


def _refuse_counts_without_a_place(params: Any, options: DecodingOptions) -> None:
    if _only_ar:
        refuse_counts(
            options, "this server was started with another speculator, which this plugin cannot count"
        )
    if params.n > 1:
        refuse_counts(options, "vLLM reports on requests for one answer (n = 1) only")
    if params.stop:
        refuse_counts(options, "vLLM finds stop strings outside its engine, which reports nothing then")


@checked_overrides
class Admission(LogitsProcessor):
    """Validates requests in the API server; it never touches logits."""

    @classmethod
    @override
    def validate_params(cls, sampling_params: SamplingParams) -> None:
        """Raise `OptionError` (a ValueError, answered with 400) naming field, value and what is allowed."""
        validate_request(sampling_params)

    @override
    def add_request(self, req_idx: int, sampling_params: SamplingParams) -> bool:
        """No request needs its logits processed."""
        return False

    @override
    def apply(self, logits: Any, ctx: Any) -> Any:
        """Return the logits as they are."""
        return logits


def refuse_oversized(params: Any) -> None:
    """Raise `OptionError` for lists longer than the worker's tables, which vLLM checks too late or not at all."""
    from vllm import envs
    from vllm.v1.worker.gpu.sample import logit_bias

    bad_words = params.bad_words_token_ids or []
    sizes = {
        "stop_token_ids": (len(params.all_stop_token_ids), logit_bias.MAX_NUM_STOP_TOKEN_IDS),
        "allowed_token_ids": (len(params.allowed_token_ids or ()), logit_bias.MAX_NUM_ALLOWED_TOKEN_IDS),
        "logit_bias": (len(params.logit_bias or ()), logit_bias.MAX_NUM_LOGIT_BIAS_TOKENS),
        "bad_words": (len(bad_words), envs.VLLM_MAX_NUM_BAD_WORDS),
        "bad_words, in tokens": (sum(map(len, bad_words)), envs.VLLM_MAX_BAD_WORDS_TOTAL_TOKENS),
    }
    for name, (size, limit) in sizes.items():
        if size > limit:
            raise OptionError(f"field '{name}': got {size} entries, expected at most {limit}")


def _refuse_unsendable_schema(params: Any) -> None:
    """Raise `OptionError` for a JSON schema that vLLM cannot send to its engine, which it answers with 500."""
    schema = getattr(params.structured_outputs, "json", None)
    if not isinstance(schema, dict):
        return
    try:
        msgspec.msgpack.encode(schema)
    except (OverflowError, UnicodeEncodeError):
        raise OptionError(
            "field 'structured_outputs.json': got a schema with an integer of more than 64 bits or text that is no "
            "Unicode, expected neither"
        ) from None


def refuse_meaningless_in_diffusion(params: Any, options: DecodingOptions) -> None:
    """Raise `OptionError` for sampling parameters that block diffusion cannot honour."""
    active = {
        **penalties_of(params),
        "top_k": (params.top_k if params.top_k > 0 else 0, 0),
        "allowed_token_ids": (params.allowed_token_ids or None, None),
        "bad_words": (params.bad_words or None, None),
        "structured_outputs": (params.structured_outputs, None),
        "thinking_token_budget": (getattr(params, "thinking_token_budget", None), None),
    }
    refuse_in_diffusion(active, options, constraints=("structured_outputs",))
