"""The admission check: an option or a combination that cannot be honoured is answered with HTTP 400."""

from __future__ import annotations

import reprlib
from typing import Any

from nemotron_diffusion_plugin.model.spec import is_served
from nemotron_diffusion_plugin.options import MAX_STOP_IDS, DecodingMode, DecodingOptions, OptionError
from nemotron_diffusion_plugin.serving.refusals import (
    NEUTRAL,
    penalties_of,
    refuse_all_but_ar,
    refuse_constraints_in_diffusion,
    refuse_counts,
    refuse_in_diffusion,
    unasked,
)
from nemotron_diffusion_plugin.settings import ServerSettings
from nemotron_diffusion_plugin.sglang.identity import ALGORITHM
from nemotron_diffusion_plugin.sglang.parameters import (
    is_greedy,
    own_options,
    request_options,
    stop_token_ids,
)
from nemotron_diffusion_plugin.sglang.settings import served, settings_of

NEUTRAL_HERE = {**NEUTRAL, "top_k": -1}
_GRAMMARS = ("json_schema", "regex", "ebnf", "structural_tag")
_THINKING_BUDGET = "thinking_budget"
_REFUSED = ("custom_logit_processor", "return_hidden_states", "return_sampling_mask")

_GREEDY: dict[str, tuple[object, object]] = {"top_p": (1.0, 1.0), "min_p": (0.0, 0.0)}
"""What has no effect on a greedy answer passes."""

_LARGEST: dict[str, float] = {
    **dict.fromkeys(("top_k", "max_new_tokens", "min_new_tokens", "n"), 2**31 - 1),
    "sampling_seed": 2**63 - 1,
    **dict.fromkeys(
        ("temperature", "top_p", "min_p", "frequency_penalty", "presence_penalty", "repetition_penalty"), 3e38
    ),
}
"""The numbers of a request and what their tensors hold: 32 bits, of a seed 64."""


_settings: ServerSettings | None = None


def configure(settings: ServerSettings | None) -> None:
    """Tell this process's front end what the server was started with; None where the worker is not ours."""
    global _settings
    _settings = settings


def changes_in_diffusion(request: Any, constrained: bool) -> dict[str, Any] | None:
    """The sampling parameters of an OpenAI request that change in diffusion; None for a request in another mode.

    What has no meaning in diffusion and the client did not ask for becomes neutral. What it did ask for and diffusion
    cannot honour raises `OptionError`; `constrained` says whether SGLang has made a grammar of the request's tools.
    """
    if _settings is None:
        return None
    options = _settings.options(own_options(getattr(request, "custom_params", None)))
    if options.decoding_mode is not DecodingMode.DIFFUSION:
        return None
    refuse_constraints_in_diffusion(request, options, one_call=constrained)
    return {name: NEUTRAL_HERE[name] for name in unasked(request)}


def options_of(req: Any) -> DecodingOptions | None:
    """The options of an admitted request; None where the worker is not ours."""
    settings = served()
    return None if settings is None else request_options(settings, req)


def mode_of(req: Any) -> DecodingMode | None:
    """The decoding mode of an admitted request; None where the worker is not ours."""
    options = options_of(req)
    return None if options is None else options.decoding_mode


def problem(req: Any) -> str | None:
    """Why the scheduler refuses a request, None when it does not.

    Requests that come through SGLang's tokenizer manager were validated there; others have only this check.
    """
    settings = served()
    if settings is None:
        return None
    try:
        validate_request(req, request_options(settings, req), stop_token_ids(req))
    except OptionError as error:
        return str(error)
    return None


def validate_tokenized(tokenizer_manager: Any, given: Any, request: Any) -> None:
    """Raise `OptionError` (a ValueError, answered with 400) for a request that SGLang's front end has tokenized.

    `given` is the request as it came.
    """
    from sglang.srt.runtime_context import get_spec

    config = tokenizer_manager.model_config
    params = getattr(request, "sampling_params", None)
    if params is None or not is_served(config.hf_config):
        return
    settings = settings_of(config.hf_config)
    options = settings.options(own_options(params.custom_params))
    if get_spec().speculative_algorithm != ALGORITHM:
        refuse_counts(
            options,
            "this server was started with another speculative algorithm, which this plugin cannot count",
        )
        refuse_all_but_ar(options, settings.defaults, "speculative algorithm")
        return
    if options.decoding_mode is DecodingMode.DIFFUSION:
        _drop_preferences(params, tokenizer_manager.preferred_sampling_params, given.sampling_params)
    # The scheduler adds end-of-sequence ids, of which there are a few, and checks again.
    validate_request(request, options, list(params.stop_token_ids or ()))
    _refuse_empty_prompt(request)
    _refuse_unknown_ids(request, config.vocab_size)
    _refuse_embeddings_of_another_size(request, config.hidden_size)


def validate_request(req: Any, options: DecodingOptions, stops: list[int]) -> None:
    """Raise `OptionError` naming field, value and what is allowed."""
    params = req.sampling_params
    _refuse_oversized_numbers(params)
    if len(stops) > MAX_STOP_IDS:
        raise OptionError(
            f"field 'stop_token_ids': got {len(stops)} entries, expected at most {MAX_STOP_IDS}"
        )
    for name in _REFUSED:
        if getattr(req, name, None):
            raise OptionError(
                f"field '{name}': got a value, expected none: this model's server cannot honour it"
            )
    if params.n > 1 and params.sampling_seed is not None and not is_greedy(params):
        raise OptionError(
            f"field 'n': got {params.n} with a seed, expected 1: SGLang gives every choice the same seed, so all would "
            "be equal; send requests with seeds of their own"
        )
    if options.decoding_mode is DecodingMode.DIFFUSION:
        _refuse_meaningless_in_diffusion(params, options)
    _refuse_unkept_budget(params)


def _drop_preferences(params: Any, preferred: Any, asked: Any) -> None:
    """Make neutral what a server prefers, diffusion gives no meaning, and the client did not ask for."""
    from sglang.srt.sampling.sampling_params import TOP_K_ALL

    for name in NEUTRAL_HERE.keys() & (preferred or {}).keys() - (asked or {}).keys():
        if name != "top_k":
            setattr(params, name, NEUTRAL_HERE[name])
        elif not is_greedy(params):
            params.top_k = TOP_K_ALL


def _refuse_oversized_numbers(params: Any) -> None:
    """Raise `OptionError` for numbers that do not fit SGLang's tensors, which ends its scheduler."""
    for name, limit in _LARGEST.items():
        value = getattr(params, name, None)
        if value is not None and not -limit <= value <= limit:
            raise OptionError(
                f"field '{name}': got {reprlib.repr(value)}, expected a number from {-limit} to {limit}"
            )


def _refuse_unkept_budget(params: Any) -> None:
    """Raise `OptionError` for a thinking budget that SGLang would not keep: it does so by a grammar of its own."""
    from sglang.srt.runtime_context import get_serving

    budget = (params.custom_params or {}).get(_THINKING_BUDGET)
    if budget is not None and not get_serving().enable_strict_thinking:
        raise OptionError(
            f"field '{_THINKING_BUDGET}': got {reprlib.repr(budget)}, expected none: start the server with "
            "--reasoning-parser and --enable-strict-thinking"
        )


def _refuse_empty_prompt(request: Any) -> None:
    """Raise `OptionError` for a prompt without tokens, which ends SGLang's scheduler."""
    prompt = getattr(request, "input_ids", None)
    if prompt is not None and not len(prompt):
        raise OptionError("field 'prompt': got no tokens, expected at least one")


def _refuse_unknown_ids(request: Any, vocab_size: int) -> None:
    """Raise `OptionError` for what SGLang would look up past the vocabulary's end, which ends its scheduler."""
    named = {name: getattr(request, name, None) for name in ("input_ids", "token_ids_logprob")}
    for name, ids in {**named, "stop_token_ids": request.sampling_params.stop_token_ids}.items():
        ends = (0, 0) if ids is None else (min(ids, default=0), max(ids, default=0))
        outside = [one for one in ends if not 0 <= one < vocab_size]
        if outside:
            raise OptionError(
                f"field '{name}': got the id {outside[0]}, expected ids in 0 to {vocab_size - 1}"
            )
    wanted = request.top_logprobs_num or 0
    if wanted > vocab_size:
        raise OptionError(
            f"field 'top_logprobs_num': got {wanted}, expected at most {vocab_size}, the size of the vocabulary"
        )


def _refuse_embeddings_of_another_size(request: Any, hidden_size: int) -> None:
    """Raise `OptionError` for rows that are no embeddings of this model, which end SGLang's scheduler."""
    rows = getattr(request, "input_embeds", None) or ()
    wrong = next((row for row in rows if not isinstance(row, list) or len(row) != hidden_size), None)
    if wrong is not None:
        size = len(wrong) if isinstance(wrong, list) else reprlib.repr(wrong)
        raise OptionError(
            f"field 'input_embeds': got a row of {size}, expected rows of {hidden_size} numbers, the hidden size"
        )


def _refuse_meaningless_in_diffusion(params: Any, options: DecodingOptions) -> None:
    active: dict[str, tuple[object, object]] = {
        **penalties_of(params),
        **(_GREEDY if is_greedy(params) else {"top_k": (_as_given(params.top_k), -1)}),
        **{name: (getattr(params, name), None) for name in _GRAMMARS},
        _THINKING_BUDGET: ((params.custom_params or {}).get(_THINKING_BUDGET), None),
    }
    refuse_in_diffusion(active, options, constraints=_GRAMMARS)


def _as_given(top_k: int) -> int:
    """SGLang replaces -1, no limit, by a number above any vocabulary."""
    from sglang.srt.sampling.sampling_params import TOP_K_ALL

    return -1 if top_k == TOP_K_ALL else top_k
