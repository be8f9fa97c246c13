"""Reads the sampling parameters of SGLang's requests; every process does."""

from __future__ import annotations

from typing import Any

from nemotron_diffusion_plugin.options import DecodingOptions
from nemotron_diffusion_plugin.settings import ServerSettings

_OPTIONS = "_nemotron_diffusion_options"


def request_options(settings: ServerSettings, req: Any) -> DecodingOptions:
    """Return the options of a request: its `custom_params` over the server's defaults.

    They are read once in a process and kept on SGLang's own request. Raises `OptionError`; a request that passed
    admission never does.
    """
    options: DecodingOptions | None = getattr(req, _OPTIONS, None)
    if options is None:
        options = settings.options(own_options(req.sampling_params.custom_params))
        setattr(req, _OPTIONS, options)
    return options


def own_options(custom_params: Any) -> Any:
    """The decoding options among a request's `custom_params`; SGLang adds names of its own, which it handles."""
    if not isinstance(custom_params, dict):
        return custom_params
    return {name: value for name, value in custom_params.items() if name not in _engine_keys()}


def _engine_keys() -> frozenset[str]:
    from sglang.srt.sampling import sampling_params

    return frozenset(
        {
            "thinking_budget",
            "__req__",
            sampling_params.REQUEST_REASONING_END_TOKEN_IDS_KEY,
            sampling_params.REQUEST_REASONING_IN_GRAMMAR_KEY,
        }
    )


def is_greedy(params: Any) -> bool:
    """Whether a request takes the most likely token; SGLang turns temperature 0 into top_k 1."""
    return bool(params.top_k <= 1)


def stop_token_ids(req: Any) -> list[int]:
    """The ids that end a request, as SGLang's scheduler checks them: none with ignore_eos."""
    params = req.sampling_params
    if params.ignore_eos:
        return []
    ids = set(params.stop_token_ids or ()) | set(req.eos_token_ids or ())
    if req.tokenizer is not None:
        ids.add(req.tokenizer.eos_token_id)
        ids |= set(req.tokenizer.additional_stop_token_ids or ())
    return sorted(ids - {None})
