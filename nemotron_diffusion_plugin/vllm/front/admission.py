"""The admission check: an option or a combination that cannot be honoured is answered with HTTP 400."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
from typing_extensions import override
from vllm.v1.worker.gpu.sample.logits_processor import LogitsProcessor

from nemotron_diffusion_plugin.options import (
    OPTION_NAMES,
    DecodingMode,
    DecodingOptions,
    OptionError,
    is_misspelt,
    unknown_option,
)
from nemotron_diffusion_plugin.serving.overrides import checked_overrides
from nemotron_diffusion_plugin.serving.refusals import (
    NEUTRAL,
    penalties_of,
    refuse_all_but_ar,
    refuse_constraints_in_diffusion,
    refuse_counts,
    refuse_in_diffusion,
    refuse_processors_in_diffusion,
    unasked,
)
from nemotron_diffusion_plugin.settings import ServerSettings
from nemotron_diffusion_plugin.vllm.settings import ENGINE_KEYS, own_options, request_options

if TYPE_CHECKING:
    from vllm.sampling_params import SamplingParams

ADMISSION_PATH = f"{__name__}:Admission"

NEUTRAL_HERE = {**NEUTRAL, "top_k": 0}

_settings: ServerSettings | None = None
_only_ar = False
_processors: Sequence[str] = ()
_defaults: Mapping[str, Any] = {}


def configure(
    settings: ServerSettings,
    only_ar: bool,
    processors: Sequence[str] = (),
    defaults: Mapping[str, Any] | None = None,
) -> None:
    """Tell this process's admission check what the server was started with.

    Args:
        settings: the server's.
        only_ar: whether it runs another speculator (or none), so that the other modes do not exist.
        processors: the names of the user's logits processors.
        defaults: the sampling parameters that a request has which names none, by name.
    """
    global _settings, _only_ar, _processors, _defaults
    _settings, _only_ar, _processors, _defaults = settings, only_ar, processors, defaults or {}


def validate_request(sampling_params: SamplingParams, defaults: Mapping[str, Any] | None = None) -> None:
    """Raise `OptionError` for a request that this process's server cannot honour.

    In diffusion a parameter without a meaning there is made neutral where it is the server's default, which nobody
    asked for; `defaults` are those in force, the server's by default.
    """
    options = _options(sampling_params)
    if options is None:
        return
    if _is_diffusion(options):
        in_force = _defaults if defaults is None else defaults
        _make_neutral(
            sampling_params, [name for name in in_force if in_force[name] == getattr(sampling_params, name)]
        )
    _validate(sampling_params, options)


def validate_openai_request(request: Any, sampling_params: SamplingParams) -> None:
    """Raise `OptionError` as `validate_request` does, with the client's own request beside what vLLM makes of it.

    It tells what the client asked for from what the server has by default.
    """
    options = _options(sampling_params)
    if options is None:
        return
    if _is_diffusion(options):
        refuse_constraints_in_diffusion(request, options)
        _make_neutral(sampling_params, unasked(request))
    _validate(sampling_params, options)


def constrains_tool_calls(request: Any) -> bool:
    """Whether an OpenAI request's tool calls may be constrained by a grammar, as vLLM would do it by itself."""
    return _settings is None or request.tool_choice != "auto" or not _is_diffusion(_read(request.vllm_xargs))


def validate_beam_search(vllm_xargs: Any) -> None:
    """Raise `OptionError` for options that beam search, which asks for one token at a time, cannot honour."""
    if _settings is None:
        return
    options = _read(vllm_xargs)
    refuse_counts(options, "beam search asks for one token at a time")
    if _is_diffusion(options):
        refuse_in_diffusion({"use_beam_search": (True, False)}, options)


def _options(sampling_params: SamplingParams) -> DecodingOptions | None:
    """The options of a request; None where no server of ours was configured."""
    if _settings is None:
        return None
    _refuse_unknown_names(sampling_params.extra_args)
    return request_options(_settings, sampling_params)


def _read(vllm_xargs: Any) -> DecodingOptions:
    """The options of a request that has no sampling parameters yet."""
    assert _settings is not None
    _refuse_unknown_names(vllm_xargs)
    return _settings.options(own_options(vllm_xargs))


def _is_diffusion(options: DecodingOptions) -> bool:
    return options.decoding_mode is DecodingMode.DIFFUSION and not _only_ar


def _make_neutral(params: SamplingParams, names: Sequence[str]) -> None:
    for name in names:
        if name in NEUTRAL_HERE:
            setattr(params, name, NEUTRAL_HERE[name])


def _validate(params: SamplingParams, options: DecodingOptions) -> None:
    assert _settings is not None
    refuse_oversized(params)
    _refuse_unsendable(params)
    _refuse_counts_without_a_place(params, options)
    if _only_ar:
        refuse_all_but_ar(options, _settings.defaults, "speculator")
    elif _is_diffusion(options):
        refuse_processors_in_diffusion(_processors, options)
        refuse_meaningless_in_diffusion(params, options)


def _refuse_unknown_names(vllm_xargs: Any) -> None:
    """Raise `OptionError` for a name that nobody reads: beside processors of the user's, which may, a misspelt one."""
    for name in vllm_xargs or ():
        known = name in OPTION_NAMES or name in ENGINE_KEYS
        if not known and (not _processors or is_misspelt(name)):
            raise unknown_option(name)


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


def _refuse_unsendable(params: Any) -> None:
    """Raise `OptionError` for numbers and texts that vLLM cannot send to its engine, which it answers with 500."""
    for name in params.__struct_fields__:
        value = getattr(params, name)
        try:
            msgspec.msgpack.encode(value)
        except (OverflowError, UnicodeEncodeError):
            where = f"{name}.json" if isinstance(getattr(value, "json", None), dict) else name
            raise OptionError(
                f"field '{where}': got an integer of more than 64 bits or text that is no Unicode, expected neither"
            ) from None
        except TypeError:  # objects that never leave this process
            continue


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
